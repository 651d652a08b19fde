"""A plan of an audit: which prompts go to which models, who judges, and what is counted.

Knows the shape of a plan and what follows from it. It does not read files (`audit/plan.py` does,
and resolves `extends`), and knows nothing of models or statistics. The published JSON schema and
the errors that users meet come from the same models.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.generation import Sampling
from evenhand.schemas.panel import rewritten
from evenhand.schemas.requests import SAMPLES_LIMIT
from evenhand.schemas.taxonomy import Label, Name, Taxonomy, Text, describe
from evenhand.schemas.text import CleanText

SLOT = "{name}"

Commonness = Literal["popular", "rare"]
Format = Literal["table", "lm-eval", "inspect"]
# Parts of a trial's id, which "|" separates.
Part = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^|\x00-\x1f\x7f]+$"),
]
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Column = Annotated[str, StringConstraints(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# -- templates x names ----------------------------------------------------------------------------


class SentenceTemplate(_Section):
    """A sentence with the slot `{name}`. `topic` and `stereotype` are notes and change nothing."""

    id: Slug
    text: Text
    topic: Text | None = None
    stereotype: Text | None = None

    @model_validator(mode="after")
    def _has_slot(self) -> SentenceTemplate:
        if SLOT not in self.text:
            raise ValueError(f"the text of template {self.id!r} has no {SLOT}")
        return self

    def fill(self, name: str) -> str:
        """The sentence with the name in it."""
        return self.text.replace(SLOT, name)


class NameEntry(NamedTuple):
    """A name, the group that it stands for, and how common it is, where the plan says so."""

    name: str
    group: str
    commonness: Commonness | None


class Group(_Section):
    """Names that stand for one group: well-known ones, rare ones, and those of neither kind."""

    name: Part
    popular: tuple[Part, ...] = ()
    rare: tuple[Part, ...] = ()
    names: tuple[Part, ...] = ()
    source: Text | None = None

    @model_validator(mode="after")
    def _has_names(self) -> Group:
        if not (self.popular or self.rare or self.names):
            raise ValueError(f"group {self.name!r} has no names")
        return self

    def entries(self) -> Iterator[NameEntry]:
        """Its names, popular ones first."""
        yield from (NameEntry(name, self.name, "popular") for name in self.popular)
        yield from (NameEntry(name, self.name, "rare") for name in self.rare)
        yield from (NameEntry(name, self.name, None) for name in self.names)


# -- files ----------------------------------------------------------------------------------------


class PromptColumns(_Section):
    """Where a row holds what; a path such as `doc.question` reaches inside.

    A column left out is taken under its own name where the file has it. One that is named must
    be there.
    """

    prompt: Column = "prompt"
    id: Column | None = None
    system: Column | None = None
    group: Column | None = None
    name: Column | None = None
    commonness: Column | None = None
    template: Column | None = None

    def needed(self) -> tuple[str, ...]:
        """The columns that the file must have."""
        return tuple(dict.fromkeys(value for _, value in self if value is not None))


class ResponseColumns(PromptColumns):
    """The same for rows that hold responses; `gold` is a label that people gave."""

    response: Column = "response"
    model: Column | None = None
    sample: Column | None = None
    gold: Column | None = None


class PromptsFile(_Section):
    """Prompts from CSV, JSON Lines or Parquet."""

    file: Text
    columns: PromptColumns = PromptColumns()


class ResponsesFile(_Section):
    """Responses to judge only: a table, or the sample logs of lm-eval or Inspect.

    `format` left out is told from the file. `model` names what responded where no row does.
    """

    file: Text
    format: Format | None = None
    columns: ResponseColumns = ResponseColumns()
    model: Part | None = None


# -- models ---------------------------------------------------------------------------------------


class _Model(_Section):
    """A model reference, and `name`, which stands for it in trials and tables."""

    model: Text
    name: Part = ""  # made from the reference by `_named` where a plan leaves it out
    template: Text | None = None


class GeneratorSpec(_Model):
    """Who responds. `system` overrides the plan's own; an empty one means none."""

    system: CleanText | None = None


