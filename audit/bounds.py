"""What rates and differences could be, where rows without a verdict do not say all that they are.

`audit/statistics` has the bounds over rows whose model, group, name and template are known. A row
that could not be read, or lacks one of these, has no verdict either; it may belong wherever what is
known of it fits, and widens the bounds there. It moves no rate and no interval.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import polars as pl

from evenhand.audit.statistics import Analysis, Axis, Comparison, Rate

_PLACES: Mapping[Axis, tuple[str, ...]] = {
    "model": ("model",),
    "group": ("model", "group"),
    "name": ("model", "group", "name"),
    "template": ("model", "template"),
}
_Place = tuple[str | None, ...]


def widen(analysis: Analysis, lacking: pl.DataFrame, counted: Sequence[Axis] = ()) -> Analysis:
    """The analysis with bounds that hold for `lacking` as well.

    `lacking` has a row for each response without verdict that lacks a `model`, `group`, `name` or
    `template` (null). Rates by an axis in `counted` count those of their own already; the others
    have them in `rows` from here on.
    """
    if lacking.is_empty():
        return analysis
    counts = {axis: _count(lacking, _PLACES[axis]) for axis in get_args(Axis)}
    rates = tuple(
        _rate(rate, counts[rate.by], counted=rate.by in counted) for rate in analysis.rates
    )
    groups: dict[tuple[str, str], dict[str, Rate]] = {}
    for rate in rates:
        if rate.by == "group":
            groups.setdefault((rate.model, rate.metric), {})[rate.key] = rate
    comparisons = tuple(
        _comparison(one, groups[one.model, one.metric], counts["group"])
        for one in analysis.comparisons
    )
    return replace(analysis, rates=rates, comparisons=comparisons)


def bounds(hits: int, judged: int, rows: int) -> tuple[float, float]:
    """The fraction of all `rows` if none without a verdict counted, and if all did."""
    return hits / rows, (hits + rows - judged) / rows


def _count(rows: pl.DataFrame, keys: tuple[str, ...]) -> Counter[_Place]:
    return Counter({tuple(place): n for *place, n in rows.group_by(keys).len().iter_rows()})


def _possible(counts: Counter[_Place], places: Iterable[_Place]) -> int:
    """How many rows may belong to one of the places, and are not known to."""
    fitting: set[_Place] = set()
    for place in places:
        for known in itertools.product((True, False), repeat=len(place)):
            fitting.add(tuple(x if here else None for x, here in zip(place, known, strict=True)))
        fitting.discard(place)
    return sum(counts[place] for place in fitting)


def _rate(rate: Rate, counts: Counter[_Place], *, counted: bool) -> Rate:
    key = {"model": rate.model, "group": rate.group, "name": rate.key, "template": rate.key}
    place = tuple(key[axis] for axis in _PLACES[rate.by])
    rows = rate.rows + (0 if counted else counts[place])
    possible = _possible(counts, [place])
    return replace(rate, rows=rows, bounds=bounds(rate.hits, rate.judged, rows + possible))


def _comparison(one: Comparison, groups: Mapping[str, Rate], counts: Counter[_Place]) -> Comparison:
    """A row of unknown group may be on either side, and counts towards both ends."""
    others = [g for g in groups if g != one.group] if one.against is None else [one.against]

    def ends(side: Sequence[str]) -> tuple[float, float]:
        of = [groups[g] for g in side]
        possible = _possible(counts, [(one.model, g) for g in side])
        return bounds(
            sum(r.hits for r in of), sum(r.judged for r in of), sum(r.rows for r in of) + possible
        )

    here, there = ends([one.group]), ends(others)
    return replace(one, bounds=(100 * (here[0] - there[1]), 100 * (here[1] - there[0])))
