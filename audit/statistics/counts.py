"""From rows to counts: what was judged how often, per name and template.

Knows what a row is and which rows cannot be counted. It knows nothing of chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from evenhand.schemas.audit import default_metrics
from evenhand.schemas.taxonomy import Taxonomy

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# A side of a comparison: which groups, (groups,) of booleans.
Side = npt.NDArray[np.bool_]

KEYS = ("model", "group", "name", "template")
# Counts are dense; a table whose names hardly share templates would not fit.
MOST_CELLS = 10_000_000


@dataclass(frozen=True, slots=True)
class Metric:
    """A response counts towards a metric when its label is one of `labels`."""

    name: str
    labels: frozenset[str]


def composites(taxonomy: Taxonomy) -> tuple[Metric, ...]:
    """`any_refusal`, `harm` and `not_helped`, as far as the taxonomy says what they are.

    See `default_metrics`. Where a label bears the name already, the name stays the label's.
    """
    return tuple(
        Metric(name, frozenset(labels))
        for name, labels in default_metrics(taxonomy).items()
        if name not in taxonomy.labels
    )


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """One model's rows, added up.

    `hits` (metrics, names, templates) counts the rows of each metric among the `judged` (names,
    templates) ones; `rows` has all. A name belongs to one group, and names stand group by group:
    `group_of` (names,) ascends and holds indices into `groups`, each of which has a name.
    """

    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    names: tuple[str, ...]
    templates: tuple[str, ...]
    group_of: Indices
    hits: Indices
    judged: Indices
    rows: Indices

    @property
    def names_in(self) -> Indices:
        """How many names each group has, (groups,)."""
        return np.bincount(self.group_of, minlength=len(self.groups))

    @property
    def stack(self) -> Floats:
        """Hits of each metric, then judged rows: (metrics + 1, names, templates)."""
        return np.concatenate([self.hits, self.judged[None]]).astype(np.float64)

    def by_group(self, of_names: npt.NDArray[np.generic]) -> Floats:
        """Sums over the names of each group, (..., names) to (..., groups)."""
        starts = np.append(0, self.names_in.cumsum()[:-1])
        return np.add.reduceat(of_names.astype(np.float64), starts, axis=-1)


def count(
    table: pl.DataFrame | pl.LazyFrame, metrics: Sequence[Metric], labels: Iterable[str]
) -> dict[str, Counts]:
    """Each model's rows, added up. Everything is sorted: the order of rows never shows.

    Raises `ValueError` where rows cannot be counted as they stand: a missing column or key, a
    label that is none of `labels`, a label without the status `judged` (or the reverse), two rows
    of one sample.
    """
    frame = table.lazy()
    columns = frame.collect_schema().names()
    lacking = [column for column in (*KEYS, "label") if column not in columns]
    if lacking:
        raise ValueError(f"the table has no column {lacking[0]!r}")
    # As text, or a categorical column would sort by its codes.
    frame = frame.with_columns(pl.col(*KEYS, "label").cast(pl.String))
    label = pl.col("label")
    judged = label.is_not_null()
    checks = {
        "a label that the taxonomy does not have": (judged & ~label.is_in(list(labels))).any()
    }
    if "status" in columns:
        said = pl.col("status").eq_missing(pl.lit("judged"))
        checks["a status that contradicts the label"] = (said != judged).any()
    if "sample" in columns:
        checks["two rows of one sample"] = pl.col("sample").n_unique() < pl.len()
    cells = (
        frame.group_by(KEYS)
        .agg(
            pl.len().alias("rows"),
            judged.sum().alias("judged"),
            *(label.is_in(list(m.labels)).sum().alias(f"hits {i}") for i, m in enumerate(metrics)),
            *(check.alias(problem) for problem, check in checks.items()),
        )
        .sort(KEYS)
        .collect()
    )
    for key in KEYS:
        if cells[key].null_count():
            raise ValueError(f"a row has no {key}")
    for problem in checks:
        for row in cells.filter(pl.col(problem)).iter_rows(named=True):
            raise ValueError(f"{problem}: " + ", ".join(f"{key} {row[key]!r}" for key in KEYS))
    return {
        str(of_model["model"][0]): _dense(of_model, metrics)
        for of_model in cells.partition_by("model", maintain_order=True)
    }


def _dense(cells: pl.DataFrame, metrics: Sequence[Metric]) -> Counts:
    """Counts of one model, from one row a cell."""
    names = cells.select("group", "name").unique().sort("group", "name")
    groups, templates = names["group"].unique().sort(), cells["template"].unique().sort()
    if len(names) * len(templates) > MOST_CELLS:
        raise ValueError(
            f"{len(names)} names x {len(templates)} templates do not fit: prompts that differ in "
            "nothing but the name share a template"
        )
    placed = cells.join(names.with_row_index("i"), on=["group", "name"]).join(
        templates.to_frame().with_row_index("j"), on="template"
    )

    def dense(column: str) -> Indices:
        out = np.zeros((len(names), len(templates)), np.int64)
        out[placed["i"].to_numpy(), placed["j"].to_numpy()] = placed[column].to_numpy()
        return out

    return Counts(
        metrics=tuple(m.name for m in metrics),
        groups=tuple(map(str, groups)),
        names=tuple(map(str, names["name"])),
        templates=tuple(map(str, templates)),
        group_of=np.searchsorted(groups.to_numpy(), names["group"].to_numpy()),
        hits=np.stack([dense(f"hits {i}") for i in range(len(metrics))]),
        judged=dense("judged"),
        rows=dense("rows"),
    )
