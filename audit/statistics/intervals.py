"""Intervals by a bootstrap over names and templates, and an odds ratio by another method.

Knows counts only. Two sources of chance: which names stand for a group, and which templates were
written. Whoever compares two groups compares them on the same templates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import stats

from evenhand.audit.statistics.counts import Counts, Floats, Indices, Side

# Draws are worked on in blocks of about so many numbers (16 MiB), however many names there are.
BLOCK = 1 << 21


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval. NaN where the data say nothing; the ends of a ratio, and the
    ratio, may be infinite.
    """

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Rates in bootstrap draws: of each group and of all but that group (metrics, groups, draws),
    and of all together (metrics, 1, draws).
    """

    groups: Floats
    rests: Floats
    whole: Floats


def resample(counts: Counts, draws: int, rng: np.random.Generator) -> Resampled:
    """The pigeonhole bootstrap (McCullagh 2000, Owen 2007), with names nested in groups.

    Templates and, within each group, names are drawn with replacement and apart from each other; a
    cell counts as often as its name times as often as its template. All groups share the draw of
    the templates, so what comes from these cancels in a difference.
    """
    stack, starts = counts.stack, np.append(0, counts.names_in.cumsum())
    drawn = np.empty((len(stack), len(counts.groups), draws))
    for part in _blocks(draws, stack.size // stack.shape[1] + stack.shape[1]):
        size = part.stop - part.start
        templates = _multiplicities(len(counts.templates), size, rng)
        for g, (start, stop) in enumerate(pairwise(starts)):
            names = _multiplicities(stop - start, size, rng)
            drawn[:, g, part] = _weighted(stack[:, start:stop], names, templates)
    seen, cells = counts.by_group(stack.sum(-1)), counts.by_group((counts.judged > 0).sum(-1))
    whole, all_seen, all_cells = (x.sum(1, keepdims=True) for x in (drawn, seen, cells[None]))
    return Resampled(
        groups=_shares(drawn, seen, cells, rng),
        rests=_shares(whole - drawn, all_seen - seen, all_cells[0] - cells, rng),
        whole=_shares(whole, all_seen, all_cells[0], rng),
    )


def resample_templates(counts: Counts, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Rates of each name, in order, as blocks of (metrics, some names, draws): names are given."""
    counted, templates = counts.stack, _multiplicities(len(counts.templates), draws, rng)
    for part in _blocks(len(counts.names), draws * len(counted)):
        stack = counted[:, part]
        yield _shares(stack @ templates.T, stack.sum(-1), (counts.judged[part] > 0).sum(-1), rng)


