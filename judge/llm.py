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
from pathlib import Path
from typing import Any, TypeVar

from evenhand.engine import futures, open_engine
from evenhand.engine.base import Completion, Engine, Scores
from evenhand.engine.prompt import Message, Prompt, Segment
from evenhand.judge.base import BaseJudge, check_texts
from evenhand.judge.cache import VerdictCache
from evenhand.judge.calibration import IDENTITY, Calibration
from evenhand.judge.policy import Policy
from evenhand.judge.reason import reason_in
from evenhand.prompts import Template, Words, load
from evenhand.schemas.errors import (
    ConstraintError,
    QueueFull,
    SettingsError,
    Unavailable,
)
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.generation import Sampling
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Status, Verdict

T = TypeVar("T")

REASON_TOKENS = 96
LEAST_REASON_TOKENS = 16  # room for `{"reason":"` in any vocabulary, and for a word
NEAR_TIE = 1e-3
MASS_FLOOR = 0.01


class Judge(BaseJudge):
    """Label responses with a language model.

    `model` is a reference (`bundled:judge`, a path, `hf:OWNER/REPO:FILE`), which the judge loads
    and closes, or an engine that is already open, which it shares unless `owns_engine` says
    otherwise.

    `template` names a judge template; left out, the model file says which it was trained with, and
    any other model gets `instruct`. `abstain_below` is the least probability of the best label, and
    `mass_floor` the least in-taxonomy mass, under which the judge abstains. `reason_tokens` caps
    the optional reason. `calibration` left out is the one that the model file carries, which was
    fitted with the file's own template, or none.
    """

    def __init__(
        self,
        model: str | Engine,
        taxonomy: str | Path | Taxonomy = "qos",
        *,
        template: str | Template | None = None,
        calibration: Calibration | None = None,
        abstain_below: float = 0.0,
        mass_floor: float = MASS_FLOOR,
        reason_tokens: int = REASON_TOKENS,
        cache: VerdictCache | None = None,
        owns_engine: bool | None = None,
    ):
        # Whatever can be wrong without the model is found before it is loaded.
        taxonomy = Taxonomy.load(taxonomy)
        if calibration is not None:
            calibration.check(taxonomy.labels)
        self._policy = Policy(abstain_below, mass_floor)
        if reason_tokens < LEAST_REASON_TOKENS:
            raise SettingsError(
                f"reason_tokens is {reason_tokens}", hint=f"Allow at least {LEAST_REASON_TOKENS}."
            )
        if template is not None and not isinstance(template, Template):
            template = load("judge", template)
        self._owns_engine = isinstance(model, str) if owns_engine is None else owns_engine
        engine = open_engine(model) if isinstance(model, str) else model
        self._engine = engine
        try:
            _check_trained_for(engine, taxonomy)
            self.template = template or load(
                "judge", engine.info.metadata.get("evenhand.judge.template") or "instruct"
            )
            if calibration is None:
                calibration = _own_calibration(engine, taxonomy, self.template)
        except BaseException:
            if isinstance(model, str):
                engine.close()
            raise
        super().__init__(engine.info.name, taxonomy, model_sha256=engine.info.sha256)
        self.calibration: Calibration = calibration
        self.description = engine.info.description or None
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
        notes: list[str] = []

        def finish(scores: Scores, written: str | None = None) -> Verdict:
            verdict = self._verdict(scores, written, notes, time.monotonic() - started)
            if self._cache is not None:
                self._cache.put(key, verdict)
            return verdict

        def rescue(error: BaseException) -> Verdict:
            return self.failed(error, seconds=time.monotonic() - started, notes=notes)

        try:
            check_texts(prompt, response)
            if self._cache is not None and (hit := self._cache.get(key)) is not None:
                return futures.done(hit)
            encoded = self._encode(prompt, response, reason, notes)
            if reason:
                return futures.then(
                    self._write_reason(encoded, deadline),
                    lambda text: futures.then(
                        self._score(encoded, text, deadline),
                        lambda scores: finish(scores, text),
                    ),
                    rescue=rescue,
                )
            return futures.then(self._score(encoded, None, deadline), finish, rescue=rescue)
        except (QueueFull, Unavailable):
            raise
        except Exception as exc:
            return futures.done(rescue(exc))

    def decoding(self) -> dict[str, Any]:
        """See `BaseJudge.decoding`."""
        return {
            "method": "every answer that the grammar allows is scored whole; nothing is sampled",
            "abstain_below": self._policy.abstain_below,
            "mass_floor": self._policy.mass_floor,
            "reason_tokens": self._reason_tokens,
            **self._engine.info.settings,
            "outlines_core": version("outlines-core"),
            "evenhand": version("evenhand"),
        }

    def prompt_tokens(self, prompt: str, response: str) -> int | None:
        """See `BaseJudge.prompt_tokens`."""
        return len(self._encode(prompt, response, False, []))

    def close(self) -> None:
        """Close the engine, if the judge owns it."""
        if self._owns_engine:
            self._engine.close()

    # -- the steps, in order -----------------------------------------------------------------------

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
        pieces = [w for words in blocks.values() for w in words]
        if forged := encoded.neutralised + sum(w.neutralised for w in pieces):
            notes.append(f"delimiters_neutralised:{forged}")
        if hidden := sum(w.hidden for w in pieces):
            notes.append(f"names_hidden:{hidden}")
        if encoded.omitted:
            notes.append(f"cut_in_the_middle:{encoded.omitted}_tokens")
        return encoded

    def _write_reason(self, encoded: Prompt, deadline: float | None) -> Future[str]:
        """Decode a reason greedily under the answer's own grammar, up to the end of its string."""
        completion = self._engine.generate(
            encoded,
            Sampling(temperature=0, max_tokens=self._reason_tokens, seed=0),
            schema=self._reasoned_schema,
            until=lambda text: reason_in(text)[1],
            deadline=deadline,
        )

        def read(completions: list[Completion]) -> str:
            reason, _closed = reason_in(completions[0].text)
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
        return self._engine.score(
            encoded, answers, schema, deadline=deadline, admitted=reason is not None
        )

    def _verdict(
        self, scores: Scores, reason: str | None, notes: list[str], seconds: float
    ) -> Verdict:
        labels = list(self._answers)
        _check_scores(scores, len(labels))
        log_probs = dict(zip(labels, scores.log_probs, strict=True))
        mass = min(1.0, math.fsum(math.exp(p) for p in scores.log_probs))
        probabilities = self.calibration.apply(log_probs)
        best = max(labels, key=lambda label: probabilities[label])
        notes = list(notes)
        ranked = sorted(probabilities.values(), reverse=True)
        if ranked[0] - ranked[1] < NEAR_TIE:
            notes.append("near_tie")
        if labels[scores.greedy] != max(labels, key=lambda label: log_probs[label]):
            notes.append(f"greedy_path_differs:{labels[scores.greedy]}")
        objection = self._policy.objection(probabilities, mass)
        if objection is not None:
            return self._unjudged(
                Status.ABSTAINED,
                objection,
                probabilities=probabilities,
                mass=mass,
                seconds=seconds,
                notes=notes,
                reason=reason,
            )
        answer = {"label": best} if reason is None else {"reason": reason, "label": best}
        return self._judged(
            json.dumps(answer),
            reasoned=reason is not None,
            probabilities=probabilities,
            mass=mass,
            seconds=seconds,
            notes=notes,
        )


