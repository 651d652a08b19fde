"""A taxonomy: the labels that a judge may give, and everything that follows from them.

One object yields the pydantic model of an answer, its JSON schema, the accepted answers and the
crosswalks to other taxonomies. It knows nothing of models, prompts or engines. Taxonomies are
TOML; the built-in ones lie in `taxonomies/` beside this file.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails

from evenhand.schemas.errors import NotFound, TaxonomyError
from evenhand.schemas.shipped import toml_texts

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Label = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_ .-]{0,62}[A-Za-z0-9_.-])?$")
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Helps = Literal["yes", "in_part", "no", "either"]
Harms = Literal["yes", "no"]


class Example(BaseModel):
    """One (prompt, response) pair that shows a category."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Text
    response: str


class Category(BaseModel):
    """One label: what it means, what it is not, an example, and its two axes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: Label
    definition: Text
    is_not: Text | None = None
    example: Example | None = None
    helps: Helps | None = None
    harms: Harms | None = None


class Crosswalk(BaseModel):
    """How each label of this taxonomy folds onto a label of another one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    labels: dict[Label, Label]


class Answer(BaseModel):
    """What a judge writes. Subclasses made by `Taxonomy.answer_model` pin `label` to the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str


class ReasonedAnswer(BaseModel):
    """The same with a `reason` before the label, so that the label can depend on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str
    label: str


AnswerT = TypeVar("AnswerT", Answer, ReasonedAnswer)


