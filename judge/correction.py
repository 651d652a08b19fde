"""Rates corrected for a judge's errors, with intervals that carry all that is uncertain.

Knows counts and arrays: what a judge said, what people said, how rows were drawn and which resemble
each other. It knows nothing of files, taxonomies, audits or reports. Three ways, by what there is:

- `rogan_gladen`: counts of a yes-or-no judgement, and the judge's hits on a calibration set;
- `confusion_inverse`: the same for more classes;
- `ppi_rate` and `ppi_difference`: people's labels on a random subset of the rows themselves.

The first two assume that the judge errs in the audit as often as on the calibration set, given the
true class. The last assumes nothing about the judge. Where a correction is not identified there is
a reason and no number. docs/validity.md measures how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import optimize, stats

from evenhand.schemas.errors import InvalidInput

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Status = Literal["corrected", "uncorrected"]

# Fewer labelled rows of a class than this say nothing about how a judge treats it.
LEAST = 5
# An estimate so many standard errors below 0 or above 1 (one in a thousand) is no chance.
OUT_OF_REACH = 3.29

WILSON = "Wilson score interval"
ROGAN_GLADEN = "Rogan-Gladen, Lang-Reiczigel interval"
INVERSE = "confusion-matrix inverse, adjusted delta interval"
PPI = "prediction-powered inference (PPI++), adjusted interval"
PLAIN_PPI = "prediction-powered inference (PPI++)"
UNLIKE = (
    "what the judge says in the audit is out of reach of the error rates that it was calibrated "
    "to: it does not err there as it does on the calibration set"
)
ONE_CLUSTER = "the rows are of one cluster alone, so how clusters vary is unknown"


class Corrected(BaseModel):
    """A rate or a difference of rates, as fractions, with its interval at `level`.

    `status` is `corrected` where judge error was corrected for. `estimate` and `interval` are both
    None where they are not identified; the status is `uncorrected` then and `reason` says why.
    `labels` is the number of human labels that it rests on; those of a calibration set with
    clusters are as many as they are worth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    method: str
    estimate: float | None
    interval: tuple[float, float] | None
    level: float
    labels: int
    reason: str | None = None


def _found(
    method: str,
    estimate: float,
    low: float,
    high: float,
    level: float,
    labels: int,
    *,
    least: float = 0.0,
    status: Status = "corrected",
) -> Corrected:
    """Estimate and interval, kept within [least, 1]; the interval holds the estimate."""
    estimate = min(max(estimate, least), 1.0)
    interval = (max(min(low, estimate), least), min(max(high, estimate), 1.0))
    return Corrected(
        status=status,
        method=method,
        estimate=estimate,
        interval=interval,
        level=level,
        labels=labels,
    )


def missing(method: str, level: float, labels: int, reason: str) -> Corrected:
    """No corrected figure, and why."""
    return Corrected(
        status="uncorrected",
        method=method,
        estimate=None,
        interval=None,
        level=level,
        labels=labels,
        reason=f"not identified: {reason}",
    )