def _own_calibration(engine: Engine, taxonomy: Taxonomy, template: Template) -> Calibration:
    """What the model file says of its own log-probabilities, where it says anything.

    It was fitted with the template that the file names; under another it would be a correction that
    nobody measured.
    """
    metadata = engine.info.metadata
    text = metadata.get("evenhand.judge.calibration")
    if text is None or template.name != metadata.get("evenhand.judge.template"):
        return IDENTITY
    calibration = Calibration.parse(text, where=f"the calibration in {engine.info.name}")
    calibration.check(taxonomy.labels)
    return calibration


def _check_trained_for(engine: Engine, taxonomy: Taxonomy) -> None:
    trained_for = engine.info.metadata.get("evenhand.judge.taxonomy")
    if trained_for is not None and trained_for != taxonomy.name:
        raise SettingsError(
            f"{engine.info.name} was trained for the taxonomy {trained_for!r} alone",
            hint=f"Use taxonomy {trained_for!r}, or a larger instruct model as the judge.",
        )


def _check_scores(scores: Scores, count: int) -> None:
    """Refuse numbers that are not log-probabilities of `count` exclusive answers."""
    values = scores.log_probs
    if len(values) != count or not 0 <= scores.greedy < count:
        raise ConstraintError(f"the engine gave {len(values)} scores for {count} answers")
    if not all(math.isfinite(p) or p == -math.inf for p in values):
        raise ConstraintError(f"the engine gave a score that is no number: {list(values)}")
    if all(p == -math.inf for p in values):
        raise ConstraintError("the model gave no finite probability to any answer")
    # Rounding in float32 may carry a sum a little over 1; more is a defect.
    if max(values) > 1e-3 or math.fsum(math.exp(p) for p in values) > 1.001:
        raise ConstraintError(f"the engine's scores are no probabilities: {list(values)}")


def _segments(words: tuple[Words, ...], *, control: bool, cut: bool) -> tuple[Segment, ...]:
    """A template's words, constant and (in a raw template) control text; slots are plain text."""
    return tuple(
        Segment(w.text, control=control, constant=True)
        if w.slot is None
        else Segment(w.text, cut=cut)
        for w in words
    )
