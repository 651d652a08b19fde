"""Tests by permuting names between groups, and Holm's adjustment.

Knows counts only. If a metric has nothing to do with groups, any way to hand the names to the
groups was as likely as the one at hand. A name moves with all its rows, so what makes the rows of a
name alike is kept; every name meets every template, so these are the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from evenhand.audit.statistics.counts import Counts, Floats

Codes = npt.NDArray[np.int16]
# Up to so many assignments are all tried: C(16, 8), two groups of eight names, is 12,870.
EXACT = 20_000
# Assignments are worked on in blocks of about so many codes.
BLOCK = 1 << 21


@dataclass(frozen=True, slots=True)
class PValue:
    """`raw`, and `adjusted` for all tests of the analysis (Holm 1979); NaN without verdicts.

    `assignments` of names to groups were compared: all that there are if `exact`, else as many
    random ones.
    """

    raw: float
    adjusted: float
    assignments: int
    exact: bool


def assignments(
    sizes: Sequence[int], permutations: int, rng: np.random.Generator
) -> tuple[Iterator[Codes], int, bool]:
    """Blocks (some, names) of group indices, how many assignments they hold, and whether that is
    every way to hand sum(sizes) names to groups of `sizes`.
    """
    names = sum(sizes)
    ways = math.lgamma(names + 1) - sum(math.lgamma(size + 1) for size in sizes)
    if ways <= math.log(EXACT) + 1e-6:
        every = _enumerate(tuple(sizes))
        return iter([every]), len(every), True
    plain = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
    step = max(1, BLOCK // names)
    return (
        (
            rng.permuted(np.broadcast_to(plain, (min(step, permutations - i), names)), axis=1)
            for i in range(0, permutations, step)
        ),
        permutations,
        False,
    )


@lru_cache(maxsize=8)
def _enumerate(sizes: tuple[int, ...]) -> Codes:
    """All of them, (ways, names)."""
    names = sum(sizes)
    if len(sizes) == 1:
        return np.zeros((1, names), np.int16)
    others = _enumerate(sizes[1:]) + np.int16(1)
    first = np.array(list(combinations(range(names), sizes[0])), np.int64).reshape(-1, sizes[0])
    free = np.ones((len(first), names), bool)
    np.put_along_axis(free, first, False, axis=1)
    out = np.zeros((len(first), len(others), names), np.int16)
    out[np.broadcast_to(free[:, None], out.shape)] = np.broadcast_to(
        others, (len(first), *others.shape)
    ).ravel()
    return out.reshape(-1, names)


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """What the tests need of each name: hits h and judged rows n, (names, metrics) and (names, 1),
    and their squares, side by side in `columns` (names, 3 x metrics + 2).
    """

    columns: Floats
    metrics: int

    @classmethod
    def of(cls, hits: Floats, judged: Floats) -> Totals:
        """From hits (names, metrics) and judged rows (names,)."""
        n = judged[:, None]
        return cls(np.hstack([hits, hits**2, hits * n, n, n**2]), hits.shape[1])

    def rate_and_variance(self, sums: Floats, names: int) -> tuple[Floats, Floats]:
        """Of a side that has `names` and these column sums, (..., columns) to (..., metrics).

        The variance of a ratio of sums over names (Cochran 1977, 6.3), by the names' residuals.
        """
        h, hh, hn = (sums[..., i * self.metrics : (i + 1) * self.metrics] for i in range(3))
        n, nn = sums[..., -2:-1], sums[..., -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = h / n
            residuals = hh - 2 * rate * hn + rate**2 * nn
            residuals[residuals < 1e-9 * hh] = 0.0  # nothing but rounding
            return rate, residuals / n**2 * (names / max(names - 1, 1))


def distance(totals: Totals, one: Floats, other: Floats, names: tuple[int, int]) -> Floats:
    """How far apart two sides with these column sums are: their difference, studentised.

    Dividing by the standard error keeps the test near its level also when the names of one group
    differ more among themselves than those of another (Janssen 1997, Chung & Romano 2013). A side
    without verdicts is infinitely far, which never lowers a p-value.
    """
    rates, variances = zip(
        totals.rate_and_variance(one, names[0]),
        totals.rate_and_variance(other, names[1]),
        strict=True,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        gap: Floats = np.abs(rates[0] - rates[1])
        away: Floats = gap / np.sqrt(variances[0] + variances[1])
    away[gap < 1e-12] = 0.0
    away[np.isnan(away)] = math.inf
    return away


def as_far(away: Floats, observed: Floats) -> Floats:
    """How many assignments are as far out as the `observed` one, (metrics,); rounding aside."""
    out: Floats = (away >= observed * (1 - 1e-9) - 1e-12).sum(0).astype(np.float64)
    return out


def p_values(extreme: Floats, defined: npt.ArrayLike, number: int, exact: bool) -> list[PValue]:
    """A p for each metric. The assignment at hand is one of all, and counts as one of a sample too:
    without that +1 a Monte Carlo p can be 0, and the test exceeds its level (Phipson & Smyth 2010).
    """
    raw = extreme / number if exact else (extreme + 1) / (number + 1)
    return [
        PValue(float(p), math.nan, number, exact)
        for p in np.where(np.broadcast_to(defined, raw.shape), raw, math.nan)
    ]


def against_group(
    counts: Counts, totals: Totals, pair: tuple[int, int], draws: int, rng: np.random.Generator
) -> list[PValue]:
    """One group against another, a p for each metric: the names of these two change places."""
    members = [np.nonzero(counts.group_of == g)[0] for g in pair]
    sizes = (len(members[0]), len(members[1]))
    columns = totals.columns[np.concatenate(members)]
    total = columns.sum(0)
    here = columns[: sizes[0]].sum(0)
    observed = distance(totals, here, total - here, sizes)
    blocks, number, exact = assignments(sizes, draws, rng)
    extreme = np.zeros(totals.metrics)
    for block in blocks:
        sums = (block == 0) @ columns
        extreme += as_far(distance(totals, sums, total - sums, sizes), observed)
    return p_values(extreme, 0 < here[-2] < total[-2], number, exact)


def against_rest(
    counts: Counts, totals: Totals, draws: int, rng: np.random.Generator
) -> tuple[list[list[PValue]], list[PValue]]:
    """Each group against all others, (groups, metrics), and whether any differ at all, (metrics,).

    All names change places. The omnibus statistic is the distance of the group that is farthest
    from its rest: studentised like the others, where a sum of squares would take a group whose
    names vary much for one whose rate differs.
    """
    columns, total = totals.columns, totals.columns.sum(0)
    sizes, all_names = [int(size) for size in counts.names_in], len(counts.names)

    def far(codes: Codes) -> Floats:
        """(groups + 1, assignments, metrics): each group's distance, then the omnibus statistic."""
        away = np.zeros((len(sizes) + 1, len(codes), totals.metrics))
        for g, size in enumerate(sizes):
            sums = (codes == g) @ columns
            away[g] = distance(totals, sums, total - sums, (size, all_names - size))
            # A group that nothing was judged of is far from none.
            there = (sums[:, -2:-1] > 0) & (sums[:, -2:-1] < total[-2])
            away[-1] = np.maximum(away[-1], np.where(there, away[g], 0.0))
        return away

    observed = far(counts.group_of[None].astype(np.int16))[:, 0]
    extreme = np.zeros((len(sizes) + 1, totals.metrics))
    blocks, number, exact = assignments(sizes, draws, rng)
    for block in blocks:
        extreme += [as_far(away, seen) for away, seen in zip(far(block), observed, strict=True)]
    judged = counts.by_group(counts.judged.sum(-1))
    defined = [*((judged > 0) & (judged < judged.sum())), (judged > 0).sum() > 1]
    found = [p_values(e, d, number, exact) for e, d in zip(extreme, defined, strict=True)]
    return found[:-1], found[-1]


def holm(raw: npt.ArrayLike) -> Floats:
    """Adjusted p-values (Holm 1979), in the order given: reject those up to 5%, and the chance of
    any false rejection among them all is at most 5%, however the tests depend on each other.

    NaN stays NaN and does not count.
    """
    p = np.asarray(raw, np.float64)
    out = np.full(p.shape, math.nan)
    tests = np.nonzero(~np.isnan(p))[0]
    order = tests[np.argsort(p[tests], kind="stable")]
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return out
