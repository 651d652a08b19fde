"""How well labels agree with reference labels: pure functions of arrays of label indices.

Knows nothing about judges, files or taxonomies. `gold` and `said` hold indices from 0 below
`labels`, one per row, in the same order; functions raise `ValueError` for arrays of unequal length.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def confusion(gold: npt.ArrayLike, said: npt.ArrayLike, labels: int) -> Indices:
    """Counts, (labels, labels): rows are the reference, columns what was said."""
    g, s = np.asarray(gold, np.int64), np.asarray(said, np.int64)
    if g.shape != s.shape:
        raise ValueError(f"{len(g)} reference labels and {len(s)} given ones")
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


def macro_f1(table: Indices) -> float:
    """Mean F1 over the labels that occur in the reference."""
    present = table.sum(1) > 0
    both = table.sum(1) + table.sum(0)
    scores = 2 * np.diag(table)[present] / both[present]
    return float(scores.mean()) if present.any() else float("nan")


def expected_calibration_error(
    probabilities: npt.ArrayLike, gold: npt.ArrayLike, bins: int = 15
) -> float:
    """ECE of the top label over bins of equal width (Guo et al. 2017, section 2).

    `probabilities` is (rows, labels).
    """
    p = np.asarray(probabilities, np.float64)
    confidence, right = p.max(1), p.argmax(1) == np.asarray(gold)
    where = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[where == b].sum() - right[where == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(p))


def interval(
    statistic: Callable[[Indices], float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap over whole clusters (rows of one prompt are not independent).

    `statistic` takes row indices, `clusters` has one key a row. Draws where it is NaN are left out.
    """
    members: dict[Hashable, list[int]] = {}
    for i, key in enumerate(clusters):
        members.setdefault(key, []).append(i)
    groups = [np.array(rows) for rows in members.values()]
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]))
        for _ in range(draws)
    ]
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