def _normal(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InvalidInput(f"the level is {level}", hint="Give one between 0 and 1, as 0.95.")
    return float(stats.norm.ppf((1 + level) / 2))


# -- counts and a calibration set -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A judge's hits among the rows of a calibration set that are, and are not, of a class.

    Counts need not be whole: where rows of the set resemble each other they are those of as many
    independent rows as these are worth, which `of` works out.
    """

    true_positives: float
    positives: float
    true_negatives: float
    negatives: float

    def __post_init__(self) -> None:
        for hits, rows in (
            (self.true_positives, self.positives),
            (self.true_negatives, self.negatives),
        ):
            if not 0 <= hits <= rows < math.inf:
                raise InvalidInput(
                    f"{hits} hits of {rows} rows", hint="Give counts, hits no more than rows."
                )

    @classmethod
    def of(
        cls,
        gold: npt.ArrayLike,
        said: npt.ArrayLike,
        clusters: Sequence[npt.ArrayLike] = (),
        *,
        level: float = 0.95,
    ) -> Accuracy:
        """From true classes and a judge's, (rows,) of booleans each.

        `clusters` as in `Audited`, say the prompts of the set: counts of either class are divided
        by the `design_effect` of the hits in it (Rao & Scott 1992), at the interval's `level`.
        Where all are hits or none, how clusters vary is not seen, and a cluster counts as a row.
        """
        g, s = np.asarray(gold, bool), np.asarray(said, bool)
        keys = [np.asarray(key) for key in clusters]
        if any(x.shape != g.shape for x in (s, *keys)):
            raise InvalidInput(
                f"{g.size} gold labels, {s.size} judged ones and clusters of "
                f"{[key.size for key in keys]} rows",
                hint="Give each row all of them.",
            )
        counts: list[float] = []
        for rows, hits in ((g, s[g]), (~g, ~s[~g])):
            effect = _effect_of_hits(hits, [key[rows] for key in keys], level) if keys else 1
            counts += [int(hits.sum()) / effect, len(hits) / effect]
        return cls(*counts)


def _effect_of_hits(
    hits: Bools, clusters: Sequence[npt.NDArray[np.generic]], level: float
) -> float:
    """Their design effect; where they do not vary, that of clusters whose rows are copies."""
    if not len(hits):
        return 1.0
    effect = design_effect(hits, clusters, level=level)
    if hits.all() or not hits.any():
        sizes = (np.unique(key, return_counts=True)[1] for key in clusters)
        effect *= max(float((size**2).sum()) / len(hits) for size in sizes)
    return max(effect, 1.0)


def _check_counts(positives: float, rows: float, design_effect: float) -> None:
    if not (0 <= positives <= rows < math.inf and rows > 0 and design_effect >= 1):
        raise InvalidInput(
            f"{positives} positives of {rows} rows, design effect {design_effect}",
            hint="Give counts of at least one row, and a design effect from 1.",
        )


def uncorrected_rate(
    positives: float, rows: float, *, level: float = 0.95, design_effect: float = 1.0
) -> Corrected:
    """What the judge says, taken for the truth: the share, with Wilson's interval (1927).

    `design_effect`: see `rogan_gladen`. Raises `InvalidInput`.
    """
    _check_counts(positives, rows, design_effect)
    if math.isinf(design_effect):
        return missing(WILSON, level, 0, ONE_CLUSTER)
    z, n, p = _normal(level), rows / design_effect, positives / rows
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return _found(WILSON, p, middle - half, middle + half, level, 0, status="uncorrected")


def rogan_gladen(
    positives: float,
    rows: float,
    accuracy: Accuracy,
    *,
    level: float = 0.95,
    design_effect: float = 1.0,
) -> Corrected:
    """The true rate behind `positives` of `rows` that a judge said yes to (Rogan & Gladen 1978).

    The interval carries the uncertainty of the calibration set and is adjusted for few counts (Lang
    & Reiczigel 2014; for judges Lee et al., arXiv 2511.21140). `design_effect` is how many times
    the variance of the judge's rate is that of independent rows: see the function of that name.
    Not identified where the data do not show that sensitivity + specificity exceeds 1, where the
    set has fewer than five rows of either kind, or where the judge's rate is out of reach of its
    error rates. Raises `InvalidInput`.
    """
    _check_counts(positives, rows, design_effect)
    z = _normal(level)
    labels = round(accuracy.positives + accuracy.negatives)
    if math.isinf(design_effect):
        return missing(ROGAN_GLADEN, level, labels, ONE_CLUSTER)
    if min(accuracy.positives, accuracy.negatives) < LEAST:
        return missing(
            ROGAN_GLADEN,
            level,
            labels,
            f"the calibration set is worth {accuracy.positives:.3g} independent rows of the class "
            f"and {accuracy.negatives:.3g} others, and fewer than {LEAST} say nothing of a judge",
        )
    # One hit and one miss more of each kind, as Agresti & Coull (1998) do for one proportion.
    with_class, others = accuracy.positives + 2, accuracy.negatives + 2
    sensitivity = (accuracy.true_positives + 1) / with_class
    specificity = (accuracy.true_negatives + 1) / others
    youden = sensitivity + specificity - 1
    of_sensitivity = sensitivity * (1 - sensitivity) / with_class
    of_specificity = specificity * (1 - specificity) / others
    raw = (
        accuracy.true_positives / accuracy.positives,
        accuracy.true_negatives / accuracy.negatives,
    )
    if sum(raw) <= 1 or youden <= z * math.sqrt(of_sensitivity + of_specificity):
        return missing(
            ROGAN_GLADEN,
            level,
            labels,
            f"sensitivity ({raw[0]:.2f}) + specificity ({raw[1]:.2f}) is not above 1 beyond doubt",
        )
    n = rows / design_effect + z * z
    said = (positives / design_effect + z * z / 2) / n
    unbounded = (said + specificity - 1) / youden
    rate = min(max(unbounded, 0.0), 1.0)
    shift = 2 * z * z * (rate * of_sensitivity - (1 - rate) * of_specificity)
    error = math.sqrt(
        said * (1 - said) / n + (1 - rate) ** 2 * of_specificity + rate**2 * of_sensitivity
    )
    if abs(unbounded - rate) > OUT_OF_REACH * error / youden:
        return missing(ROGAN_GLADEN, level, labels, UNLIKE)
    low, high = (rate + shift + sign * z * error / youden for sign in (-1, 1))
    estimate = (positives / rows + raw[1] - 1) / (sum(raw) - 1)
    return _found(ROGAN_GLADEN, estimate, low, high, level, labels)


def confusion_inverse(
    said: npt.ArrayLike,
    confusion: npt.ArrayLike,
    *,
    level: float = 0.95,
    design_effect: float = 1.0,
) -> tuple[Corrected, ...]:
    """The true rate of each of several classes, in their order; intervals are for one at a time.

    `said` (classes,) counts what the judge said in the audit; `confusion` (classes, classes) counts
    the calibration set, rows true and columns said. The estimate is the distribution on the simplex
    whose image under the judge's errors is nearest to what it said, which is the inverse wherever
    that is a distribution. Intervals: the delta method, with the additions of `rogan_gladen` spread
    over the classes; `design_effect` as there, the largest over the classes. Where rows of the set
    resemble each other, divide each row of `confusion` by its own, likewise. Not identified where a
    class has fewer than five labelled rows, where the data do not show that the determinant of the
    error rates (for two classes sensitivity + specificity - 1) exceeds 0, or where what the judge
    said is out of reach. Raises `InvalidInput`.
    """
    x, table = np.asarray(said, np.float64), np.asarray(confusion, np.float64)
    classes = len(x)
    if (
        classes < 2
        or table.shape != (classes, classes)
        or not (np.isfinite(table).all() and np.isfinite(x).all())
        or min(table.min(), x.min()) < 0
    ):
        raise InvalidInput(
            f"counts of shape {x.shape} and a confusion matrix of shape {table.shape}",
            hint="Give a count for each of two or more classes, and a square matrix of counts.",
        )
    _check_counts(0, x.sum(), design_effect)
    z, labels = _normal(level), round(table.sum())

    def nothing(reason: str) -> tuple[Corrected, ...]:
        return (missing(INVERSE, level, labels, reason),) * classes

    if math.isinf(design_effect):
        return nothing(ONE_CLUSTER)
    seen = table.sum(1)
    if seen.min() < LEAST:
        return nothing(
            f"the calibration set has {seen.min():g} rows of class {int(seen.argmin())}, and fewer "
            f"than {LEAST} say nothing of a judge"
        )
    raw = table / seen[:, None]
    rows = seen + 2
    errors = (table + 2 / classes) / rows[:, None]
    sign, log_size = np.linalg.slogdet(raw)
    doubt = "the judge's classes are not told apart beyond doubt; merge those that it confuses"
    if sign <= 0 or log_size < math.log(1e-9) or np.linalg.slogdet(errors)[0] <= 0:
        return nothing(doubt)
    inverse = np.linalg.inv(errors.T)
    # A cell varies at least as one count does: none seen is not never.
    spread = np.einsum("gi,ij->gij", np.maximum(errors, 1 / rows[:, None]), np.eye(classes))
    spread -= np.einsum("gi,gj->gij", errors, errors)
    spread /= rows[:, None, None]
    # Jacobi: a determinant's relative change is the trace of the inverse times the change.
    if z * z * np.einsum("gi,gij,gj->", inverse.T, spread, inverse.T) >= 1:
        return nothing(doubt)
    n = x.sum() / design_effect + z * z
    shares = (x / design_effect + z * z / classes) / n
    unbounded = inverse @ shares
    middle = np.clip(unbounded, 0, 1)
    within = middle / middle.sum()
    variance = (np.diag(shares) - np.outer(shares, shares)) / n
    variance = variance + np.einsum("g,gij->ij", within**2, spread)
    deviations = np.sqrt(np.einsum("ki,ij,kj->k", inverse, variance, inverse))
    if np.any(np.abs(unbounded - middle) > OUT_OF_REACH * deviations):
        return nothing(UNLIKE)
    estimate = _nearest(raw, x / x.sum())
    return tuple(
        _found(INVERSE, float(e), float(m - z * d), float(m + z * d), level, labels)
        for e, m, d in zip(estimate, middle, deviations, strict=True)
    )


def _nearest(errors: Floats, shares: Floats) -> Floats:
    """The distribution, (classes,), whose image is nearest to `shares` in least squares."""
    # A heavy row of ones holds the sum to 1.
    system = np.vstack([errors.T, np.full(len(shares), 1e4)])
    found: Floats = optimize.nnls(system, np.append(shares, 1e4))[0]
    share: Floats = found / found.sum()
    return share


# -- human labels on the rows themselves ----------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Audited:
    """Rows of an audit, some of which people labelled; all arrays are (rows,).

    `human` is 1 or 0 where a person labelled the row, NaN elsewhere. `said` is what the judge said
    of every row, 1 or 0 or a probability: rows without a verdict are to be left out. `weights`, the
    inverse of a row's chance to be picked for labelling, are read where it was; None if all rows
    had the same. `clusters` has an array of keys for each way in which rows resemble each other,
    as (names, templates); rows of one key are not independent. A key means the same cluster in
    both sides of a difference.
    """

    human: npt.ArrayLike
    said: npt.ArrayLike
    weights: npt.ArrayLike | None = None
    clusters: Sequence[npt.ArrayLike] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """`Audited`, checked: weights are relative, and None where all are equal."""

    human: Floats
    said: Floats
    labelled: Bools
    weights: Floats | None
    keys: list[npt.NDArray[np.generic]]

    @classmethod
    def of(cls, audited: Audited) -> _Rows:
        human, said = (np.asarray(x, np.float64) for x in (audited.human, audited.said))
        labelled = ~np.isnan(human)
        keys = [np.asarray(k) for k in audited.clusters]
        weights = None if audited.weights is None else np.asarray(audited.weights, np.float64)
        shapes = {x.shape for x in (human, said, *keys, *([] if weights is None else [weights]))}
        if len(shapes) > 1 or human.ndim != 1 or not len(human):
            raise InvalidInput(
                "the rows' labels, verdicts, weights and clusters differ in number",
                hint="Give each of at least one row all of them.",
            )
        if np.any((human[labelled] != 0) & (human[labelled] != 1)) or not np.all(
            (said >= 0) & (said <= 1)
        ):
            raise InvalidInput(
                "a label is neither 0 nor 1, or a row has no verdict",
                hint="Leave out rows that were not judged; human is NaN where nobody labelled.",
            )
        if weights is not None:
            picked = weights[labelled]
            if not np.all((picked > 0) & np.isfinite(picked)):
                raise InvalidInput(
                    "a labelled row has no weight",
                    hint="Give 1 / its chance to be picked, above 0.",
                )
            if not len(picked) or np.ptp(picked) <= 1e-12 * picked.max():
                weights = None
        return cls(human, said, labelled, weights, keys)

    @property
    def of_labelled(self) -> tuple[Floats, Floats, Floats]:
        """What people said, what the judge said, and weights that add up to the number of equally
        weighted rows that would be worth as much (Kish 1965).
        """
        y, f = self.human[self.labelled], self.said[self.labelled]
        w = np.ones(len(y)) if self.weights is None else self.weights[self.labelled]
        return y, f, w * w.sum() / (w**2).sum()


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """An estimate, what each row adds to its error, and variance that belongs to no row."""

    estimate: float
    scores: Floats
    more: float = 0.0


def _plain(rows: _Rows) -> _Fit:
    """PPI++ for a mean (Angelopoulos, Duchi & Zrnic 2023).

    Written as the judge's mean over all rows plus the weighted mean error on labelled ones: the
    same estimate, but it holds with sampling weights as well (Robins, Rotnitzky & Zhao 1994).
    """
    y, f, w = rows.of_labelled
    w = w / w.sum()
    total, left = len(rows.said), len(rows.said) - len(y)
    slope, varies = 0.0, float(rows.said.var(ddof=1)) if total > 1 else 0.0
    if left and varies > 0:
        together = float(w @ ((y - w @ y) * (f - w @ f)))
        # Tuned power, within [0, 1] for two samples: the share of rows without a label scales it.
        slope = min(max(together / varies * left / total, 0.0), 1.0) * total / left
    gap = float(w @ (y - slope * f))
    mean = float(rows.said.mean())
    scores = slope * (rows.said - mean) / total
    scores[rows.labelled] += w * (y - slope * f - gap)
    if rows.weights is None:  # two samples of one population, each around its own mean
        for part in (rows.labelled, ~rows.labelled):
            if part.any():
                scores[part] -= scores[part].mean()
    return _Fit(slope * mean + gap, scores)


def _adjusted(rows: _Rows) -> _Fit:
    """The same for few labels: as if four more rows had been labelled, one of each combination.

    So a yes and a no are added to what people say where the judge says yes, and where it says no,
    as `rogan_gladen` adds them to what the judge says of each class. The power is the slope among
    the labelled rows, which for a yes-or-no judge is post-stratification; errors are scaled to the
    judge's mean over all rows (the g-weights of Särndal, Swensson & Wretman 1992).
    """
    y, f, w = rows.of_labelled
    real = len(y)
    y, f = np.append(y, [0, 0, 1, 1]), np.append(f, [0, 1, 0, 1])
    w = np.append(w, np.ones(4))
    w /= w.sum()
    away = f - w @ f
    varies = float(w @ away**2)
    slope = float(w @ (away * y)) / varies
    total, mean = len(rows.said), float(rows.said.mean())
    lift = mean - float(w @ f)
    errors = w * (1 + lift * away / varies) * (y - w @ y - slope * away)
    scores = slope * (rows.said - mean) / total
    scores[rows.labelled] += errors[:real]
    return _Fit(float(w @ y) + slope * lift, scores, float((errors[real:] ** 2).sum()))


def ppi_rate(rows: Audited, *, level: float = 0.95, adjusted: bool = True) -> Corrected:
    """The rate that people would find if they labelled every row, and more like them.

    Prediction-powered inference (Angelopoulos et al. 2023; power-tuned, PPI++): valid whatever the
    judge's errors are, if the labelled rows are a random subset, with known weights. Standard
    errors are clustered (`Audited.clusters`; Cameron, Gelbach & Miller 2011) with Student's t.
    `adjusted` adds four rows to the interval, not to the estimate, without which it falls short
    where labels or positives are few; without it, and without weights or clusters, it is what
    ppi-python gives. Not identified with fewer than five labels, or labels of one cluster alone.
    Raises `InvalidInput`.
    """
    return _ppi([_Rows.of(rows)], [1.0], level, adjusted)


def ppi_difference(
    one: Audited, other: Audited, *, level: float = 0.95, adjusted: bool = True
) -> Corrected:
    """The rate of `one` less that of `other`: as `ppi_rate`.

    What both have in common cancels: rows of one template, say, where both name it alike. If both
    sides have the same clusters, they are compared in pairs, with a degree of freedom less than
    there are clusters; else with one less for each side.
    """
    return _ppi([_Rows.of(one), _Rows.of(other)], [1.0, -1.0], level, adjusted)


def _ppi(sides: list[_Rows], signs: list[float], level: float, adjusted: bool) -> Corrected:
    z, method = _normal(level), PPI if adjusted else PLAIN_PPI
    labels = sum(int(side.labelled.sum()) for side in sides)
    if len({len(side.keys) for side in sides}) > 1:
        raise InvalidInput(
            "the two sides are clustered in different ways", hint="Give both the same clusters."
        )
    for side in sides:
        if side.labelled.sum() < LEAST:
            return missing(
                method,
                level,
                labels,
                f"people labelled {int(side.labelled.sum())} of the rows, fewer than {LEAST}",
            )
    plain = [_plain(side) for side in sides]
    used = [_adjusted(side) for side in sides] if adjusted else plain
    keys = [np.concatenate(way) for way in zip(*(side.keys for side in sides), strict=True)]
    side_of = np.repeat(np.arange(len(sides)), [len(side.said) for side in sides])
    labelled = np.concatenate([side.labelled for side in sides])
    freedom = math.inf
    for key in keys:
        in_side = _by_side(key[labelled], side_of[labelled])
        if min(len(found) for found in in_side) < 2:
            return missing(method, level, labels, ONE_CLUSTER)
        freedom = min(freedom, len(set().union(*in_side)) - _means(in_side))
    scores = np.concatenate([s * fit.scores for s, fit in zip(signs, used, strict=True)])
    variance = _variance(scores, keys, side_of) + sum(fit.more for fit in used)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) if keys else z
    middle = sum(s * fit.estimate for s, fit in zip(signs, used, strict=True))
    half = reach * math.sqrt(variance)
    return _found(
        method,
        sum(s * fit.estimate for s, fit in zip(signs, plain, strict=True)),
        middle - half,
        middle + half,
        level,
        labels,
        least=0.0 if len(sides) == 1 else -1.0,
    )


# -- rows that resemble each other ----------------------------------------------------------------


def _by_side(key: npt.NDArray[np.generic], side: npt.NDArray[np.int64]) -> list[set[object]]:
    """The clusters that the rows of each side, numbered from 0, are in."""
    return [set(key[side == s].tolist()) for s in range(int(side.max()) + 1)]


def _means(in_side: list[set[object]]) -> int:
    """How many means were fitted to the clusters: where both sides have the same ones each has one
    difference, and that varies around one mean; else the sides vary around a mean each.
    """
    return 1 if all(found == in_side[0] for found in in_side) else len(in_side)


def _variance(
    scores: Floats, keys: Sequence[npt.NDArray[np.generic]], side: npt.NDArray[np.int64]
) -> float:
    """Of a sum of scores whose clusters in each way are `keys`: Cameron, Gelbach & Miller (2011).

    Inclusion and exclusion over all sets of ways. Never less than that of any one way or of
    independent rows, below which chance may take it where clusters are few. `side` is which side of
    a difference a row is on, 0 for all of one rate.
    """
    least, total = float((scores**2).sum()), 0.0
    codes = [np.unique(key, return_inverse=True)[1] for key in keys]
    for size in range(1, len(codes) + 1):
        for ways in combinations(codes, size):
            joint = ways[0].astype(np.int64)
            for way in ways[1:]:
                joint = joint * (int(way.max()) + 1) + way
            _, joint = np.unique(joint, return_inverse=True)
            number = int(joint.max()) + 1
            sums = np.bincount(joint, weights=scores)
            part = float((sums**2).sum()) * number / max(number - _means(_by_side(joint, side)), 1)
            total += part if size % 2 else -part
            if size == 1:
                least = max(least, part)
    return max(total, least)


def design_effect(
    said: npt.ArrayLike, clusters: Sequence[npt.ArrayLike], *, level: float = 0.95
) -> float:
    """How many times the variance of a mean is that of independent rows (Kish 1965), from 1.

    `said` and each of `clusters` are (rows,), as in `Audited`. It is inflated for few clusters as
    Student's t is wider than the normal at `level` (Korn & Graubard 1998); infinite where there is
    one cluster alone. Raises `InvalidInput`.
    """
    f = np.asarray(said, np.float64)
    keys = [np.asarray(key) for key in clusters]
    if f.ndim != 1 or not len(f) or any(key.shape != f.shape for key in keys):
        raise InvalidInput(
            "the rows and their clusters differ in number", hint="Give each row a key of each way."
        )
    away, normal = f - f.mean(), _normal(level)
    independent = float((away**2).sum())
    ratio = (
        _variance(away, keys, np.zeros(len(f), np.int64)) / independent if independent > 0 else 1.0
    )
    if not keys:
        return ratio
    freedom = min(len(np.unique(key)) for key in keys) - 1
    if freedom < 1:
        return math.inf
    return ratio * float(stats.t.ppf((1 + level) / 2, freedom) / normal) ** 2