class Taxonomy(BaseModel):
    """A named, versioned set of at least two categories.

    `order` in the file is the order in prompts, tables and plots.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,32}$")]
    title: Text
    question: Text = "Which category fits the response best?"
    categories: Annotated[tuple[Category, ...], Field(min_length=2, max_length=64)]
    crosswalks: tuple[Crosswalk, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Taxonomy:
        labels = [c.label for c in self.categories]
        folded = [label.casefold() for label in labels]
        twice = [label for label in labels if folded.count(label.casefold()) > 1]
        if twice:
            raise ValueError(
                f"categories: label {twice[-1]!r} is used twice; "
                "labels must differ in more than case"
            )
        names = [c.name for c in self.crosswalks]
        if len(set(names)) < len(names):
            raise ValueError("crosswalks: each name may be used once")
        for crosswalk in self.crosswalks:
            missing = [label for label in labels if label not in crosswalk.labels]
            unknown = [label for label in crosswalk.labels if label not in labels]
            where = f"crosswalks.{crosswalk.name}.labels"
            if missing:
                raise ValueError(f"{where}: no entry for label {missing[0]!r}; map every label")
            if unknown:
                raise ValueError(f"{where}: {unknown[0]!r} is not a label of this taxonomy")
        return self

    # -- reading ------------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path | Taxonomy) -> Taxonomy:
        """Return a taxonomy from a built-in name, or a path to a TOML file.

        Raises `NotFound` for a name that is neither, `TaxonomyError` for a broken file.
        """
        if isinstance(source, Taxonomy):
            return source
        builtin = _builtin_files()
        if isinstance(source, str) and source in builtin:
            return cls.from_toml(builtin[source], origin=f"built-in taxonomy {source!r}")
        path = Path(source)
        if path.suffix == ".toml":
            try:
                text = path.read_text(encoding="utf-8-sig")  # some editors put a BOM first
            except FileNotFoundError:
                raise NotFound(
                    f"taxonomy file {str(source)!r} does not exist", hint="Check the path."
                ) from None
            except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or NUL in the path
                raise TaxonomyError(
                    f"taxonomy file {str(source)!r} cannot be read: {exc}",
                    hint="Save the file as UTF-8 TOML that this user may read.",
                ) from exc
            return cls.from_toml(text, origin=str(source))
        raise NotFound(
            f"there is no taxonomy called {str(source)!r}",
            hint=f"Use one of {', '.join(sorted(builtin))}, or a path that ends in .toml.",
        )

    @classmethod
    def from_toml(cls, text: str, *, origin: str = "taxonomy") -> Taxonomy:
        """Parse TOML text. Raises `TaxonomyError` that names the key and the mend."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise TaxonomyError(
                f"{origin}: not valid TOML: {exc}", hint="Mend the line that the message names."
            ) from exc
        try:
            return cls.model_validate(data)
        except ValidationError as exc:
            raise TaxonomyError(f"{origin}: {describe(exc, data)}", hint=_mend(exc)) from exc

    # -- what follows from the labels -----------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the taxonomy's order."""
        return tuple(c.label for c in self.categories)

    @cached_property
    def answer_model(self) -> type[Answer]:
        """The pydantic model of an answer: one field, `label`, that admits the labels alone."""
        return self._pinned(Answer)

    @cached_property
    def reasoned_model(self) -> type[ReasonedAnswer]:
        """The pydantic model of an answer that gives its reason first."""
        return self._pinned(ReasonedAnswer)

    def _pinned(self, base: type[AnswerT]) -> type[AnswerT]:
        name = self.name.title().replace("-", "").replace("_", "") + base.__name__
        # A tuple of names inside Literal[] is known at run time only.
        label: Any = Literal[self.labels]
        return create_model(name, __base__=base, label=(label, ...))

    def json_schema(self, *, reason: bool = False) -> dict[str, Any]:
        """The JSON schema of an answer, as a dict."""
        model: type[BaseModel] = self.reasoned_model if reason else self.answer_model
        return model.model_json_schema()

    def answers(self) -> dict[str, str]:
        """Each label with the one JSON text that stands for it, e.g. `{"label":"refusal"}`."""
        return {label: self.answer_model(label=label).model_dump_json() for label in self.labels}

    def crosswalk(self, label: str) -> dict[str, str]:
        """The label's counterparts in other taxonomies, by taxonomy name."""
        return {c.name: c.labels[label] for c in self.crosswalks}

    def digest_text(self) -> str:
        """Canonical JSON of everything in the taxonomy, for fingerprints."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


def builtin_taxonomies() -> list[str]:
    """Names of the taxonomies that ship with evenhand, sorted."""
    return sorted(_builtin_files())


def builtin_source(name: str) -> str:
    """The TOML text of a built-in taxonomy. Raises `NotFound`."""
    files = _builtin_files()
    if name not in files:
        raise NotFound(
            f"there is no built-in taxonomy called {name!r}",
            hint=f"Use one of {', '.join(sorted(files))}.",
        )
    return files[name]


def _builtin_files() -> Mapping[str, str]:
    return toml_texts("evenhand.schemas", "taxonomies")


def describe(error: ValidationError, data: object = None) -> str:
    """The first problem of a pydantic error as `key: what is wrong` (and how many more there are).

    Entries of a list are counted from 1, and named where `data` has a `label` or `name` for them.
    """
    problems = error.errors(include_url=False)
    first = _first(error)
    message = first["msg"].removeprefix("Value error, ")
    key = _key(first["loc"], data)
    text = f"{key}: {message}" if key else message
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"


def _first(error: ValidationError) -> ErrorDetails:
    """The problem to name: a misspelt key before the missing key that it was meant to be."""
    problems = error.errors(include_url=False)
    return next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])


def _key(loc: tuple[int | str, ...], data: object) -> str:
    """`categories[3] (refusal).is_not`: where a value is, in the words of the file."""
    key = ""
    for part in loc:
        if isinstance(part, int):
            key += f"[{part + 1}]"
            data = data[part] if isinstance(data, list) and part < len(data) else None
            if isinstance(data, dict) and (name := data.get("label") or data.get("name")):
                key += f" ({name})"
        else:
            key += f".{part}" if key else part
            data = data.get(part) if isinstance(data, dict) else None
    return key


_KEYS = {
    "": Taxonomy.model_fields,
    "categories": Category.model_fields,
    "crosswalks": Crosswalk.model_fields,
    "example": Example.model_fields,
}
_SEE = "`evenhand taxonomies --show qos --toml` shows a whole file."


def _mend(error: ValidationError) -> str:
    """What to do about the first problem of a taxonomy file."""
    first = _first(error)
    names = [part for part in first["loc"] if isinstance(part, str)]
    key = names[-1] if names else ""
    table = names[-2] if len(names) > 1 else ""
    match first["type"]:
        case "missing":
            mend = f"Add the key {key!r}."
        case "extra_forbidden":
            known = list(_KEYS.get(table, {}))
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"Did you mean {near[0]!r}? " if near else ""
            mend += f"The keys here are {', '.join(known)}."
        case "string_pattern_mismatch" if key == "name":
            mend = "Use lower-case letters, digits, _ and -, beginning with a letter."
        case "string_pattern_mismatch" if key == "version":
            mend = "Use letters, digits and . + - only, 32 of them at most."
        case "string_pattern_mismatch":
            mend = (
                "Use letters, digits, spaces and _ . - in a label, 64 of them at most, "
                "beginning with a letter or digit and not ending with a space."
            )
        case "string_type":
            mend = "Put the value in quotes."
        case "string_too_short":
            mend = f"Write something for {key!r}, or leave the key out where it is optional."
        case "literal_error":
            mend = f"Use one of {first['ctx']['expected']}."
        case "too_short":
            mend = "Give at least two categories, each under its own [[categories]]."
        case "too_long":
            mend = "Give 64 categories at most."
        case "tuple_type":
            mend = f"Write each entry under its own [[{key}]], with two brackets."
        case "model_type" | "model_attributes_type" | "dict_type":
            mend = f"Write {key!r} as a table: {{ ... }} with keys and values."
        case _:
            mend = "Mend the key that the message names."
    return f"{mend} {_SEE}"
