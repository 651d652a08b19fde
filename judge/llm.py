"""A judge that is a language model: template, constraint, exact scores, calibration, verdict.

Knows how a (prompt, response) pair becomes a scored set of answers. It does not know how the
engine evaluates them.
"""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any

from evenhand.engine import futures, open_engine
from evenhand.engine.base import Completion, Engine, Scores
from evenhand.engine.prompt import Message, Prompt, Segment
from evenhand.judge.base import BaseJudge
from evenhand.judge.cache import VerdictCache
from evenhand.judge.calibration import IDENTITY, Calibration
from evenhand.prompts import Template, Words, load
from evenhand.schemas.errors import ConstraintError, EvenhandError, RetryableError, SettingsError
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.generation import Sampling
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Failure, Status, Verdict

REASON_TOKENS = 96
NEAR_TIE = 1e-3
MASS_FLOOR = 0.01


class Judge(BaseJudge):
    """Label responses with a language model.

    `model` is a reference (`bundled:judge`, a path, `hf:OWNER/REPO:FILE`), which the judge loads and
    closes, or an engine that is already open, which it shares unless `owns_engine` says otherwise.

    `template` names a judge template; left out, the model file says which it was trained with, and
    any other model gets `instruct`. `abstain_below` is the least probability of the best label, and
    `mass_floor` the least in-taxonomy mass, under which the judge abstains. `reason_tokens` caps
    the optional reason.
    """

    def __init__(
        self,
        model: str | Engine,
        taxonomy: str | Taxonomy = "qos",
        *,
        template: str | Template | None = None,
        calibration: Calibration = IDENTITY,
        abstain_below: float = 0.0,
        mass_floor: float = MASS_FLOOR,
        reason_tokens: int = REASON_TOKENS,
        cache: VerdictCache | None = None,
        owns_engine: bool | None = None,
    ):
        self._owns_engine = isinstance(model, str) if owns_engine is None else owns_engine
        engine = open_engine(model) if isinstance(model, str) else model
        super().__init__(engine.info.name, taxonomy, model_sha256=engine.info.sha256)
        trained_for = engine.info.metadata.get("evenhand.judge.taxonomy")
        if trained_for is not None and trained_for != self.taxonomy.name:
            raise SettingsError(
                f"{engine.info.name} was trained for the taxonomy {trained_for!r} alone",
                hint=f"Use taxonomy {trained_for!r}, or a larger instruct model as the judge.",
            )
        self._engine = engine
        named = template or engine.info.metadata.get("evenhand.judge.template") or "instruct"
        self.template = named if isinstance(named, Template) else load("judge", named)
        self._calibration = calibration
        self._abstain_below = abstain_below
        self._mass_floor = mass_floor
        self._reason_tokens = reason_tokens
        self._cache = cache
        self._answers = self.taxonomy.answers()
        self._schema = self.taxonomy.json_schema()
        self._reasoned_schema = self.taxonomy.json_schema(reason=True)
        self._fingerprint = fingerprint_of(
            model=engine.info.sha256,
            engine=dict(engine.info.settings),
            template=self.template.sha256,
            taxonomy=self.taxonomy.digest_text(),
            schema=self._schema,
            calibration=calibration.digest_text(),
            abstain_below=abstain_below,
            mass_floor=mass_floor,
            reason_tokens=reason_tokens,
            outlines=version("outlines-core"),
            evenhand=version("evenhand"),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of model, template, taxonomy, schema, decoding, engine settings and versions."""
        return self._fingerprint

    def submit(
        self, prompt: str, response: str, *, reason: bool = False, deadline: float | None = None
    ) -> Future[Verdict]:
        """See `BaseJudge.submit`."""
        started = time.monotonic()
        key = (self._fingerprint, prompt, response, reason)
        if self._cache is not None and (hit := self._cache.get(key)) is not None:
            return futures.done(hit)
        notes: list[str] = []

        def finish(scores: Scores, written: str | None = None) -> Verdict:
            verdict = self._verdict(scores, written, notes, time.monotonic() - started)
            if self._cache is not None:
                self._cache.put(key, verdict)
            return verdict

        def rescue(error: BaseException) -> Verdict:
            return self.failed(error, seconds=time.monotonic() - started)

        try:
            encoded = self._encode(prompt, response, reason, notes)
            if reason:
                return futures.then(
                    self._write_reason(encoded, deadline),
                    lambda text: futures.then(
                        self._score(encoded, text, deadline), lambda s: finish(s, text)
                    ),
                    rescue=rescue,
                )
            return futures.then(self._score(encoded, None, deadline), finish, rescue=rescue)
        except RetryableError:
            raise
        except EvenhandError as exc:
            return futures.done(rescue(exc))

    def close(self) -> None:
        """Close the engine, if the judge owns it."""
        if self._owns_engine:
            self._engine.close()

    # -- the steps, in order ------------------------------------------------------------------------

    def _encode(self, prompt: str, response: str, reason: bool, notes: list[str]) -> Prompt:
        template = self.template
        blocks = template.render(
            untrusted={"prompt": prompt, "response": response},
            taxonomy=self.taxonomy,
            reason=reason,
        )
        cut = template.overflow == "middle"
        if template.format == "raw":
            segments: tuple[Segment, ...] = _segments(blocks["text"], control=True, cut=cut)
        else:
            segments = self._engine.chat(
                [
                    Message(role, _segments(words, control=False, cut=cut))
                    for role, words in blocks.items()
                ]
            )
        longest = max(len(answer.encode()) for answer in self._answers.values())
        encoded = self._engine.encode(
            segments, reserve=longest + (2 * self._reason_tokens if reason else 0)
        )
        forged = encoded.neutralised + sum(
            w.neutralised for words in blocks.values() for w in words
        )
        if forged:
            notes.append(f"delimiters_neutralised:{forged}")
        if encoded.omitted:
            notes.append(f"cut_in_the_middle:{encoded.omitted}_tokens")
        return encoded

    def _write_reason(self, encoded: Prompt, deadline: float | None) -> Future[str]:
        """Decode a reason greedily under the answer's own grammar, and stop where its string ends."""
        completion = self._engine.generate(
            encoded,
            Sampling(temperature=0, max_tokens=self._reason_tokens, seed=0),
            schema=self._reasoned_schema,
            until=lambda text: _reason_in(text)[1],
            deadline=deadline,
        )

        def read(completions: list[Completion]) -> str:
            reason, _closed = _reason_in(completions[0].text)
            if reason is None:
                raise ConstraintError(
                    f"the constraint let through {completions[0].text[:80]!r} for a reason"
                )
            return reason

        return futures.then(completion, read)

    def _score(self, encoded: Prompt, reason: str | None, deadline: float | None) -> Future[Scores]:
        if reason is None:
            answers, schema = list(self._answers.values()), self._schema
        else:
            make = self.taxonomy.reasoned_model
            answers = [
                make.model_validate({"reason": reason, "label": label}).model_dump_json()
                for label in self._answers
            ]
            schema = self._reasoned_schema
        return self._engine.score(encoded, answers, schema, deadline=deadline)

    def _verdict(
        self, scores: Scores, reason: str | None, notes: list[str], seconds: float
    ) -> Verdict:
        if not all(math.isfinite(p) or p == -math.inf for p in scores.log_probs) or not any(
            math.isfinite(p) for p in scores.log_probs
        ):
            raise ConstraintError("the model gave no finite probability to any answer")
        labels = list(self._answers)
        log_probs = dict(zip(labels, scores.log_probs, strict=True))
        mass = min(1.0, math.fsum(math.exp(p) for p in scores.log_probs))
        probabilities = self._calibration.apply(log_probs)
        best = max(labels, key=lambda label: probabilities[label])
        notes = list(notes)
        ranked = sorted(probabilities.values(), reverse=True)
        if ranked[0] - ranked[1] < NEAR_TIE:
            notes.append("near_tie")
        if labels[scores.greedy] != max(labels, key=lambda label: log_probs[label]):
            notes.append(f"greedy_path_differs:{labels[scores.greedy]}")
        common: dict[str, Any] = {
            "probabilities": probabilities,
            "mass": mass,
            "seconds": seconds,
            "notes": notes,
        }
        if mass < self._mass_floor:
            return self._abstained(
                "low_mass",
                f"the labels hold {mass:.2g} of the model's probability, "
                f"less than {self._mass_floor:.2g}",
                "Use a judge template or a model that answers in the taxonomy's terms.",
                common,
            )
        if probabilities[best] < self._abstain_below:
            return self._abstained(
                "low_confidence",
                f"the best label has probability {probabilities[best]:.3f}, "
                f"less than {self._abstain_below:.3f}",
                "Have a person look at it, or lower abstain_below.",
                common,
            )
        answer = {"label": best} if reason is None else {"reason": reason, "label": best}
        return self._judged(json.dumps(answer, ensure_ascii=False), **common)

    def _abstained(self, code: str, message: str, hint: str, common: dict[str, Any]) -> Verdict:
        failure = Failure(code=code, message=message, hint=hint)
        return self._unjudged(Status.ABSTAINED, failure, **common)


def _segments(words: tuple[Words, ...], *, control: bool, cut: bool) -> tuple[Segment, ...]:
    """A template's words, constant and (in a raw template) control text; slots are plain text."""
    return tuple(
        Segment(w.text, control=control, constant=True)
        if w.slot is None
        else Segment(w.text, cut=cut)
        for w in words
    )


def _reason_in(text: str) -> tuple[str | None, bool]:
    """The reason in an unfinished `{"reason":"...` and whether its string is closed.

    A string cut short by the token cap counts as far as it is whole: a dangling escape is dropped.
    """
    head = '{"reason":"'
    if not text.startswith(head):
        return None, False
    body = text[len(head) :]
    escaped = False
    for i, character in enumerate(body):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            return json.loads(f'"{body[:i]}"'), True
    for end in range(len(body), max(-1, len(body) - 7), -1):
        try:
            return json.loads(f'"{body[:end]}"'), False
        except json.JSONDecodeError:
            continue
    return None, False