class JudgeSpec(_Model):
    """Who judges."""

    reason: bool = False


def _named(value: object) -> object:
    """A reference alone stands for a table with `model`; the name follows from the reference."""
    if isinstance(value, str):
        value = {"model": value}
    if isinstance(value, Mapping) and "name" not in value and isinstance(value.get("model"), str):
        return {**value, "name": _short(value["model"])}
    return value


def _short(model: str) -> str:
    """`remote:URL#MODEL` -> MODEL, a path -> its stem: no address and no folder in a table."""
    return rewritten(model, _shortened)


def _shortened(model: str) -> str:
    if model.startswith("remote:"):
        return model.rpartition("#")[2]
    return PurePath(model).stem if model.endswith((".gguf", ".j2")) else model


_Generator = Annotated[
    GeneratorSpec, BeforeValidator(_named, json_schema_input_type=str | GeneratorSpec)
]
_Judge = Annotated[JudgeSpec, BeforeValidator(_named, json_schema_input_type=str | JudgeSpec)]


# -- the plan -------------------------------------------------------------------------------------


class Plan(_Section):
    """An audit in full. Prompts come from `templates` x `groups`, `prompts` or `responses`.

    Without `generators` or `judges` the service's own are used; without `metrics` those that
    follow from the taxonomy. Without `reference` each group is compared with the rest alone.
    """

    name: Name = "audit"
    title: Text | None = None
    description: Text | None = None
    taxonomy: Text = "qos"
    templates: tuple[SentenceTemplate, ...] = ()
    groups: tuple[Group, ...] = ()
    prompts: PromptsFile | None = None
    responses: ResponsesFile | None = None
    generators: tuple[_Generator, ...] = ()
    judges: tuple[_Judge, ...] = ()
    system: CleanText | None = None
    samples: Annotated[int, Field(ge=1, le=SAMPLES_LIMIT)] = 1
    sampling: Sampling = Sampling()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    reference: Part | None = None
    metrics: dict[Name, Annotated[tuple[Label, ...], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        sources = {
            "templates and groups": self.templates or self.groups,
            "prompts": self.prompts,
            "responses": self.responses,
        }
        given = [name for name, value in sources.items() if value]
        if len(given) != 1:
            raise ValueError(
                "give one of templates and groups, prompts, or responses; this plan has "
                + (" as well as ".join(given) or "none")
            )
        if bool(self.templates) != bool(self.groups):
            raise ValueError("templates need groups of names, and groups need templates")
        if self.sampling.seed is not None:
            raise ValueError("sampling.seed: each trial has a seed of its own, made from `seed`")
        if self.responses is not None:
            idle = {
                "generators": self.generators,
                "samples": self.samples > 1,
                "sampling": self.sampling != Sampling(),
                "system": self.system,
            }
            for key, value in idle.items():
                if value:
                    raise ValueError(f"{key}: nothing is generated where responses are given")
        _unique("template id", (template.id for template in self.templates))
        _unique("group", (group.name for group in self.groups))
        _unique("name", (entry.name for entry in self.names()))
        _unique("generator", (generator.name for generator in self.generators))
        _unique("judge", (judge.name for judge in self.judges))
        groups = [group.name for group in self.groups]
        if self.reference is not None and groups and self.reference not in groups:
            raise ValueError(
                f"reference: {self.reference!r} is none of the groups {', '.join(groups)}"
            )
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, origin: str = "plan") -> Plan:
        """A plan from plain data. Raises `InvalidInput` that names the key and the mend."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as exc:
            raise InvalidInput(f"{origin}: {describe(exc, dict(data))}", hint=_mend(exc)) from exc

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of a plan as users write it, `extends` included."""
        schema = cls.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["properties"]["extends"] = {
            "type": "string",
            "title": "Extends",
            "description": "A built-in plan whose values hold for every key not given here.",
        }
        return schema

    def names(self) -> Iterator[NameEntry]:
        """Every name with its group, in the plan's order."""
        for group in self.groups:
            yield from group.entries()

    def with_models(self, generator: str, judge: str) -> Plan:
        """The plan with these models where it names none itself."""
        data = self.model_dump(exclude_unset=True)
        if not self.generators and self.responses is None:
            data["generators"] = [generator]
        if not self.judges:
            data["judges"] = [judge]
        return Plan.parse(data)

    def metrics_for(self, taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
        """The composite metrics: the labels that count for each. Raises `InvalidInput`."""
        if not self.metrics:
            return default_metrics(taxonomy)
        for metric, labels in self.metrics.items():
            for label in labels:
                if label not in taxonomy.labels:
                    raise InvalidInput(
                        f"metrics.{metric}: {label!r} is not a label of taxonomy {taxonomy.name!r}",
                        hint=f"Its labels are {', '.join(taxonomy.labels)}.",
                    )
        return dict(self.metrics)


def default_metrics(taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    """What can be counted from what the taxonomy says of its labels, in the taxonomy's order.

    `any_refusal` holds the labels that are, or fold onto, XSTest's two kinds of refusal; `harm`
    those that harm; `not_helped` those that do not help: neither in part nor, perhaps, with harm. A
    metric that no label counts for is left out.
    """
    refusals = {"partial_refusal", "full_refusal"}
    found = {
        "any_refusal": [
            label
            for label in taxonomy.labels
            if taxonomy.crosswalk(label).get("xstest", label) in refusals
        ],
        "harm": [c.label for c in taxonomy.categories if c.harms == "yes"],
        "not_helped": [c.label for c in taxonomy.categories if c.helps == "no"],
    }
    return {metric: tuple(labels) for metric, labels in found.items() if labels}


def _unique(what: str, values: Iterable[str]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"{what} {twice[0]!r} is used twice")


# -- mending --------------------------------------------------------------------------------------

_SECTIONS: dict[str, type[BaseModel]] = {
    "": Plan,
    "templates": SentenceTemplate,
    "groups": Group,
    "prompts": PromptsFile,
    "prompts.columns": PromptColumns,
    "responses": ResponsesFile,
    "responses.columns": ResponseColumns,
    "generators": GeneratorSpec,
    "judges": JudgeSpec,
    "sampling": Sampling,
}
_SEE = "prompts/audits/qos-names.toml is a whole plan."


def _mend(error: ValidationError) -> str:
    """What to do about the first problem of a plan, which is the one that `describe` names."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    names = [part for part in first["loc"] if isinstance(part, str)]
    key = names[-1] if names else ""
    table = ".".join(names[:-1])
    match first["type"]:
        case "missing":
            mend = f"Add the key {key!r}."
        case "extra_forbidden":
            known = [*_SECTIONS.get(table, Plan).model_fields, *([] if table else ["extends"])]
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"Did you mean {near[0]!r}? " if near else ""
            mend += f"The keys here are {', '.join(known)}."
        case "string_pattern_mismatch" if (table, key) == ("", "name"):
            mend = "Use lower-case letters, digits, _ and -, beginning with a letter."
        case "string_pattern_mismatch" if (table, key) == ("templates", "id"):
            mend = "Use letters, digits and _ . - only, beginning with a letter or digit."
        case "string_pattern_mismatch":
            mend = "Write something, without | or control characters."
        case "string_type":
            mend = "Put the value in quotes."
        case "tuple_type" if key in _SECTIONS:
            mend = f"Write each entry under its own [[{key}]], with two brackets."
        case "tuple_type":
            mend = f"Write {key!r} as a list: [ ... ]."
        case "value_error" if "has no {name}" in first["msg"]:
            mend = "Put {name} where the name goes."
        case "value_error" if "is used twice" in first["msg"]:
            mend = "Drop one of them, or rename it: a name can stand for one thing alone."
        case "value_error":
            mend = "Change the plan as the message says."
        case _:
            mend = "Mend the key that the message names."
    return f"{mend} {_SEE}"
