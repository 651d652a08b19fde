"""A generator on an engine of our own: template, chat format, sampling."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any

from evenhand.engine import futures, open_engine
from evenhand.engine.base import Completion, Engine
from evenhand.engine.conformity import checker
from evenhand.engine.prompt import Message, Segment
from evenhand.engine.supported import faithful
from evenhand.generator.base import (
    BaseGenerator,
    OnText,
    check_request,
    refuse_history,
    seeded,
)
from evenhand.prompts import Template, Words, load
from evenhand.schemas.errors import ConstraintError, InvalidInput, UnsupportedSchema
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.generation import Generation, Sampling, Turn


class Generator(BaseGenerator):
    """Sample responses of a model.

    `model` is a reference (`bundled:chat`, a path, `hf:OWNER/REPO:FILE`), which the generator loads
    and closes, or an engine that is already open, which it shares unless `owns_engine` says
    otherwise.

    `template` names a `respond` template: `chat` (default), `paper` or `completion`, or a path.
    `sampling` holds the defaults for calls that give none.
    """

    def __init__(
        self,
        model: str | Engine,
        *,
        template: str | Template = "chat",
        sampling: Sampling | None = None,
        owns_engine: bool | None = None,
    ):
        if not isinstance(template, Template):
            template = load("respond", template)  # before the model, which takes longer to load
        self._owns_engine = isinstance(model, str) if owns_engine is None else owns_engine
        engine = open_engine(model) if isinstance(model, str) else model
        super().__init__(engine.info.name, model_sha256=engine.info.sha256)
        self._engine = engine
        self.template = template
        self._sampling = sampling or Sampling()
        self._fingerprint = fingerprint_of(
            model=engine.info.sha256,
            engine=dict(engine.info.settings),
            template=self.template.sha256,
            evenhand=version("evenhand"),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of model, engine settings and template."""
        return self._fingerprint

    def submit(
        self,
        prompt: str,
        *,
        system: str | None = None,
        history: Sequence[Turn] = (),
        sampling: Sampling | None = None,
        n: int = 1,
        schema: Mapping[str, Any] | None = None,
        top_logprobs: int | None = None,
        on_text: OnText | None = None,
        deadline: float | None = None,
    ) -> Future[list[Generation]]:
        """See `BaseGenerator.submit`."""
        started = time.monotonic()
        check_request(prompt, n)
        sampling = seeded(sampling or self._sampling)
        blocks = self.template.render(untrusted={"prompt": prompt, "system": system})
        check = None if schema is None else _checked(schema)
        encoded = self._engine.encode(self._segments(blocks, history), reserve=1)
        forged = encoded.neutralised + sum(
            w.neutralised for words in blocks.values() for w in words
        )
        if len(encoded) == 0:
            raise InvalidInput("the prompt is empty", hint="Give a prompt of at least one word.")

        def finish(completions: list[Completion]) -> list[Generation]:
            for c in completions:
                if check is not None and c.finish_reason in ("stop", "grammar"):
                    check(c.text)
            seconds = time.monotonic() - started
            notes = (f"delimiters_neutralised:{forged}",) if forged else ()
            return [
                Generation(
                    text=c.text,
                    finish_reason=c.finish_reason,
                    prompt_tokens=c.prompt_tokens,
                    completion_tokens=len(c.tokens),
                    seed=c.seed,
                    generator=self.name,
                    model_sha256=self.model_sha256,
                    fingerprint=self._fingerprint,
                    seconds=seconds,
                    notes=notes,
                    log_probs=c.log_probs,
                )
                for c in completions
            ]

        return futures.then(
            self._engine.generate(
                encoded,
                sampling,
                n=n,
                schema=schema,
                top_logprobs=top_logprobs,
                on_text=on_text,
                deadline=deadline,
            ),
            finish,
        )

    def close(self) -> None:
        """Close the engine, if the generator owns it."""
        if self._owns_engine:
            self._engine.close()

    def _segments(
        self, blocks: Mapping[str, tuple[Words, ...]], history: Sequence[Turn]
    ) -> tuple[Segment, ...]:
        turns = {
            role: tuple(Segment(w.text, constant=w.slot != "prompt") for w in words)
            for role, words in blocks.items()
        }
        if self.template.format == "raw":
            refuse_history(self.template, history)
            return turns["text"]
        *before, last = [Message(role, content) for role, content in turns.items()]
        earlier = [Message.text(turn.role, turn.text) for turn in history]
        return self._engine.chat([*before, *earlier, last])


def _checked(schema: Mapping[str, Any]) -> Callable[[str], None]:
    """Raise for a text that is not of the schema, and say whose fault that is."""
    fault = checker(schema)

    def check(text: str) -> None:
        if (wrong := fault(text)) is None:
            return
        if checker(faithful(schema))(text) is not None:
            raise ConstraintError(f"the constraint let through {text[:80]!r}: {wrong}")
        raise UnsupportedSchema(
            f"no grammar could hold this JSON schema: {text[:80]!r} came, and {wrong}",
            hint="Make the branches of oneOf exclude one another, or use anyOf.",
        )

    return check
