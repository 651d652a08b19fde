"""A taxonomy: the labels that a judge may give, and everything that follows from them.

One object yields the pydantic model of an answer, its JSON schema, the accepted answers and the
crosswalks to other taxonomies. It knows nothing of models, prompts or engines. Taxonomies are
TOML; the built-in ones lie in `taxonomies/` beside this file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
    model_validator,
)

from evenhand.schemas.errors import NotFound, TaxonomyError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_ .-]{0,63}$")]
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
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"categories: label {twice[0]!r} is used twice; labels must be unique")
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
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                raise NotFound(
                    f"taxonomy file {str(source)!r} does not exist", hint="Check the path."
                ) from None
            except (OSError, UnicodeDecodeError) as exc:
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
            raise TaxonomyError(
                f"{origin}: {describe(exc)}",
                hint="Compare the file with `evenhand taxonomies --show qos --toml`.",
            ) from exc

    # -- what follows from the labels -----------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the taxonomy's order."""
        return tuple(c.label for c in self.categories)

    @cached_property
    def answer_model(self) -> type[Answer]:
        """The pydantic model of an answer: one field, `label`, that admits the labels alone."""
        return create_model(
            f"{self.name.title().replace('-', '').replace('_', '')}Answer",
            __base__=Answer,
            label=(Literal[self.labels], ...),
        )

    @cached_property
    def reasoned_model(self) -> type[Answer]:
        """The same with a `reason` before the label, so that the label can depend on it."""
        name = self.answer_model.__name__.replace("Answer", "ReasonedAnswer")
        model: type[Answer] = create_model(
            name,
            __config__=ConfigDict(extra="forbid", frozen=True),
            reason=(str, ...),
            label=(Literal[self.labels], ...),
        )
        return model

    def json_schema(self, *, reason: bool = False) -> dict[str, Any]:
        """The JSON schema of an answer, as a dict."""
        model = self.reasoned_model if reason else self.answer_model
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
    folder = resources.files("evenhand.schemas") / "taxonomies"
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error as `key: what is wrong` (and how many more there are)."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    text = f"{key}: {message}" if key else message
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"
