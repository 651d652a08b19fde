"""Prompt templates: load, render strictly, hash.

A template is a Jinja file of blocks. A *chat* template has the blocks `system` (optional) and
`user`; a *raw* one has the block `text`, which is the whole prompt, control tokens included.
Values of unknown origin never pass through Jinja: slots stand in for them, and the rendering is
split there, so that text can be told from template for good. Missing variables are errors.
Tags in the template's own words (`<response>`) are fences; the same tag inside a value loses its
angle bracket, so that no value can close a fence (`fences.py`).

At the top a template may `set`: `format` ("chat" or "raw"), `overflow` ("refuse" or "middle": what
happens to text too long for the context), `names` ("shown" or "hidden": whether first names inside
values are seen, see `names.py`), `description`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evenhand.prompts.fences import defang_tags
from evenhand.prompts.names import digest, hide
from evenhand.schemas.errors import InvalidInput, TemplateError

Kind = Literal["judge", "respond"]

# Private-use characters: no template spells them, and Jinja filters leave them alone.
_OPEN, _SHUT = "\ue000", "\ue001"
_SLOT = re.compile(f"{_OPEN}([a-z_]+){_SHUT}")
_TAG = re.compile(r"</?([a-z][a-z0-9_]*)>")


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of a rendered template: the template's own text, or a slot for untrusted text.

    `slot` is the variable's name, and then `text` is the variable's value, in which `neutralised`
    fence tags lost their angle bracket and `hidden` places have a stand-in for a name.
    """

    text: str
    slot: str | None = None
    neutralised: int = 0
    hidden: int = 0