def resample_names(counts: Counts, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Rates of each template over all groups, as `resample_templates` has them for names."""
    counted, starts = counts.stack, np.append(0, counts.names_in.cumsum())
    for part in _blocks(len(counts.templates), draws * len(counted)):
        stack = counted[:, :, part]
        drawn = np.zeros((len(stack), part.stop - part.start, draws))
        for start, stop in pairwise(starts):
            names = _multiplicities(stop - start, draws, rng)
            drawn += np.tensordot(stack[:, start:stop], names, (1, 1))
        yield _shares(drawn, stack.sum(1), (counts.judged[:, part] > 0).sum(0), rng)


def _blocks(total: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK // width)
    return (slice(i, min(i + step, total)) for i in range(0, total, step))


def _multiplicities(levels: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each level is drawn, (draws, levels). A lone level is always drawn: it is given."""
    return rng.multinomial(levels, np.full(levels, 1 / levels), size=draws).astype(np.float64)


def _weighted(stack: Floats, names: Floats, templates: Floats) -> Floats:
    """Sums of (k, names, templates) under weights (draws, names) and (draws, templates)."""
    out: Floats = np.einsum("ktb,bt->kb", np.tensordot(stack, names, (1, 1)), templates)
    return out


def _shares(
    drawn: Floats, seen: Floats, cells: npt.NDArray[np.generic], rng: np.random.Generator
) -> Floats:
    """Hits by judged, (metrics, units, draws); NaN where nothing was judged.

    `drawn` (metrics + 1, units, draws) and `seen` (metrics + 1, units) end in judged rows. A unit
    without a single hit, or with nothing else, would have the same share in every draw and an
    interval without width. Jeffreys' posterior stands in there, with each of the `cells` (units,)
    as one observation: the samples of one prompt may all be the same.
    """
    with np.errstate(invalid="ignore"):
        shares: Floats = drawn[:-1] / drawn[-1]
    hits, judged = seen[:-1], np.broadcast_to(seen[-1], seen[:-1].shape)
    flat = np.nonzero((judged > 0) & ((hits == 0) | (hits == judged)))
    number = np.broadcast_to(cells, judged.shape)[flat].astype(np.float64)
    ones = np.where(hits[flat] > 0, number, 0.0)
    size = (shares.shape[-1], len(number))
    shares[flat] = rng.beta(ones + 0.5, number - ones + 0.5, size=size).T
    return shares


def stretch(sizes: npt.ArrayLike, weights: npt.ArrayLike, level: float) -> float:
    """How many of its standard deviations a bootstrap has to reach when there are few levels.

    Resampling n levels understates the variance by (n - 1) / n, and normal quantiles take the
    variance for known. Hesterberg (2015) widens the percentiles by sqrt(n / (n - 1)) and by
    Student's t. For a sum over strata of `sizes` levels, with `weights`, both factors follow from
    the variances of the strata as if all levels varied alike (degrees of freedom: Satterthwaite
    1946). NaN where a stratum has a single level: how such levels vary cannot be known.
    """
    w = np.asarray(weights, np.float64)
    n, w = np.asarray(sizes, np.float64)[w > 0], w[w > 0]
    if not n.size or n.min() < 2:
        return math.nan
    variance = w**2 / n
    freedom = variance.sum() ** 2 / (variance**2 / (n - 1)).sum()
    inflation = variance.sum() / (variance * (n - 1) / n).sum()
    return float(np.sqrt(inflation) * stats.t.ppf((1 + level) / 2, freedom))


def reach(
    counts: Counts, sides: tuple[Side, ...], level: float, *, templates: bool = True
) -> float:
    """The stretch of a figure that takes one rate of each side: the wider one of its two axes.

    Without sides, names are given. A single template cannot be resampled: it is given too.
    """
    found = []
    if sides:
        rows = counts.by_group(counts.judged.sum(-1))
        weights = sum(
            (np.where(side, rows, 0) / max(rows[side].sum(), 1) for side in sides), 0 * rows
        )
        taken = np.any(sides, axis=0)
        found.append(stretch(counts.names_in[taken], weights[taken], level))
    if templates and (len(counts.templates) > 1 or not sides):
        found.append(stretch([len(counts.templates)], [1.0], level))
    return float(np.max(found))


def ends(draws: Floats, value: Floats, stretched: float, worst: tuple[float, float]) -> Floats:
    """Both ends of the interval, (2, ...), from draws (..., draws): percentiles, stretched.

    A draw without a value (0/0) could be anything: it takes the `worst` value at either end. The
    interval holds the estimate, and is NaN where that is.
    """
    if math.isnan(stretched):
        return np.full((2, *value.shape), math.nan)
    tail = stats.norm.sf(stretched)
    nothing = np.isnan(draws)
    low, high = (np.where(nothing, end, draws) if nothing.any() else draws for end in worst)
    # No interpolation, which would turn an infinite neighbour into NaN.
    return np.stack(
        [
            np.minimum(np.quantile(low, tail, axis=-1, method="lower"), value),
            np.maximum(np.quantile(high, 1 - tail, axis=-1, method="higher"), value),
        ]
    )


def odds_ratio(
    hits: Indices, judged: Indices, inside: npt.NDArray[np.bool_], stretched: float
) -> Estimate:
    """The odds of a hit `inside`, by the odds outside, by a GEE with names as clusters.

    Arrays are (names,). Generalised estimating equations (Liang & Zeger 1986), logit link, working
    independence: with a regressor that is constant within a name, a name's total weighs in as its
    rows would, and the sandwich variance is the same. It is too small with few names; its interval
    is stretched as the bootstrap's. NaN where either side has no hit, or nothing else: there is no
    finite odds ratio.
    """
    # A second to import, of use here alone.
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_estimating_equations import (
        GEE,
    )

    there = judged > 0
    h, n, x = hits[there], judged[there], inside[there]
    sums = np.array([[h[x].sum(), n[x].sum()], [h[~x].sum(), n[~x].sum()]])
    if np.any(sums[:, 0] == 0) or np.any(sums[:, 0] == sums[:, 1]):
        return UNKNOWN
    design = np.column_stack([np.ones(len(x)), x])
    model = GEE(h / n, design, groups=np.arange(len(x)), family=Binomial(), weights=n)
    fit = model.fit(start_params=np.zeros(2))
    # Names that are all alike leave a variance of nothing but rounding, on either side of zero.
    log, error = float(fit.params[1]), math.sqrt(max(float(fit.cov_params()[1, 1]), 0.0))
    low, high = np.exp([log - stretched * error, log + stretched * error])
    return Estimate(math.exp(log), float(low), float(high))
