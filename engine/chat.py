"""Chat formats: a model's own Jinja template around messages, with untrusted text kept apart.

A chat template in a GGUF file is a program from a stranger: it runs in Jinja's sandbox
(CVE-2024-34359) and sees slots in place of the contents. The rendering is split at the slots, so
that the template's pieces may hold control tokens and the contents never can. Some formats spell
their turns in plain text (Llama 2's `[INST]`); those markers are broken up inside contents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from importlib import resources

import jinja2
import jinja2.sandbox

from evenhand.engine.prompt import Message, Segment
from evenhand.schemas.errors import ModelFileError

_OPEN, _SHUT = "\ue002", "\ue003"  # private use, and no other module's
_SLOT = re.compile(f"{_OPEN}(\\d+){_SHUT}")

# Turn markers that some vocabularies hold as plain text. Where a template writes one of these in
# its own words, a content that spells it could forge a turn.
_MARKERS = (
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<|im_start|>", "<|im_end|>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "### Instruction:", "### Response:",
    "USER:", "ASSISTANT:", "Human:", "Assistant:",
)  # fmt: skip
# Markers of formats that nobody has thought of here; some vocabularies hold them as plain text too.
_TAG = re.compile(r"<[^\s<>]{1,64}>|\[/?[A-Z][A-Z_]+\]")


class ChatFormat:
    """One model's chat template; without a `source`, Llama 2's format."""

    def __init__(self, source: str | None, *, bos: str = "", eos: str = ""):
        if source is None:
            folder = resources.files("evenhand.engine") / "formats"
            source = (folder / "llama2.j2").read_text(encoding="utf-8")
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as exc:
            raise ModelFileError(
                f"the model's chat template is not valid Jinja (line {exc.lineno}): {exc.message}",
                hint="Use the `completion` template, or a model file with a working one.",
            ) from exc

    def segments(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """The conversation as segments, open for the assistant's turn.

        A template that takes no system turn gets the system text at the head of the first user
        turn. Raises `ModelFileError` for a template that fails or that drops a turn.
        """
        try:
            rendered = self._render(messages)
        except ModelFileError:
            if len(messages) < 2 or messages[0].role != "system":
                raise
            messages = _without_system(messages)
            rendered = self._render(messages)
        parts = _SLOT.split(rendered)
        shown = {int(number) for number in parts[1::2]}
        if shown != set(range(len(messages))):
            raise ModelFileError(
                "the model's chat template leaves out part of the conversation",
                hint="Use another template, or a model whose format has system turns.",
            )
        words = "".join(parts[::2])
        own = {*_TAG.findall(words), *(marker for marker in _MARKERS if marker in words)}
        markers = re.compile("|".join(re.escape(m) for m in sorted(own, key=len, reverse=True)))
        segments: list[Segment] = []
        for i, part in enumerate(parts):
            if i % 2:
                for segment in messages[int(part)].content:
                    text, count = _break(segment.text, markers) if own else (segment.text, 0)
                    segments.append(replace(segment, text=text, neutralised=count))
            elif part:
                segments.append(Segment(part, control=True, constant=True))
        return tuple(segments)

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return self._template.render(
                messages=[
                    {"role": m.role, "content": f"{_OPEN}{i}{_SHUT}"}
                    for i, m in enumerate(messages)
                ],
                add_generation_prompt=True,
                **self._tokens,
            )
        except Exception as exc:  # a stranger's program may fail in any way
            raise ModelFileError(
                f"the model's chat template failed: {type(exc).__name__}: {exc}",
                hint="Use the `completion` template, or a model file with a working one.",
            ) from exc


def _without_system(messages: Sequence[Message]) -> list[Message]:
    system, first, *rest = messages
    glue = Segment("\n\n", constant=True)
    return [Message(first.role, (*system.content, glue, *first.content)), *rest]


def _break(text: str, markers: re.Pattern[str]) -> tuple[str, int]:
    """Put a space after the first character of each marker, so that it no longer is one."""
    return markers.subn(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _environment() -> jinja2.Environment:
    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    # As in Hugging Face's tokenizers, for which these templates are written.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
        autoescape=False,
    )
    environment.globals["raise_exception"] = fail
    # Some templates write today's date into the system turn. The same request must give the same
    # prompt tomorrow, so it is always the day that Llama 3's template falls back on.
    environment.globals["strftime_now"] = date(2024, 7, 26).strftime
    return environment