class _Slot:
    """Stands in for an untrusted value while Jinja works: it can be printed, and nothing else."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str):
        self._name = name

    def __str__(self) -> str:
        return f"{_OPEN}{self._name}{_SHUT}"

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"{self._name} cannot be compared: templates do not see untrusted text")


@dataclass(frozen=True)
class Template:
    """One template file. `name` is the built-in name or the path."""

    name: str
    kind: Kind
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the template's source, and of the names that it hides, for fingerprints."""
        listed = digest() if self.names == "hidden" else ""
        return hashlib.sha256((self.source + listed).encode()).hexdigest()

    @property
    def format(self) -> str:
        """`chat` or `raw`."""
        return self._setting("format", "chat", ("chat", "raw"))

    @property
    def overflow(self) -> str:
        """`refuse` or `middle`."""
        return self._setting("overflow", "refuse", ("refuse", "middle"))

    @property
    def names(self) -> str:
        """`shown` or `hidden`."""
        return self._setting("names", "shown", ("shown", "hidden"))

    @property
    def description(self) -> str:
        """One line on what the template is for."""
        return str(self._module.get("description", ""))

    def render(
        self, *, untrusted: Mapping[str, str | None], **trusted: Any
    ) -> dict[str, tuple[Words, ...]]:
        """Render each block into words.

        `untrusted` values are never seen by Jinja, only whether they are there (`None` is not).
        Returns `{"system": ..., "user": ...}` or `{"text": ...}`; an empty system block is left
        out. Raises `TemplateError`.
        """
        for name, value in untrusted.items():
            if not (value is None or isinstance(value, str)):
                raise InvalidInput(
                    f"{name} is {type(value).__name__}, not text", hint=f"Give {name} as a string."
                )
        slots = {name: None if value is None else _Slot(name) for name, value in untrusted.items()}
        seen = self._seen(untrusted)
        blocks: dict[str, tuple[Words, ...]] = {}
        for name in ("text",) if self.format == "raw" else ("system", "user"):
            block = self._compiled.blocks.get(name)
            if block is None:
                if name == "system":
                    continue
                raise TemplateError(
                    f"template {self.name!r} has no block {name!r}",
                    hint=f"Add {{% block {name} %}}...{{% endblock %}}.",
                )
            try:
                context = self._compiled.new_context({**trusted, **slots})
                text = "".join(block(context)).strip("\n")
            except jinja2.UndefinedError as exc:
                known = ", ".join(sorted({*trusted, *untrusted}))
                raise TemplateError(
                    f"template {self.name!r}: {exc.message}", hint=f"It may use: {known}."
                ) from exc
            except Exception as exc:  # a template is foreign code: anything may go wrong in it
                raise TemplateError(
                    f"template {self.name!r} cannot be rendered: {exc}", hint="Mend the template."
                ) from exc
            if text:
                blocks[name] = tuple(self._split(text, seen))
            elif name != "system":
                raise TemplateError(
                    f"template {self.name!r} renders to nothing",
                    hint=f"Write something in the block {name!r}.",
                )
        return blocks

    def _seen(self, values: Mapping[str, str | None]) -> dict[str, tuple[str, int]]:
        """Values as they are to be read, and in how many places of each a name is hidden."""
        texts = [value or "" for value in values.values()]
        seen = hide(texts) if self.names == "hidden" else [(text, 0) for text in texts]
        return dict(zip(values, seen, strict=True))

    def _split(self, text: str, values: Mapping[str, tuple[str, int]]) -> list[Words]:
        parts = _SLOT.split(text)  # words, slot name, words, slot name, ..., words
        if any(_OPEN in words or _SHUT in words for words in parts[::2]) or not (
            values.keys() >= set(parts[1::2])
        ):
            raise TemplateError(
                f"template {self.name!r} changes untrusted text or holds private-use characters",
                hint=f"Use {', '.join(sorted(values))} bare: no filter may work on them.",
            )
        fences = {tag for words in parts[::2] for tag in _TAG.findall(words)}
        found: list[Words] = []
        for i, part in enumerate(parts):
            if i % 2:
                value, hidden = values[part]
                value, count = defang_tags(value, fences)
                found.append(Words(value, part, count, hidden))
            elif part:
                found.append(Words(part))
        return found

    @cached_property
    def _compiled(self) -> jinja2.Template:
        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as exc:
            raise TemplateError(
                f"template {self.name!r}, line {exc.lineno}: {exc.message}",
                hint="Mend the line that the message names.",
            ) from exc

    @cached_property
    def _module(self) -> dict[str, Any]:
        """The names that the template sets at its top."""
        context = self._compiled.new_context({})
        try:
            for _ in self._compiled.root_render_func(context):
                pass
        except jinja2.UndefinedError:
            pass  # blocks use variables that are not here; only the assignments above are wanted
        except Exception as exc:  # a template is foreign code: anything may go wrong in it
            raise TemplateError(
                f"template {self.name!r} cannot be rendered: {exc}", hint="Mend the template."
            ) from exc
        return {name: context.vars[name] for name in context.exported_vars}

    def _setting(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = str(self._module.get(name, default))
        if value not in allowed:
            raise TemplateError(
                f"template {self.name!r} sets {name} to {value!r}",
                hint=f"Set it to one of {', '.join(allowed)}.",
            )
        return value


def load(kind: Kind, name: str | Path) -> Template:
    """Return a built-in template by name, or one from a path that ends in `.j2`.

    Raises `TemplateError`.
    """
    if str(name).endswith(".j2"):
        try:
            return Template(str(name), kind, Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or NUL in the path
            raise TemplateError(
                f"template file {str(name)!r} cannot be read: {exc}",
                hint="Give the path of a UTF-8 file.",
            ) from exc
    names = available(kind)
    if str(name) not in names:
        raise TemplateError(
            f"there is no {kind} template called {str(name)!r}",
            hint=f"Use one of {', '.join(names)}, or a path that ends in .j2.",
        )
    file = resources.files("evenhand.prompts") / kind / f"{name}.j2"
    return Template(str(name), kind, file.read_text(encoding="utf-8"))


def available(kind: Kind) -> list[str]:
    """Names of the built-in templates of a kind, sorted."""
    folder = resources.files("evenhand.prompts") / kind
    return sorted(e.name.removesuffix(".j2") for e in folder.iterdir() if e.name.endswith(".j2"))


def _printable(value: object) -> object:
    if value is None:  # Jinja would print "None"
        raise TypeError("a value that is not there is printed; ask `is not none` first")
    return value


def _environment() -> jinja2.Environment:
    # Sandboxed: a template from elsewhere may choose words, not run code.
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # prompts are text, not HTML
        finalize=_printable,
    )
