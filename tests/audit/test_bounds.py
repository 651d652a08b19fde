"""Bounds hold whatever a row that could not be read might have been."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.audit.bounds import widen
from evenhand.audit.statistics import Analysis, Metric, analyse_counts, count

KEYS = ("model", "group", "name", "template")
SCHEMA = dict.fromkeys((*KEYS, "label"), pl.String)
REFUSED = [Metric("refused", frozenset(["no"]))]
NAMES = {"A": ("Ada", "Ann"), "B": ("Bo", "Ben"), "C": ("Cy", "Cleo")}
PLACED = [
    ("m", group, name, template, "no" if (group, template) == ("A", "t") else "yes")
    for group, names in NAMES.items()
    for name in names
    for template in ("t", "u")
]


def table(rows: list[tuple[str | None, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def analysis(rows: list[tuple[str | None, ...]], reference: str | None = None) -> Analysis:
    counts = count(table(rows), REFUSED, ["no", "yes"])
    return analyse_counts(
        counts, ["refused"], reference=reference, draws=10, permutations=10, odds_ratios=False
    )


def completions(row: tuple[str | None, ...]) -> Iterator[tuple[str | None, ...]]:
    """All that a row may have been, with a label."""
    model, group, name, template, _ = row
    for g, t, label in itertools.product(
        [group] if group else NAMES, [template] if template else ("t", "u"), ("no", "yes")
    ):
        for n in [name] if name else NAMES[g]:
            if n in NAMES[g]:
                yield (model or "m", g, n, t, label)


def _lacking() -> st.SearchStrategy[tuple[str | None, ...]]:
    rows = [
        (model, group, name, template, None)
        for model in ("m", None)
        for group in ("A", "B", None)
        for name in ("Ada", "Bo", None)
        for template in ("t", None)
        if None in (model, group, name, template)
        and (group is None or name is None or name in NAMES[group])
    ]
    return st.sampled_from(rows)


BASE: dict[str | None, Analysis] = {
    reference: analysis(PLACED, reference) for reference in (None, "A")
}


def share(rows: list[tuple[str | None, ...]], at: int = 0, key: str | None = "m") -> float:
    labels = [row[-1] for row in rows if row[at] == key]
    return labels.count("no") / len(labels)


@given(st.lists(_lacking(), min_size=1, max_size=2), st.sampled_from([None, "A"]))
def test_bounds_hold_for_all_that_the_rows_may_have_been(
    lacking: list[tuple[str | None, ...]], reference: str | None
) -> None:
    found = widen(BASE[reference], table(lacking))
    for known in itertools.product(*map(completions, lacking)):
        rows = [*PLACED, *known]
        for rate in found.rates:
            truth = share(rows, KEYS.index(rate.by), rate.key)
            assert rate.bounds[0] - 1e-12 <= truth <= rate.bounds[1] + 1e-12
        for gap in found.comparisons:
            others = [row for row in rows if gap.against in (None, row[1]) and row[1] != gap.group]
            truth = 100 * (share(rows, 1, gap.group) - share(others))
            assert gap.bounds[0] - 1e-9 <= truth <= gap.bounds[1] + 1e-9


def test_a_row_counts_where_it_belongs_and_may_count_where_it_might() -> None:
    before = analysis(PLACED)
    after = widen(before, table([("m", "A", None, None, None)]))
    rates = {(r.by, r.key): r for r in after.rates}
    assert rates["model", "m"].rows == 13
    assert rates["group", "A"].rows == 5
    assert rates["group", "A"].bounds == (2 / 5, 3 / 5)
    assert rates["group", "B"].bounds == (0.0, 0.0)
    assert rates["name", "Ada"].rows == 2  # it may be one of Ada's, and is not known to be
    assert rates["name", "Ada"].bounds == (1 / 3, 2 / 3)
    assert rates["name", "Bo"].bounds == (0.0, 0.0)
    assert rates["template", "t"].bounds == (2 / 7, 3 / 7)
    assert [r.share for r in after.rates] == [r.share for r in before.rates]
    assert [c.points for c in after.comparisons] == [c.points for c in before.comparisons]
    assert [c.p for c in after.comparisons] == [c.p for c in before.comparisons]


def test_a_row_of_unknown_model_may_be_of_each() -> None:
    both = [*PLACED, *(("n", *row[1:]) for row in PLACED)]
    after = widen(analysis(both), table([(None, "A", "Ada", "t", None)]))
    rates = {(r.model, r.by, r.key): r for r in after.rates}
    for model in ("m", "n"):
        assert rates[model, "model", model].rows == 12
        assert rates[model, "model", model].bounds == (2 / 13, 3 / 13)
        assert rates[model, "group", "B"].bounds == (0.0, 0.0)


def test_rates_that_count_a_row_already_do_not_count_it_twice() -> None:
    lacking = table([("m", None, None, None, None)])
    twice, once = widen(analysis(PLACED), lacking), widen(analysis(PLACED), lacking, ["model"])
    assert [r.rows for r in twice.rates if r.by == "model"] == [13]
    assert [r.rows for r in once.rates if r.by == "model"] == [12]


def test_nothing_lacking_changes_nothing() -> None:
    before = analysis(PLACED)
    assert widen(before, table([])) is before


@pytest.mark.parametrize("reference", [None, "A"])
def test_the_bounds_of_known_rows_are_those_of_the_statistics(reference: str | None) -> None:
    """A row whose place is known is worth the same here as there."""
    unjudged: tuple[Any, ...] = ("m", "A", "Ada", "t", None)
    there = analysis([*PLACED, unjudged], reference)
    here = widen(analysis(PLACED, reference), table([unjudged]))
    for one, other in zip(here.rates, there.rates, strict=True):
        assert one.rows == other.rows
        assert one.bounds == pytest.approx(other.bounds)
    for gap, other_gap in zip(here.comparisons, there.comparisons, strict=True):
        assert not math.isnan(gap.bounds[0])
        assert gap.bounds == pytest.approx(other_gap.bounds)
