"""How well labels agree with reference labels: pure functions of arrays of label indices.

Knows nothing about judges, files or taxonomies. `gold` and `said` hold indices from 0 below
`labels`, one per row, in the same order; functions raise `ValueError` for arrays of unequal length.
A measure that the rows say nothing about is NaN. `interval` and its kin resample whole clusters:
rows of one prompt resemble each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval; NaN where the rows say nothing."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """The rows whose confidence lies above `lower` and up to `upper`, and how many were right.

    The lowest bin holds confidence 0 too. `confidence` and `accuracy` are means over the `rows`.
    """

    lower: float
    upper: float
    rows: int
    confidence: float
    accuracy: float


def confusion(gold: npt.ArrayLike, said: npt.ArrayLike, labels: int) -> Indices:
    """Counts, (labels, labels): rows are the reference, columns what was said.

    Raises `ValueError` for an index that is no label: a row without one is the caller's to leave
    out and to count.
    """
    g, s = np.asarray(gold, np.int64), np.asarray(said, np.int64)
    if g.shape != s.shape:
        raise ValueError(f"{len(g)} reference labels and {len(s)} given ones")
    if g.size and (min(g.min(), s.min()) < 0 or max(g.max(), s.max()) >= labels):
        raise ValueError(f"a label index lies outside of 0 to {labels - 1}")
    return np.bincount(g * labels + s, minlength=labels * labels).reshape(labels, labels)


def accuracy(table: Indices) -> float:
    """Share of rows on the diagonal; NaN without rows."""
    total = table.sum()
    return float(table.trace() / total) if total else float("nan")


def cohen_kappa(table: Indices) -> float:
    """Agreement beyond chance (Cohen 1960). 1.0 where both used one and the same label only."""
    total = table.sum()
    if not total:
        return float("nan")
    by_chance = float((table.sum(0) * table.sum(1)).sum()) / float(total) ** 2
    return 1.0 if by_chance == 1.0 else (accuracy(table) - by_chance) / (1.0 - by_chance)


def recalls(table: Indices) -> Floats:
    """Per label, the share of its reference rows that were found; NaN without such rows."""
    with np.errstate(invalid="ignore"):
        out: Floats = np.diag(table) / table.sum(1)
    return out


def precisions(table: Indices) -> Floats:
    """Per label, the share right among the rows that were given it; NaN where none was."""
    with np.errstate(invalid="ignore"):
        out: Floats = np.diag(table) / table.sum(0)
    return out


def balanced_accuracy(table: Indices) -> float:
    """Mean recall over the labels that occur in the reference (Brodersen et al. 2010)."""
    found = recalls(table)[table.sum(1) > 0]
    return float(found.mean()) if found.size else float("nan")


def f1s(table: Indices) -> Floats:
    """Per label, the harmonic mean of precision and recall; NaN where neither side has the label.

    0 for a label that was given or is in the reference, but never both.
    """
    with np.errstate(invalid="ignore"):
        out: Floats = 2 * np.diag(table) / (table.sum(1) + table.sum(0))
    return out


def macro_f1(table: Indices) -> float:
    """Mean F1 over the labels that occur in the reference."""
    scores = f1s(table)[table.sum(1) > 0]
    return float(scores.mean()) if scores.size else float("nan")


def krippendorff_alpha(ratings: npt.ArrayLike) -> float:
    """Agreement of any number of raters beyond chance, nominal (Krippendorff 2011).

    `ratings` is (raters, rows), label indices, -1 where a rater gave none. Rows with fewer than two
    labels say nothing and do not count. NaN where no two labels can be compared or only one label
    was ever used: without variation there is no chance agreement to go beyond.
    """
    r = np.asarray(ratings, np.int64)
    labels = int(r.max(initial=-1)) + 1
    counts = np.zeros((r.shape[1], labels))
    rater, row = np.nonzero(r >= 0)
    np.add.at(counts, (row, r[rater, row]), 1.0)
    given = counts.sum(1)
    counts, given = counts[given > 1], given[given > 1]
    total = given.sum()
    by_chance = total**2 - (counts.sum(0) ** 2).sum()
    if by_chance == 0:
        return float("nan")
    observed = ((given**2 - (counts**2).sum(1)) / (given - 1)).sum()
    return float(1 - (total - 1) * observed / by_chance)


def brier(probabilities: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """Mean over rows of the squared error summed over all labels (Brier 1950): 0 best, 2 worst.

    `probabilities` is (rows, labels). For two labels it is twice the score of one of them alone.
    """
    p, g = _predictions(probabilities, gold)
    return float(((p - np.eye(p.shape[1])[g]) ** 2).sum(1).mean()) if len(p) else float("nan")


def reliability(probabilities: npt.ArrayLike, gold: npt.ArrayLike, bins: int = 15) -> list[Bin]:
    """Confidence in the best label beside how often it was right, over bins of equal width.

    `probabilities` is (rows, labels). Empty bins are left out. (Guo et al. 2017, section 2.)
    """
    p, g = _predictions(probabilities, gold)
    confidence, right = p.max(1), p.argmax(1) == g
    where = _bins(confidence, bins)
    rows, sure, hits = (
        np.bincount(where, weights, bins) for weights in (None, confidence, right.astype(float))
    )
    return [
        Bin(b / bins, (b + 1) / bins, int(rows[b]), sure[b] / rows[b], hits[b] / rows[b])
        for b in np.nonzero(rows)[0].tolist()
    ]


def expected_calibration_error(
    probabilities: npt.ArrayLike, gold: npt.ArrayLike, bins: int = 15
) -> float:
    """ECE of the best label: the mean gap of the bins of `reliability`, weighted by their rows.

    Too high on average, since chance opens a gap in a bin whatever the truth is; the fewer rows,
    the more.
    """
    found = reliability(probabilities, gold, bins)
    gaps = sum(b.rows * abs(b.confidence - b.accuracy) for b in found)
    return gaps / sum(b.rows for b in found) if found else float("nan")


def _bins(confidence: Floats, bins: int) -> Indices:
    """The bin of each row: an edge belongs to the one below it."""
    found: Indices = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return found


def _predictions(probabilities: npt.ArrayLike, gold: npt.ArrayLike) -> tuple[Floats, Indices]:
    p, g = np.asarray(probabilities, np.float64), np.asarray(gold, np.int64)
    if len(p) != len(g):
        raise ValueError(f"{len(g)} reference labels and {len(p)} predictions")
    return p, g


# -- intervals ------------------------------------------------------------------------------------


def codes(keys: Sequence[Hashable] | npt.NDArray[np.generic]) -> Indices:
    """Keys as indices from 0, in the order in which they first occur."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def interval(
    statistic: Callable[[Indices], float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> tuple[float, float]:
    """`intervals` of a single statistic, as (low, high)."""
    ends = intervals(lambda rows: [statistic(rows)], clusters, level=level, draws=draws, seed=seed)
    return float(ends[0, 0]), float(ends[1, 0])


def intervals(
    statistics: Callable[[Indices], npt.ArrayLike],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> Floats:
    """Percentile bootstrap over whole clusters (rows of one prompt are not independent), (2, k).

    `statistics` takes row indices and gives k figures, which all come from the same resample;
    `clusters` has one key a row. Draws where a figure is NaN are left out of its interval. The
    percentiles are widened for few clusters (Hesterberg 2015, section 4); the ends are NaN for
    fewer than two, since how clusters vary is then unknown.
    """
    cluster = codes(clusters)
    sizes = np.bincount(cluster)
    by_cluster, starts = np.argsort(cluster, kind="stable"), np.cumsum(sizes) - sizes

    def rows(drawn: Indices) -> Indices:
        lengths = sizes[drawn]
        ends = lengths.cumsum()
        # Each drawn cluster's rows stand together in `by_cluster`: count on from where they start.
        places = np.arange(ends[-1]) + np.repeat(starts[drawn] - ends + lengths, lengths)
        found: Indices = by_cluster[places]
        return found

    if len(sizes) < 2:
        figures = np.atleast_1d(np.asarray(statistics(by_cluster), np.float64))
        return np.full((2, figures.size), math.nan)
    values = [statistics(rows(drawn)) for drawn in _resamples(len(sizes), draws, seed)]
    return _percentiles(np.array(values, np.float64), len(sizes), level)


def share(
    hits: npt.ArrayLike,
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> Estimate:
    """The share of rows that are hits (booleans, one per row), with the `interval` of that.

    Where all rows are hits, or none is, every resample is the same and a bootstrap has no width.
    Jeffreys' interval stands in, with each cluster as one observation (Brown, Cai & DasGupta 2001).
    """
    h, cluster = np.asarray(hits, bool), codes(clusters)
    if len(h) != len(cluster):
        raise ValueError(f"{len(h)} rows and {len(cluster)} clusters")
    if not len(h):
        return Estimate(math.nan, math.nan, math.nan)
    value, sizes = float(h.mean()), np.bincount(cluster)
    n = len(sizes)
    if n < 2:
        return Estimate(value, math.nan, math.nan)
    if value in (0.0, 1.0):
        edge = float(stats.beta.ppf((1 + level) / 2, 0.5, n + 0.5))
        return Estimate(value, 0.0, edge) if value == 0.0 else Estimate(value, 1 - edge, 1.0)
    of = np.bincount(cluster, h)
    values = [of[drawn].sum() / sizes[drawn].sum() for drawn in _resamples(n, draws, seed)]
    low, high = _percentiles(np.array(values)[:, None], n, level)[:, 0].tolist()
    return Estimate(value, low, high)


def calibration_error(
    probabilities: npt.ArrayLike,
    gold: npt.ArrayLike,
    clusters: Sequence[Hashable],
    bins: int = 15,
    *,
    level: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> Estimate:
    """`expected_calibration_error` with an interval that allows for its bias.

    The ECE is the length (the sum of absolute values) of a mean: of each row's confidence less 1
    where right, 0 where wrong, in its bin's place. Its resamples are longer again, so their
    percentiles can miss the truth altogether. The ends rest on two inequalities instead. The
    population's length is off by no more than the length of the mean's own error (triangle
    inequality), whose quantile bounds it from below; and it is at most what estimates are on
    average (Jensen), so that their spread alone bounds it from above. It is rather too wide than
    too narrow. Where all are right, or none, it is widened by the `share` of others that there may
    be. NaN ends for fewer than two clusters.
    """
    p, g = _predictions(probabilities, gold)
    cluster = codes(clusters)
    if len(cluster) != len(p):
        raise ValueError(f"{len(p)} rows and {len(cluster)} clusters")
    value, sizes = expected_calibration_error(p, g, bins), np.bincount(cluster)
    if len(sizes) < 2:
        return Estimate(value, math.nan, math.nan)
    confidence, right = p.max(1), p.argmax(1) == g
    gaps = np.zeros((len(sizes), bins))
    np.add.at(gaps, (cluster, _bins(confidence, bins)), confidence - right)
    times = (
        np.bincount(drawn, minlength=len(sizes)) for drawn in _resamples(len(sizes), draws, seed)
    )
    mean, means = gaps.sum(0) / len(p), np.array([t @ gaps / (t @ sizes) for t in times])
    lengths, errors = np.abs(means).sum(1), np.abs(means - mean).sum(1)
    tail = _tail(len(sizes), level)
    low = value - float(np.quantile(errors, 1 - tail))
    high = value + float(np.quantile(lengths, 1 - tail) - lengths.mean())
    if right.all() or not right.any():  # of the other kind resamples know nothing
        hits = share(right, clusters, level=level)
        low, high = low - (hits.high - hits.low), high + (hits.high - hits.low)
    return Estimate(value, max(low, 0.0), min(high, 1.0))


def _resamples(clusters: int, draws: int, seed: int) -> Iterator[Indices]:
    """Which clusters each resample holds: as many as there are, with replacement."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, clusters, clusters) for _ in range(draws))


def _percentiles(values: Floats, clusters: int, level: float) -> Floats:
    """Both ends, (2, k), of draws (draws, k)."""
    tail = _tail(clusters, level)
    ends = np.full((2, values.shape[1]), math.nan)
    known = ~np.isnan(values).all(0)
    if known.any():
        ends[:, known] = np.nanquantile(values[:, known], [tail, 1 - tail], axis=0)
    return ends


def _tail(clusters: int, level: float) -> float:
    """The share of draws that lies beyond either end.

    Resampling n clusters understates the variance by (n - 1) / n, and percentiles take it for
    known: both are made good as if the figure were normal.
    """
    reach = stats.t.ppf((1 + level) / 2, clusters - 1) * math.sqrt(clusters / (clusters - 1))
    return float(stats.norm.sf(reach))
