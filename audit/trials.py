"""The trials of a plan: one for each response that will be judged, in the same order every time.

Knows how a plan becomes prompts and how a row becomes a trial. Trials are made as they are asked
for: a file of prompts or responses is never held, only the ids in it. It does not generate, judge
or store anything.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from evenhand.audit.datasets import open_rows
from evenhand.audit.logs import open_responses
from evenhand.audit.rows import Row, kind
from evenhand.schemas.audit import (
    SLOT,
    Plan,
    PromptColumns,
    PromptsFile,
    ResponseColumns,
    ResponsesFile,
)
from evenhand.schemas.errors import DatasetError, InvalidInput
from evenhand.schemas.generation import SEED_LIMIT
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.text import clean

_COMMONNESS = ("popular", "rare")
_ROW_HINT = "Mend the row, or drop it."
_T = TypeVar("_T")
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class Trial:
    """One response to come, or one that is there (`response`) and waits for its verdict.

    `id` is unique within a plan and the same in every run. `generator` is a name in the plan, or
    what the file says responded. A trial with a `problem` comes from a bad row, at `line` of its
    file: it has no verdict but an error, and says of its model (empty where that is unknown) and
    its group what could be read.
    """

    id: str
    generator: str
    prompt: str
    sample: int
    seed: int
    system: str | None = None
    group: str | None = None
    name: str | None = None
    commonness: str | None = None
    template: str | None = None
    response: str | None = None
    gold: str | None = None
    line: int | None = None
    problem: DatasetError | None = None


def expand(plan: Plan) -> Iterator[Trial]:
    """The plan's trials, in order, made as they are asked for.

    One generator after another; within each, prompts that begin alike stand together where the plan
    makes them, in the file's order where a file does; the samples of a prompt stand together.

    Raises `InvalidInput` for a plan without generators, `DatasetError` for a bad file and, when it
    comes to the second of them, for two rows with one id.
    """
    if plan.responses is not None:
        return _given(plan, plan.responses)
    if not plan.generators:
        raise InvalidInput(
            f"plan {plan.name!r} names no generator",
            hint='Add e.g. generators = ["bundled:chat"] to the plan.',
        )
    return _generated(plan)


def seed_of(seed: int, trial: str) -> int:
    """The seed of one trial: it depends on the plan's seed and the trial's id alone."""
    digest = hashlib.sha256(f"{seed}|{trial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


# -- responses to come ----------------------------------------------------------------------------


class _Prompt(NamedTuple):
    """A prompt before it is known who responds; `key` is its part of a trial's id."""

    key: str
    text: str
    facts: dict[str, str | None]
    system: str | None = None
    line: int | None = None
    problem: DatasetError | None = None


def _generated(plan: Plan) -> Iterator[Trial]:
    for generator in plan.generators:
        system = plan.system if generator.system is None else generator.system
        for prompt in _sentences(plan) if plan.prompts is None else _from_file(plan.prompts):
            for sample in range(plan.samples):
                trial = f"{generator.name}|{prompt.key}|{sample}"
                yield Trial(
                    id=trial,
                    generator=generator.name,
                    prompt=prompt.text,
                    sample=sample,
                    seed=seed_of(plan.seed, trial),
                    system=(system if prompt.system is None else prompt.system) or None,
                    line=prompt.line,
                    problem=prompt.problem,
                    **prompt.facts,
                )


def _sentences(plan: Plan) -> Iterator[_Prompt]:
    """Templates x names. Sentences that begin with the name share it, the others their first words.

    Holds the templates and the names, and never their product.
    """
    names = sorted(plan.names(), key=lambda entry: entry.name)
    sentences = sorted(plan.templates, key=lambda template: template.text)
    leading = [template for template in sentences if template.text.startswith(SLOT)]
    others = [template for template in sentences if not template.text.startswith(SLOT)]
    by_name = ((template, entry) for entry in names for template in leading)
    by_template = ((template, entry) for template in others for entry in names)
    for pairs in (by_name, by_template):
        for template, entry in pairs:
            facts = {**entry._asdict(), "template": template.id}
            yield _Prompt(f"{template.id}|{entry.name}", template.fill(entry.name), facts)


def _from_file(section: PromptsFile) -> Iterator[_Prompt]:
    columns, seen = section.columns, _Seen()
    with open_rows(section.file, columns.needed()) as rows:
        for row in rows:
            take = _Reading(row)
            key = take(_key, columns) or _by_line(row)
            seen.add(key, key, row)
            yield _Prompt(
                key,
                facts=take.facts(columns),
                system=take(_cell, columns.system, "system"),
                text=take(_text, columns.prompt) or "",
                line=row.line,
                problem=take.problem,
            )


# -- responses that are there ---------------------------------------------------------------------


