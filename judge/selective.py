"""Judging only what the judge is sure of: risk against coverage, and a threshold with a guarantee.

Knows confidences and whether verdicts were right, one of each per row. Rows without a verdict are
the caller's: they are abstained from whatever the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from evenhand.judge.agreement import Floats, Indices, codes
from evenhand.schemas.errors import InvalidInput

# The share of rows that the search for a threshold starts with, and the steps that all rows are.
FIRST, STEPS = 0.1, 50


@dataclass(frozen=True, slots=True, eq=False)
class RiskCoverage:
    """At each `threshold`, falling: the share of rows at or above it, and the share wrong of these.

    `area` is the risk averaged over all coverages that the rows with a verdict reach (AURC); lower
    is better, and their risk is what a confidence that says nothing has.
    """

    threshold: Floats
    coverage: Floats
    risk: Floats
    area: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """A confidence from which verdicts may be trusted as far as `target` says.

    With probability `1 - delta` over calibration sets, the judge agrees with people on at least
    `target` of new rows that reach `value`. `kept` of the `rows` that calibrated it do, and agreed
    at the rate `agreement`; `bound` is the lowest rate that they leave possible at that confidence.
    `coverage` is the share of all rows that reach it; those without a verdict do not.
    """

    value: float
    target: float
    delta: float
    rows: int
    kept: int
    coverage: float
    agreement: float
    bound: float


def risk_coverage(
    confidence: npt.ArrayLike, right: npt.ArrayLike, *, of: int | None = None
) -> RiskCoverage:
    """The curve of selective prediction (El-Yaniv & Wiener 2010; area: Geifman et al. 2019).

    `confidence` is (rows,) and `right` (rows,) booleans. Rows of equal confidence enter together;
    the area takes them in random order. Without rows the curve is empty and the area NaN. `of` is
    how many rows coverage is a share of, with those that have no verdict; left out, there are none.
    """
    c, wrong = _rows(confidence, right)
    total = _total(len(c), of)
    values, at = np.unique(-c, return_inverse=True)
    rows, errors = np.bincount(at, minlength=len(values)), np.bincount(at, wrong, len(values))
    kept, missed = rows.cumsum(), errors.cumsum()
    ranks = np.arange(1, len(c) + 1)
    block = np.repeat(np.arange(len(values)), rows)
    expected = missed[block] - (kept[block] - ranks) * (errors / rows)[block]
    return RiskCoverage(
        threshold=-values,
        coverage=kept / max(total, 1),
        risk=missed / kept,
        area=float((expected / ranks).mean()) if len(c) else math.nan,
    )


def threshold(
    confidence: npt.ArrayLike,
    right: npt.ArrayLike,
    target: float,
    delta: float = 0.1,
    *,
    of: int | None = None,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Threshold | None:
    """The lowest confidence above which agreement of at least `target` can be guaranteed, or None.

    Fixed-sequence testing (Jung, Brahman & Choi 2024, section 2; Bauer 1991): from the most
    confident rows down, in steps of a fiftieth of all, a threshold is accepted while the exact
    binomial upper bound of its risk (Clopper & Pearson 1934, one-sided, level `delta`) is at most
    `1 - target`; the first that is not ends the search, so that the whole search errs with
    probability `delta`. It starts with a tenth of the rows, or as many as pass with one error among
    them: with fewer, one unlucky row would end it. Where it starts and steps never looks at
    `right`.

    The guarantee takes rows for exchangeable, with each other and with those to come. Rows of one
    prompt are not: give `clusters`, and one row of each is drawn (by `seed`) and the others are
    left out; it then holds for a random row of a new cluster. It also takes for granted that
    keeping fewer, more confident rows does not raise the risk; where it does, a failure can be
    likelier than `delta` in small samples. Rows without a verdict are no part of it: they lower the
    coverage alone, and `of` is how many rows there are with them.

    Raises `InvalidInput` for a target or delta that is not between 0 and 1.
    """
    for name, value in (("target", target), ("delta", delta)):
        if not 0 < value < 1:
            raise InvalidInput(f"{name} is {value}", hint=f"Give a {name} between 0 and 1.")
    c, wrong = _rows(confidence, right)
    judged = len(c) / max(_total(len(c), of), 1)
    if clusters is not None:
        if len(clusters) != len(c):
            raise ValueError(f"{len(c)} rows and {len(clusters)} clusters")
        drawn = _one_each(codes(clusters), seed)
        c, wrong = c[drawn], wrong[drawn]
    n = len(c)
    order = np.argsort(-c, kind="stable")
    falling, errors = c[order], wrong[order].cumsum()
    found: Threshold | None = None
    enough = stats.binom.cdf(1, np.arange(n + 1), 1 - target) <= delta  # rows for one error
    start = max(int(enough.argmax()), math.ceil(FIRST * n)) if enough.any() else n
    for rank in [*range(start, n, max(1, n // STEPS)), n] if n else []:
        value = float(falling[rank - 1])
        kept = int(np.searchsorted(-falling, -value, "right"))
        missed = int(errors[kept - 1])
        bound = risk_bound(missed, kept, delta)
        if bound > 1 - target:
            break
        found = Threshold(
            value=value,
            target=target,
            delta=delta,
            rows=n,
            kept=kept,
            coverage=judged * kept / n,
            agreement=1 - missed / kept,
            bound=1 - bound,
        )
    return found


def risk_bound(errors: int, rows: int, delta: float) -> float:
    """The highest risk at which so few errors still have the chance `delta` (Clopper & Pearson)."""
    return 1.0 if errors >= rows else float(stats.beta.ppf(1 - delta, errors + 1, rows - errors))


def _total(rows: int, of: int | None) -> int:
    if of is not None and of < rows:
        raise ValueError(f"{rows} of {of} rows")
    return rows if of is None else of


def _one_each(cluster: Indices, seed: int) -> Indices:
    """A random row of each cluster."""
    order = np.random.default_rng(seed).permutation(len(cluster))
    return order[np.unique(cluster[order], return_index=True)[1]]


def _rows(confidence: npt.ArrayLike, right: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Confidences, and 1.0 where wrong."""
    c, r = np.asarray(confidence, np.float64), np.asarray(right, bool)
    if c.shape != r.shape:
        raise ValueError(f"{len(c)} confidences and {len(r)} outcomes")
    if np.isnan(c).any():
        raise ValueError("a confidence is NaN; leave out rows without a verdict")
    return c, (~r).astype(np.float64)
