"""The alternative annotator test: may the judge stand in for any one of the people?

Knows labels only. Calderon, Reichart & Dror (2025), "The Alternative Annotator Test for
LLM-as-a-Judge" (ACL 2025, arXiv 2501.10970), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from evenhand.judge.agreement import Floats, Indices, codes
from evenhand.schemas.errors import InvalidInput

Test = Literal["t", "wilcoxon"]
# Fewer units than this, and the mean of their differences is not near enough to normal (the paper,
# section 3; its authors turn to the signed-rank test there).
FEW = 30


@dataclass(frozen=True, slots=True)
class Opponent:
    """One annotator (an index), set against the judge on the `rows` that both and others labelled.

    `judge_advantage` is the probability that the judge agrees with the other annotators at least as
    well as this one does, `annotator_advantage` the reverse; ties count for both. The test is of
    `annotator_advantage - judge_advantage < epsilon` over `units` (clusters, or rows); `adjusted`
    is its p after Benjamini & Yekutieli (2001), and `won` says that it is at most alpha. NaN where
    there is nothing to test.
    """

    annotator: int
    rows: int
    units: int
    judge_advantage: float
    annotator_advantage: float
    p: float
    adjusted: float
    won: bool


@dataclass(frozen=True, slots=True)
class AlternativeTest:
    """The judge passes when it wins against at least half of the annotators.

    `winning_rate` is the share it wins against, `advantage` the mean of `judge_advantage`, for the
    comparison of judges. `test` is the one that was used, `notes` say what limits the answer.
    """

    opponents: tuple[Opponent, ...]
    winning_rate: float
    advantage: float
    passes: bool
    epsilon: float
    alpha: float
    test: Test
    notes: tuple[str, ...]


def alternative_annotator_test(
    humans: npt.ArrayLike,
    judge: npt.ArrayLike,
    epsilon: float = 0.2,
    alpha: float = 0.05,
    *,
    clusters: Sequence[Hashable] | None = None,
    test: Test | None = None,
) -> AlternativeTest:
    """Test the judge against each annotator in turn, with the other annotators as the reference.

    `humans` is (annotators, rows) and `judge` (rows,), label indices, -1 where there is none; rows
    without the judge's label are left out, and a note counts them. `epsilon` is how much worse than
    a person the judge may be for what it saves: the paper suggests 0.2 beside experts, 0.15 beside
    trained people and 0.1 beside crowd workers.

    The paper tests over rows. Rows that share a prompt would make that too sure: with `clusters`
    (one key a row) differences are averaged within each before the test, and the advantages are
    means over clusters too. `test` is the one-sided t-test of the paper, or the signed-rank test
    (Wilcoxon 1945) that its authors turn to below 30 units; left out, it is the latter where an
    annotator has fewer than 30. Differences are mostly ties, hence skewed, and the t-test is
    somewhat too sure of them: at the margin, with 100 rows and epsilon 0.2, a judge wins 8 times of
    100, not 5. Signed ranks are far surer yet (with 14 rows 40 times of 100), so their p is here
    never below that of the exact binomial test of how many units the judge loses, which is not.

    Raises `InvalidInput` for fewer than two annotators, and notes that the paper asks for three.
    """
    h, f = np.asarray(humans, np.int64), np.asarray(judge, np.int64)
    if h.ndim != 2 or h.shape[1:] != f.shape:
        raise ValueError(f"labels of people are {h.shape}, of the judge {f.shape}")
    if clusters is not None and len(clusters) != len(f):
        raise ValueError(f"{len(f)} rows and {len(clusters)} clusters")
    if len(h) < 2:
        raise InvalidInput(
            f"the alternative annotator test needs two annotators or more, and there is {len(h)}",
            hint="Have more people label the same rows; three is what the test's authors ask for.",
        )
    unit = codes(clusters) if clusters is not None else np.arange(len(f))
    found = [_differences(j, h, f, unit) for j in range(len(h))]
    fewest = min((len(units) for _, units, _ in found if len(units) > 1), default=0)
    test = test or ("wilcoxon" if fewest < FEW else "t")
    compared = [_compare(j, *one, epsilon, test) for j, one in enumerate(found)]
    raw = np.array([one.p for one in compared])
    adjusted, tested = np.full(len(raw), math.nan), ~np.isnan(raw)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(raw[tested], method="by")
    opponents = tuple(
        replace(one, adjusted=p, won=p <= alpha)
        for one, p in zip(compared, adjusted.tolist(), strict=True)
    )
    rate = sum(one.won for one in opponents) / len(opponents)
    advantages = [one.judge_advantage for one in opponents if one.rows]
    return AlternativeTest(
        opponents=opponents,
        winning_rate=rate,
        advantage=float(np.mean(advantages)) if advantages else math.nan,
        passes=rate >= 0.5,
        epsilon=epsilon,
        alpha=alpha,
        test=test,
        notes=tuple(_notes(opponents, test, int((f < 0).sum()))),
    )


def _differences(
    j: int, humans: Indices, judge: Indices, unit: Indices
) -> tuple[int, Floats, Floats]:
    """Rows that compare annotator `j` with the judge; for each unit the shares that either wins."""
    others = np.delete(humans, j, axis=0)
    there = (humans[j] >= 0) & (judge >= 0) & (others >= 0).any(0)
    # Both are compared with the same people: how many agree orders them as the share would.
    with_judge = (others == judge).sum(0)[there]
    with_annotator = (others == humans[j]).sum(0)[there]
    _, of = np.unique(unit[there], return_inverse=True)
    sizes = np.bincount(of)
    wins = np.bincount(of, with_judge >= with_annotator) / sizes
    losses = np.bincount(of, with_annotator >= with_judge) / sizes
    return int(there.sum()), wins, losses


def _compare(
    j: int, rows: int, wins: Floats, losses: Floats, epsilon: float, test: Test
) -> Opponent:
    """Annotator `j` against the judge, not yet adjusted for the others."""
    return Opponent(
        annotator=j,
        rows=rows,
        units=len(wins),
        judge_advantage=float(wins.mean()) if len(wins) else math.nan,
        annotator_advantage=float(losses.mean()) if len(wins) else math.nan,
        p=_p(losses - wins, epsilon, test),
        adjusted=math.nan,
        won=False,
    )


def _p(differences: Floats, epsilon: float, test: Test) -> float:
    """One-sided, that the differences are below epsilon; NaN for fewer than two."""
    n = len(differences)
    if n < 2:
        return math.nan
    shifted = np.round(differences - epsilon, 12)  # ranks must not tell rounding apart
    if test == "t":
        if np.ptp(shifted) > 0:
            return float(stats.ttest_1samp(shifted, 0.0, alternative="less").pvalue)
        # Without variance there is no t. A difference is 1 at most: with a mean of epsilon, one is
        # no more than `same` with this chance at most (Markov's inequality), and all to the n-th.
        same = float(differences[0])
        return ((1 - epsilon) / (1 - same)) ** n if shifted[0] < 0 else 1.0
    if not shifted.any():  # no ranks to sign
        return 1.0
    # Signed ranks are of a median: ties, which are most rows, outvote rare losses. But with a mean
    # of epsilon or more, losses are as frequent as epsilon at least, and their count is binomial.
    count = stats.binom.cdf(int((differences > 0).sum()), n, epsilon)
    return float(max(stats.wilcoxon(shifted, alternative="less").pvalue, count))


def _notes(opponents: Sequence[Opponent], test: Test, unjudged: int) -> Iterator[str]:
    if len(opponents) == 2:
        yield (
            "There are two annotators. The test asks for three: with two, each is measured by "
            "agreement with the other alone, and there is no consensus to come close to."
        )
    fewest = min((one.units for one in opponents if not math.isnan(one.p)), default=FEW)
    if fewest < FEW and test == "t":
        yield (
            f"An annotator has only {fewest} independent units. Below {FEW} the t-test is not to "
            "be trusted: leave the choice of the test out, or have more rows labelled."
        )
    elif fewest < FEW:
        yield (
            f"An annotator has only {fewest} independent units, fewer than {FEW}: the alternative "
            "annotator test is by signed ranks (Wilcoxon) and a count of losses, not by a t-test."
        )
    untested = [str(one.annotator) for one in opponents if math.isnan(one.p)]
    if untested:
        yield (
            f"Too few rows to test against annotator {', '.join(untested)}: "
            "counted as not won against."
        )
    if unjudged:
        yield f"{unjudged} rows without a label of the judge are left out."
