"""A judge on an OpenAI-compatible server: llama-server, vLLM and their like."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from evenhand.engine import futures
from evenhand.engine.pool import Call
from evenhand.engine.remote import RemoteServer
from evenhand.engine.reply import Reply
from evenhand.judge.base import BaseJudge, check_texts
from evenhand.judge.cache import VerdictCache
from evenhand.judge.calibration import IDENTITY, Calibration
from evenhand.judge.llm import NEAR_TIE
from evenhand.judge.logprobs import label_probabilities
from evenhand.judge.policy import Policy
from evenhand.prompts import Template, load
from evenhand.prompts.fences import defang_control
from evenhand.schemas.errors import ConstraintError, QueueFull, SettingsError, Unavailable
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.taxonomy import Taxonomy, describe
from evenhand.schemas.verdict import Failure, Status, Verdict

Constraint = Literal["response_format", "structured_outputs", "none"]


class RemoteJudge(BaseJudge):
    """Label responses with a model behind an OpenAI-compatible API, at temperature 0.

    `constraint` says how the server is told the JSON schema: OpenAI's `response_format`, vLLM's
    `structured_outputs`, or not at all. The answer is validated in any case; one outside the
    schema is an error, not a label. `top_logprobs` alternatives are asked for at each token, and
    there are label probabilities where these determine them (`logprobs.py`); 0 asks for none.
    `max_tokens` caps the answer, a reason included. For the limits see `RemoteServer`, for
    `abstain_below` and `calibration` see `Judge`: without probabilities the first makes the judge
    abstain, and the second leaves a note that it did nothing.

    The server has its own tokenizer, so control text of the known chat formats is made plain in
    prompt and response, with a note.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        taxonomy: str | Path | Taxonomy = "qos",
        *,
        api_key: str | None = None,
        template: str | Template = "instruct",
        calibration: Calibration = IDENTITY,
        abstain_below: float = 0.0,
        constraint: Constraint = "response_format",
        top_logprobs: int = 20,
        max_tokens: int = 512,
        cache: VerdictCache | None = None,
        timeout: float = 120.0,
        attempts: int = 5,
        backoff: float = 0.5,
        parallel: int = 8,
        queue: int = 256,
    ):
        taxonomy = Taxonomy.load(taxonomy)
        calibration.check(taxonomy.labels)
        self._policy = Policy(abstain_below)
        self.template = template if isinstance(template, Template) else load("judge", template)
        if self.template.format != "chat":
            raise SettingsError(
                f"judge template {self.template.name!r} is {self.template.format}, and a remote "
                "judge is spoken to in chat form",
                hint="Use the template instruct, or another one with system and user blocks.",
            )
        self._server = RemoteServer(
            base_url,
            model,
            api_key=api_key,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            parallel=parallel,
            queue=queue,
        )
        super().__init__(self._server.name, taxonomy)
        self.calibration: Calibration = calibration
        self._constraint = constraint
        self._top_logprobs = top_logprobs
        self.gives_probabilities = top_logprobs > 0
        self._max_tokens = max_tokens
        self._cache = cache
        self._fingerprint = fingerprint_of(
            server=self._server.identity(),
            template=self.template.sha256,
            taxonomy=self.taxonomy.digest_text(),
            schema=self.taxonomy.json_schema(),
            constraint=constraint,
            top_logprobs=top_logprobs,
            max_tokens=max_tokens,
            calibration=calibration.digest_text(),
            abstain_below=abstain_below,
            evenhand=version("evenhand"),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of server, model, template, taxonomy, schema, decoding and version."""
        return self._fingerprint

    def submit(
        self, prompt: str, response: str, *, reason: bool = False, deadline: float | None = None
    ) -> Future[Verdict]:
        """See `BaseJudge.submit`."""
        started = time.monotonic()
        key = (self._fingerprint, prompt, response, reason)
        notes: list[str] = []

        def rescue(error: BaseException) -> Verdict:
            return self.failed(error, seconds=time.monotonic() - started, notes=notes)

        def finish(reply: Reply) -> Verdict:
            verdict = self._verdict(reply, reason, notes, time.monotonic() - started)
            if self._cache is not None:
                self._cache.put(key, verdict)
            return verdict

        try:
            check_texts(prompt, response)
            if self._cache is not None and (hit := self._cache.get(key)) is not None:
                return futures.done(hit)
            body = self._request(prompt, response, reason, notes)

            def ask(call: Call) -> Reply:
                return self._server.complete(call, "/chat/completions", body)

            [answer] = self._server.submit([ask], deadline=deadline)
            return futures.then(answer, finish, rescue=rescue)
        except (QueueFull, Unavailable):
            raise
        except Exception as exc:
            return futures.done(rescue(exc))

    def decoding(self) -> dict[str, Any]:
        """See `BaseJudge.decoding`."""
        return {
            "method": "the server writes an answer at temperature 0, seed 0",
            "constraint": self._constraint,
            "top_logprobs": self._top_logprobs,
            "max_tokens": self._max_tokens,
            "abstain_below": self._policy.abstain_below,
            "evenhand": version("evenhand"),
        }

    def close(self) -> None:
        """Drop what is under way and close the connections."""
        self._server.close()

    # -- the steps, in order -----------------------------------------------------------------------

    def _request(
        self, prompt: str, response: str, reason: bool, notes: list[str]
    ) -> dict[str, Any]:
        blocks = self.template.render(
            untrusted={"prompt": prompt, "response": response},
            taxonomy=self.taxonomy,
            reason=reason,
        )
        messages, forged, hidden = [], 0, 0
        for role, words in blocks.items():
            texts = []
            for piece in words:
                text, spelled = (
                    (piece.text, 0) if piece.slot is None else defang_control(piece.text)
                )
                texts.append(text)
                forged += piece.neutralised + spelled
                hidden += piece.hidden
            messages.append({"role": role, "content": "".join(texts)})
        if forged:
            notes.append(f"delimiters_neutralised:{forged}")
        if hidden:
            notes.append(f"names_hidden:{hidden}")
        body: dict[str, Any] = {
            "model": self._server.model,
            "messages": messages,
            "temperature": 0,
            "seed": 0,
            "max_tokens": self._max_tokens,
        }
        if self._top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self._top_logprobs}
        schema = self.taxonomy.json_schema(reason=reason)
        if self._constraint == "response_format":
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self._constraint == "structured_outputs":
            body["structured_outputs"] = {"json": schema}
        return body

    def _verdict(self, reply: Reply, reason: bool, notes: list[str], seconds: float) -> Verdict:
        if reply.refusal is not None or reply.finish_reason == "content_filter":
            return self._unjudged(
                Status.ABSTAINED,
                Failure(
                    code="judge_refused",
                    message=f"the judge declined to answer: {(reply.refusal or 'filtered')[:300]}",
                    hint="Use a judge without a content filter, or have a person look at it.",
                ),
                seconds=seconds,
                notes=notes,
            )
        written, why = self._parsed(reply, reason)
        notes = list(notes)
        probabilities = None
        if self._top_logprobs:
            found = label_probabilities(reply.text, written, self.taxonomy.labels, reply.tokens)
            if found.values is None:
                notes.append(f"no_probabilities:{found.why_not}")
            else:
                if found.error > 1e-6:
                    notes.append(f"probabilities_within:{found.error:.2g}")
                probabilities = self.calibration.apply(
                    {k: math.log(p) if p > 0 else -math.inf for k, p in found.values.items()}
                )
        label = written
        if probabilities is None:
            if self.calibration.method != "identity":
                notes.append("uncalibrated")
        else:
            label = max(self.taxonomy.labels, key=probabilities.__getitem__)
            if label != written:
                notes.append(f"greedy_path_differs:{written}")
            first, second = sorted(probabilities.values(), reverse=True)[:2]
            if first - second < NEAR_TIE:
                notes.append("near_tie")
        objection = self._policy.objection(probabilities, None)
        if objection is not None:
            return self._unjudged(
                Status.ABSTAINED,
                objection,
                probabilities=probabilities,
                seconds=seconds,
                notes=notes,
                reason=why,
            )
        answer = {"label": label} if why is None else {"reason": why, "label": label}
        return self._judged(
            json.dumps(answer),
            reasoned=reason,
            probabilities=probabilities,
            seconds=seconds,
            notes=notes,
        )

    def _parsed(self, reply: Reply, reason: bool) -> tuple[str, str | None]:
        """The label and the reason in an answer. Raises `ConstraintError` outside the schema."""
        hint = "See that the server enforces the JSON schema (constraint), or use another model."
        shown = reply.text[:120]
        if reply.finish_reason == "length":
            raise ConstraintError(
                f"the answer was cut off after {self._max_tokens} tokens: {shown!r}",
                hint="Raise max_tokens; a model that thinks first needs room for it.",
            )
        try:
            # pydantic would take the last of two equal keys.
            json.loads(reply.text, object_pairs_hook=_unique)
            if reason:
                full = self.taxonomy.reasoned_model.model_validate_json(reply.text)
                return full.label, full.reason
            return self.taxonomy.answer_model.model_validate_json(reply.text).label, None
        except ValidationError as exc:
            raise ConstraintError(
                f"the answer is outside the schema ({describe(exc)}): {shown!r}", hint=hint
            ) from exc
        except (ValueError, RecursionError) as exc:
            raise ConstraintError(f"the answer is not JSON ({exc}): {shown!r}", hint=hint) from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)
