"""Rates and differences of an audit, corrected with labels that people gave to some of its rows.

Knows a judge's rows, which of them people labelled, and how these were drawn. The method is
`judge/correction.py`'s; the uncorrected figures come from the analysis and stand beside. It does
not know the store or words. docs/statistics.md says what the figures rest on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict

from evenhand.audit.statistics import Analysis, Comparison, Estimate, Metric
from evenhand.judge import agreement
from evenhand.judge.correction import (
    PPI,
    Audited,
    Corrected,
    missing,
    ppi_difference,
    ppi_rate,
)
from evenhand.judge.differential import differential_error

_SILENT = "no response has a verdict"
BOOTSTRAP = "share of verdicts, two-way cluster bootstrap"
Bools = npt.NDArray[np.bool_]
# What a corrected difference does to what the test of the verdicts found.
Reading = Literal["holds", "lost", "reversed", "new", "none", "unknown"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class CorrectedRate(_Part):
    """A rate of a model, or of one of its groups, as verdicts have it and as people would."""

    model: str
    group: str | None
    metric: str
    uncorrected: Corrected
    corrected: Corrected


class CorrectedDifference(_Part):
    """A group's rate less that of another (`against`), or of all others (null), as fractions.

    `reading` is what the corrected figure does to the finding of the verdicts' test: a difference
    that was found `holds`, is `lost` (the interval holds zero) or `reversed`; one that was not
    found is `new` where zero lies outside of the interval at `joint_level`, which allows for all
    differences of the judge (Bonferroni), else `none`. `unknown` without a corrected figure.
    """

    model: str
    metric: str
    group: str
    against: str | None
    uncorrected: Corrected
    corrected: Corrected
    reading: Reading


class ErrorRates(_Part):
    """How the judge does on one group, by the labels of people.

    `positives` and `negatives` count the labelled rows that are and are not of the metric.
    """

    group: str
    positives: int
    negatives: int
    sensitivity: Estimate
    specificity: Estimate


class JudgeErrors(_Part):
    """The judge's errors in one metric, by group, over all models.

    `p` is of a test that they are the same in all groups, of missed positives and false alarms
    together; NaN where there is none, and `notes` say why.
    """

    metric: str
    groups: tuple[ErrorRates, ...]
    p: float
    notes: tuple[str, ...]


class Correction(_Part):
    """What labels by people make of a judge's figures.

    `labelled` of the judge's `judged` rows have a label by people. `unjudged` counts labels that
    people gave to rows on which the judge gave none: they are in no rate.
    """

    judged: int
    labelled: int
    unjudged: dict[str, int]
    joint_level: float
    rates: tuple[CorrectedRate, ...]
    differences: tuple[CorrectedDifference, ...]
    errors: tuple[JudgeErrors, ...]


def correct(
    rows: pl.DataFrame,
    metrics: Sequence[Metric],
    compared: Sequence[str],
    analysis: Analysis,
    *,
    level: float = 0.95,
    alpha: float = 0.05,
) -> Correction:
    """The figures of `analysis` beside those corrected with labels by people.

    `rows` are one judge's: `model`, `group`, `name`, `template`, `label` (null: no verdict),
    `human` (null: nobody labelled it), `weight` of a row that was labelled, and `barred`: why rows
    such as this one could not be labelled, null where they could. Rates are of `metrics`, tests and
    error rates of those in `compared`.
    """
    judged = rows.filter(pl.col("label").is_not_null())
    placed = judged.drop_nulls(("group", "name", "template"))
    joint = 1 - (1 - level) / max(1, len(analysis.comparisons))
    models = {str(own["model"][0]): _Model.of(own) for own in placed.partition_by("model")}
    by_name = {metric.name: metric for metric in metrics}
    rates = [
        CorrectedRate(
            model=rate.model,
            group=rate.group,
            metric=rate.metric,
            uncorrected=_uncorrected(rate.share, level),
            corrected=_rate(
                models.get(rate.model), rate.group, by_name[rate.metric], judged, rate.model, level
            ),
        )
        for rate in analysis.rates
        if rate.by in ("model", "group") and rate.judged
    ]
    differences = [
        _difference(models.get(one.model), one, by_name[one.metric], level, joint, alpha)
        for one in analysis.comparisons
    ]
    without = rows.filter(pl.col("label").is_null() & pl.col("human").is_not_null())
    return Correction(
        judged=len(judged),
        labelled=judged["human"].count(),
        unjudged=dict(without.group_by("human").len().sort("human").iter_rows()),
        joint_level=joint,
        rates=tuple(rates),
        differences=tuple(differences),
        errors=tuple(_errors(placed, by_name[name], level) for name in compared),
    )


# -- rates and differences ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """One model's rows as arrays, (rows,)."""

    group: npt.NDArray[np.object_]
    names: npt.NDArray[np.int64]
    templates: npt.NDArray[np.int64]
    label: pl.Series
    human: pl.Series
    weight: npt.NDArray[np.float64]
    barred: pl.Series

    @classmethod
    def of(cls, rows: pl.DataFrame) -> _Model:
        return cls(
            rows["group"].to_numpy(),
            agreement.codes(list(rows.select("group", "name").iter_rows())),
            agreement.codes(rows["template"].to_list()),
            rows["label"],
            rows["human"],
            rows["weight"].fill_null(math.nan).to_numpy(),
            rows["barred"],
        )

    def side(self, where: Bools, metric: Metric) -> Audited | str:
        """The rows of one side of a figure, or why there can be none."""
        if not where.any():
            return _SILENT
        barred = self.barred.filter(pl.Series(where)).drop_nulls()
        if len(barred):
            return str(barred[0])
        labels = list(metric.labels)
        said = self.label.is_in(labels).to_numpy().astype(float)
        human = self.human.is_in(labels).cast(pl.Float64).fill_null(math.nan).to_numpy()
        return Audited(
            human[where],
            said[where],
            self.weight[where],
            (self.names[where], self.templates[where]),
        )