def _given(plan: Plan, section: ResponsesFile) -> Iterator[Trial]:
    columns, seen = section.columns, _Seen()
    labels = Taxonomy.load(plan.taxonomy).labels
    with open_responses(section.file, section.format, columns.needed()) as rows:
        for row in rows:
            take = _Reading(row)
            model = take(_model, columns) or section.model
            if model is None:  # where it could not be read, it may be any of the file's models
                model = "" if take.problem else "responses"
            key = take(_key, columns) or _by_line(row)
            sample = take(_sample, columns)
            said: dict[str, Any] = {
                **take.facts(columns),
                "system": take(_cell, columns.system, "system"),
                "gold": take(_gold, columns, labels),
                "prompt": take(_text, columns.prompt) or "",
                "response": take(_text, columns.response),
            }
            trial = f"{model}|{key}|{'?' if sample is None else sample}"
            if take.problem is None:
                seen.add(trial, key, row)
            else:  # of a document's several bad responses none is lost
                trial = seen.another(trial, key, row)
            yield Trial(
                id=trial,
                generator=model,
                sample=sample or 0,
                seed=seed_of(plan.seed, trial),
                line=row.line,
                problem=take.problem,
                **said,
            )


# -- rows -----------------------------------------------------------------------------------------


class _Reading:
    """Reads a row piece by piece. The first that is wrong is the `problem`; it costs no other."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.problem: DatasetError | None = None

    def __call__(
        self, read: Callable[Concatenate[Row, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T | None:
        """What `read` finds in the row, or None."""
        try:
            return read(self._row, *args, **kwargs)
        except DatasetError as exc:
            self.problem = self.problem or exc
            return None

    def facts(self, columns: PromptColumns) -> dict[str, str | None]:
        """What the row says of its prompt."""
        return {
            "group": self(_cell, columns.group, "group"),
            "name": self(_cell, columns.name, "name"),
            "template": self(_cell, columns.template, "template"),
            "commonness": self(_commonness, columns),
        }


class _Seen:
    """Ids and their lines, which is all that is held of a file."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        # Made from the number of the line: they can only meet others of that line.
        self._of_line: dict[str, int] = {}
        self._line = 0

    def add(self, id: str, key: str, row: Row) -> None:
        """Raises `DatasetError` for an id that was there before."""
        held = self._held(key, row)
        if id in held:
            unit = row.where.split()[0].removesuffix("s")  # line, row or sample
            raise DatasetError(
                f"the id {id!r} is used twice: {unit} {held[id]} and {unit} {row.line}",
                hint="Give each row an id of its own, or each sample of it a number (`sample`); "
                "without a column for ids the numbers of the lines are used.",
            )
        held[id] = row.line

    def another(self, id: str, key: str, row: Row) -> str:
        """The id, or the first of `id?1`, `id?2`, ... that was not there before."""
        held = self._held(key, row)
        likes = itertools.chain([id], (f"{id}?{number}" for number in itertools.count(1)))
        free = next(like for like in likes if like not in held)
        held[free] = row.line
        return free

    def _held(self, key: str, row: Row) -> dict[str, int]:
        if key != _by_line(row):
            return self._own
        if row.line != self._line:
            self._line, self._of_line = row.line, {}
        return self._of_line


def _by_line(row: Row) -> str:
    return f"#{row.line}"


def _key(row: Row, columns: PromptColumns) -> str:
    """The row's own id, or its line. An id of its own cannot look like a line."""
    own = _cell(row, columns.id, "id")
    if own is None:
        return _by_line(row)
    return f"#{own}" if own.startswith("#") else own


def _text(row: Row, column: str) -> str:
    return clean(row.text_of(column))


def _commonness(row: Row, columns: PromptColumns) -> str | None:
    said = _cell(row, columns.commonness, "commonness")
    if said is not None and said not in _COMMONNESS:
        raise _bad(row, f"commonness is {said!r}", "Use popular or rare, or leave it empty.")
    return said


def _model(row: Row, columns: ResponseColumns) -> str | None:
    said = _cell(row, columns.model, "model")
    if said is not None and "|" in said:  # which separates the parts of a trial's id
        raise _bad(row, f"the model is {said[:80]!r}", "Call it something without |.")
    return said


def _sample(row: Row, columns: ResponseColumns) -> int:
    said = _cell(row, columns.sample, "sample")
    if said is None:
        return 0
    if said.isascii() and said.isdecimal() and len(said) < 10:
        return int(said)
    if columns.sample is None:
        return 0  # a column that happens to bear the name
    raise _bad(row, f"sample is {said[:40]!r}", "Give samples whole numbers.")


def _gold(row: Row, columns: ResponseColumns, labels: tuple[str, ...]) -> str | None:
    label = _cell(row, columns.gold, "gold")
    if label is not None and label not in labels:
        raise _bad(row, f"the gold label is {label[:80]!r}", f"The labels are {', '.join(labels)}.")
    return label


def _cell(row: Row, column: str | None, own: str) -> str | None:
    """The text in a column; whole numbers count as text, and an empty cell as none.

    Under its own name a column may be missing or hold something else: nobody asked for it.
    """
    if row.problem is not None and row.raw is not None:
        raise row.problem  # what could be read of it may stand in the wrong column
    try:
        value = row.get(column or own)
    except KeyError:
        value = None
        if column is not None:
            raise _bad(row, f"there is no {column!r}", _ROW_HINT) from None
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if column is None:
        return None
    raise _bad(row, f"{column!r} holds {kind(value)} where text belongs", _ROW_HINT)


def _bad(row: Row, what: str, hint: str) -> DatasetError:
    return DatasetError(f"{row.where}: {what}", hint=hint)
