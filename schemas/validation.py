"""Labels by people for the responses that a judge is measured on, and a request to measure it.

Knows what a row of such a set holds and where a file keeps it. It does not read files
(`audit/gold.py` does), nor compare labels (`judge/validation.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from evenhand.schemas.requests import BATCH_LIMIT
from evenhand.schemas.taxonomy import Taxonomy

Column = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class GoldColumns(BaseModel):
    """Where a row holds what; a path such as `doc.question` reaches inside.

    What is left out is found: `label` or `gold`; columns such as `annotation_1`, one for each
    annotator; `model`; `group`. Rows of one `unit` resemble each other: one name where there are
    groups and a column `name`, else one prompt. Without a column of labels the majority of the
    annotators counts. `raters` are others to set beside the judge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Column = "prompt"
    response: Column = "response"
    label: Column | None = None
    annotators: tuple[Column, ...] | None = None
    raters: tuple[Column, ...] = ()
    model: Column | None = None
    group: Column | None = None
    unit: Column | None = None


@dataclass(frozen=True, slots=True)
class GoldRow:
    """A response and its label: an index into the labels of the set's taxonomy.

    None where annotators gave labels but none counts: they disagree without a majority, or the
    label that was settled on is not there. `annotators` and `raters` are indices too, None where
    one gave no label.
    """

    where: str
    prompt: str
    response: str
    label: int | None
    unit: str
    model: str | None = None
    group: str | None = None
    annotators: tuple[int | None, ...] = ()
    raters: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Unusable:
    """Rows that could not be used, or not in full, and the first places where they stand."""

    reason: str
    rows: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gold:
    """Labelled responses. `sha256` is of texts and labels; `read_as` says what was taken for what.

    `unit` is the column whose values say which rows are not independent. Of the rows that could not
    be used in full, those `excluded` are not among `rows`, the `partial` ones are.
    """

    name: str
    sha256: str
    taxonomy: Taxonomy
    rows: tuple[GoldRow, ...]
    annotators: tuple[str, ...] = ()
    raters: tuple[str, ...] = ()
    unit: str = "prompt"
    excluded: tuple[Unusable, ...] = ()
    partial: tuple[Unusable, ...] = ()
    read_as: tuple[str, ...] = ()


class ValidationOptions(BaseModel):
    """What may be asked of a validation.

    `taxonomy` judges (the service's own where left out) and `gold_taxonomy` is that of the labels,
    which are found out where it is left out. `label_map` says which text stands for which label.
    `target_agreement` asks from which confidence on the judge agrees with people so often, but for
    a chance of `delta`. `fit` measures what a calibration of that kind would bring. `epsilon` is
    for the alternative annotator test. `budget` asks how many labels by people an audit of
    `budget_rows` responses (as many as there are here) needs for an interval of that width, as a
    fraction. A report of the same `name` replaces the one before it;
    without `save` none is kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    taxonomy: str | None = None
    gold_taxonomy: str | None = None
    columns: GoldColumns = GoldColumns()
    label_map: dict[str, str] = {}
    target_agreement: Share | None = None
    delta: Share = 0.1
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.2
    fit: Literal["temperature", "vector"] | None = None
    budget: Share | None = None
    budget_rows: Annotated[int, Field(ge=1)] | None = None
    save: bool = True


class ValidationRequest(ValidationOptions):
    """`POST /v1/validations`: the same, and rows, which are objects with the columns."""

    rows: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=BATCH_LIMIT,
            json_schema_extra={"items": {"type": "object"}},
        ),
    ]