def _rate(
    model: _Model | None,
    group: str | None,
    metric: Metric,
    judged: pl.DataFrame,
    name: str,
    level: float,
) -> Corrected:
    every = judged.filter(pl.col("model") == name)
    if group is not None:
        every = every.filter(pl.col("group") == group)
    side: Audited | str = (
        "rows lack a group, a name or a template, so it is not known which resemble each other"
    )
    if model is not None:
        where = np.full(len(model.group), True) if group is None else model.group == group
        if where.sum() == len(every):
            side = model.side(where, metric)
    if isinstance(side, str):
        return missing(PPI, level, every["human"].count(), side)
    return ppi_rate(side, level=level)


def _difference(
    model: _Model | None,
    one: Comparison,
    metric: Metric,
    level: float,
    joint: float,
    alpha: float,
) -> CorrectedDifference:
    sides: list[Audited | str] = [_SILENT]
    labels = 0
    if model is not None:
        here = model.group == one.group
        there = ~here if one.against is None else model.group == one.against
        labels = model.human.filter(pl.Series(here | there)).count()
        sides = [model.side(where, metric) for where in (here, there)]
    ready = [side for side in sides if isinstance(side, Audited)]
    if len(ready) == 2:
        corrected = ppi_difference(ready[0], ready[1], level=level)
        wide = ppi_difference(ready[0], ready[1], level=joint)
    else:
        reason = next(side for side in sides if isinstance(side, str))
        corrected = wide = missing(PPI, level, labels, reason)
    points = Estimate(*(x / 100 for x in (one.points.value, one.points.low, one.points.high)))
    return CorrectedDifference(
        model=one.model,
        metric=one.metric,
        group=one.group,
        against=one.against,
        uncorrected=_uncorrected(points, level),
        corrected=corrected,
        reading=_read(one, corrected, wide, alpha),
    )


def _read(one: Comparison, corrected: Corrected, wide: Corrected, alpha: float) -> Reading:
    found = one.p.adjusted <= alpha
    low, high = (corrected if found else wide).interval or (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    if low <= 0 <= high:
        return "lost" if found else "none"
    if not found:
        return "new"
    return "holds" if (low > 0) == (one.points.value > 0) else "reversed"


def _uncorrected(estimate: Estimate, level: float) -> Corrected:
    known = not math.isnan(estimate.low + estimate.high)
    return Corrected(
        status="uncorrected",
        method=BOOTSTRAP if known else "share of verdicts",
        estimate=None if math.isnan(estimate.value) else estimate.value,
        interval=(estimate.low, estimate.high) if known else None,
        level=level,
        labels=0,
    )


# -- the judge's errors ---------------------------------------------------------------------------


def _errors(placed: pl.DataFrame, metric: Metric, level: float) -> JudgeErrors:
    """Sensitivity and specificity by group, and a test that they are the same."""
    rows = placed.filter(pl.col("human").is_not_null()).sort("group", "name", "template")
    labels = list(metric.labels)
    gold, said = (rows[column].is_in(labels).to_numpy() for column in ("human", "label"))
    groups = rows["group"].to_list()
    names = list(rows.select("group", "name").iter_rows())
    weight = rows["weight"].to_numpy()
    if not len(rows):
        return JudgeErrors(metric=metric.name, groups=(), p=math.nan, notes=())
    uneven = rows.group_by("group").agg(pl.col("weight").max() / pl.col("weight").min())
    if uneven["weight"].max() <= 1 + 1e-9:  # type: ignore[operator]
        found = differential_error(gold, said, groups, names, level=level)
        return JudgeErrors(
            metric=metric.name,
            groups=tuple(
                ErrorRates(
                    group=one.group,
                    positives=one.positives,
                    negatives=one.negatives,
                    sensitivity=_estimate(one.sensitivity),
                    specificity=_estimate(one.specificity),
                )
                for one in found.groups
            ),
            p=found.p,
            notes=found.notes,
        )
    return JudgeErrors(
        metric=metric.name,
        groups=tuple(_weighted(gold, said, groups, names, weight, level)),
        p=math.nan,
        notes=(
            "Rows of one group were drawn with unlike chances, so these are weighted shares, and "
            "there is no test that groups are alike.",
        ),
    )


def _weighted(
    gold: Bools,
    said: Bools,
    groups: Sequence[str],
    names: Sequence[object],
    weight: npt.NDArray[np.float64],
    level: float,
) -> Iterator[ErrorRates]:
    for group in sorted(set(groups)):
        here = np.array([g == group for g in groups])
        shares = []
        for kind in (True, False):
            rows = np.nonzero(here & (gold == kind))[0]
            clusters = [names[i] for i in rows.tolist()]
            shares.append(_share(said[rows] == kind, weight[rows], clusters, level))
        yield ErrorRates(
            group=group,
            positives=int((here & gold).sum()),
            negatives=int((here & ~gold).sum()),
            sensitivity=shares[0],
            specificity=shares[1],
        )


def _share(
    hits: Bools, weight: npt.NDArray[np.float64], clusters: Sequence[object], level: float
) -> Estimate:
    """A weighted share. Where all or none are hits, the interval is that of equal weights."""
    if not len(hits) or hits.all() or not hits.any():
        return _estimate(agreement.share(hits, clusters, level=level))

    def statistic(rows: agreement.Indices) -> float:
        return float(weight[rows] @ hits[rows] / weight[rows].sum())

    low, high = agreement.interval(statistic, clusters, level=level)
    return Estimate(statistic(np.arange(len(hits))), low, high)


def _estimate(one: agreement.Estimate) -> Estimate:
    return Estimate(one.value, one.low, one.high)
