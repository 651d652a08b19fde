"""The alternative annotator test: by hand, against a plain implementation, on known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from evenhand.judge.alternative import AlternativeTest, alternative_annotator_test
from evenhand.schemas.errors import InvalidInput


def panel(
    rows: int, noise: float, judge_noise: float, seed: int, annotators: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """People who give the true one of four labels, or with probability `noise` any."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, rows)

    def label(rate: float) -> np.ndarray:
        return np.where(rng.random(rows) < rate, rng.integers(0, 4, rows), truth)

    return np.stack([label(noise) for _ in range(annotators)]), label(judge_noise)


def test_advantages_by_hand() -> None:
    #         row   0  1  2  3
    humans = [[0, 1, 2, 0], [0, 1, 0, -1], [0, 2, 1, 1]]
    judge = [0, 1, 1, -1]
    found = alternative_annotator_test(humans, judge)
    first, second, third = found.opponents
    # Against the first, others (0,0) (1,2) (0,1): tie, tie, judge wins. Row 3 has no judge's label.
    assert (first.rows, first.judge_advantage) == (3, 1.0)
    assert first.annotator_advantage == pytest.approx(2 / 3)
    # Against the second, others (0,0) (1,2) (2,1): tie, tie, judge wins.
    assert second.annotator_advantage == pytest.approx(2 / 3)
    # Against the third, others (0,0) (1,1) (2,0): tie, judge wins, tie.
    assert (third.judge_advantage, third.annotator_advantage) == pytest.approx((1.0, 2 / 3))
    assert found.advantage == 1.0
    assert any("1 rows without a label of the judge" in note for note in found.notes)


def plain(
    humans: np.ndarray, judge: np.ndarray, epsilon: float
) -> tuple[list[float], list[float], list[float]]:
    """The paper's procedure, row by row: both advantages and the raw p of each annotator."""
    ours, theirs, raw = [], [], []
    for j in range(len(humans)):
        a, b = [], []
        for i in range(humans.shape[1]):
            others = [h[i] for k, h in enumerate(humans) if k != j and h[i] >= 0]
            if humans[j, i] < 0 or judge[i] < 0 or not others:
                continue
            score_judge = sum(o == judge[i] for o in others) / len(others)
            score_human = sum(o == humans[j, i] for o in others) / len(others)
            a.append(float(score_judge >= score_human))
            b.append(float(score_human >= score_judge))
        ours.append(float(np.mean(a)))
        theirs.append(float(np.mean(b)))
        shifted = np.array(a) + epsilon
        varied = len({x - y for x, y in zip(a, b, strict=True)}) > 1  # or there is no t
        p = stats.ttest_rel(b, shifted, alternative="less").pvalue if varied else np.nan
        raw.append(float(p))
    return ours, theirs, raw


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 5), st.integers(30, 80), st.floats(0.1, 0.6), st.integers(0, 2**32))
def test_against_a_plain_implementation(
    annotators: int, rows: int, noise: float, seed: int
) -> None:
    humans, judge = panel(rows, 0.3, noise, seed, annotators)
    rng = np.random.default_rng(seed)
    humans[rng.random(humans.shape) < 0.1] = -1
    judge[rng.random(rows) < 0.05] = -1
    ours, theirs, raw = plain(humans, judge, 0.15)
    assume(not np.isnan(raw).any())
    found = alternative_annotator_test(humans, judge, epsilon=0.15, test="t")
    assert [one.judge_advantage for one in found.opponents] == pytest.approx(ours)
    assert [one.annotator_advantage for one in found.opponents] == pytest.approx(theirs)
    assert [one.p for one in found.opponents] == pytest.approx(raw)
    won, adjusted = multipletests(raw, 0.05, method="fdr_by")[:2]
    assert [one.adjusted for one in found.opponents] == pytest.approx(adjusted)
    assert [one.won for one in found.opponents] == won.tolist()
    assert found.winning_rate == pytest.approx(won.mean())
    assert found.passes == (won.mean() >= 0.5)
    assert found.advantage == pytest.approx(np.mean(ours))


def test_a_good_judge_passes_and_a_bad_one_does_not() -> None:
    for seed in range(20):
        assert alternative_annotator_test(*panel(100, 0.3, 0.1, seed)).passes
        assert not alternative_annotator_test(*panel(100, 0.1, 0.9, seed)).passes


def test_a_judge_at_the_margin_seldom_wins() -> None:
    """People are always right, the judge 80 times of 100: the null hypothesis at its edge.

    Differences of 0 and 1 are skewed, and the t-test of 100 rejects up to 14 errors: 8%, not 5%.
    """
    runs, won = 400, 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        truth = rng.integers(0, 2, 100)
        judge = np.where(rng.random(100) < 0.2, 1 - truth, truth)
        found = alternative_annotator_test([truth, truth, truth], judge, epsilon=0.2)
        won += found.opponents[0].p <= 0.05
    exact = stats.binom.cdf(14, 100, 0.2)
    assert won / runs == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / runs))


def test_copies_of_rows_are_no_evidence_when_their_cluster_is_known() -> None:
    humans, judge = panel(40, 0.3, 0.3, 1)
    once = alternative_annotator_test(humans, judge)
    humans, judge = np.repeat(humans, 10, axis=1), np.repeat(judge, 10)
    known = alternative_annotator_test(
        humans, judge, clusters=np.repeat(np.arange(40), 10).tolist()
    )
    ignored = alternative_annotator_test(humans, judge)
    for a, b, c in zip(once.opponents, known.opponents, ignored.opponents, strict=True):
        assert b.p == pytest.approx(a.p)
        assert (b.units, b.rows) == (40, 400)
        assert c.p < a.p


def test_signed_ranks_are_those_of_scipy() -> None:
    humans, judge = panel(20, 0.3, 0.1, 3)
    found = alternative_annotator_test(humans, judge, test="wilcoxon")
    ours, theirs, _ = plain(humans, judge, 0.2)
    assert found.test == "wilcoxon"
    assert found.opponents[0].judge_advantage == ours[0]
    others = humans[1:]
    score_judge, score_human = (others == judge).mean(0), (others == humans[0]).mean(0)
    d = (score_human >= score_judge).astype(float) - (score_judge >= score_human)
    p = stats.wilcoxon(d - 0.2, alternative="less").pvalue
    count = stats.binomtest(int((d > 0).sum()), 20, 0.2, alternative="less").pvalue
    assert found.opponents[0].p == pytest.approx(max(p, count))
    assert theirs[0] - ours[0] == pytest.approx(d.mean())


def notes(found: AlternativeTest) -> str:
    return " ".join(found.notes)


def test_what_limits_the_answer_is_said() -> None:
    humans, judge = panel(29, 0.3, 0.3, 4)
    assert "29 independent units" in notes(alternative_annotator_test(humans, judge, test="t"))
    assert "signed ranks" in notes(alternative_annotator_test(humans, judge))
    assert "two annotators" in notes(alternative_annotator_test(humans[:2], judge))
    assert not alternative_annotator_test(*panel(30, 0.3, 0.3, 4)).notes
    with pytest.raises(InvalidInput, match="there is 1") as raised:
        alternative_annotator_test(humans[:1], judge)
    assert "three" in raised.value.hint


def test_the_number_of_units_chooses_the_test() -> None:
    assert alternative_annotator_test(*panel(29, 0.3, 0.3, 4)).test == "wilcoxon"
    assert alternative_annotator_test(*panel(30, 0.3, 0.3, 4)).test == "t"
    clusters = np.repeat(np.arange(10), 10).tolist()
    found = alternative_annotator_test(*panel(100, 0.3, 0.3, 4), clusters=clusters)
    assert found.test == "wilcoxon"
    humans, judge = panel(60, 0.1, 0.1, 5)
    humans[2] = -1  # who has no units is not tested, and does not choose
    assert alternative_annotator_test(humans, judge).test == "t"


@pytest.mark.parametrize(("units", "passes"), [(2, False), (5, False), (15, False), (20, True)])
def test_a_judge_without_a_loss_does_not_pass_on_a_few_units(units: int, passes: bool) -> None:
    """By chance alone 0.8 to the power of their number; a little more is asked of three tests."""
    humans, judge = np.zeros((3, units), int), np.zeros(units, int)
    found = alternative_annotator_test(humans, judge)
    assert found.opponents[0].p == pytest.approx(0.8**units)
    assert found.passes is passes


def test_a_judge_at_the_margin_seldom_wins_on_few_rows() -> None:
    """As above, with 20 rows, where the t-test and signed ranks alone win too often."""
    won, runs = 0, 200
    for run in range(runs):
        rng = np.random.default_rng(run)
        truth = rng.integers(0, 2, 20)
        judge = np.where(rng.random(20) < 0.2, 1 - truth, truth)
        found = alternative_annotator_test([truth, truth, truth], judge, epsilon=0.2)
        won += found.opponents[0].p <= 0.05
    assert stats.binomtest(won, runs, 0.05, alternative="greater").pvalue > 0.001


def test_an_annotator_without_shared_rows_is_not_won_against() -> None:
    humans, judge = panel(60, 0.1, 0.1, 5)
    humans[2] = -1
    found = alternative_annotator_test(humans, judge)
    assert [one.won for one in found.opponents] == [True, True, False]
    assert math.isnan(found.opponents[2].p)
    assert found.winning_rate == pytest.approx(2 / 3)
    assert "annotator 2" in notes(found)
    nothing = alternative_annotator_test(np.full((3, 4), -1), np.full(4, -1))
    assert not nothing.passes
    assert math.isnan(nothing.advantage)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
@pytest.mark.parametrize(("judge", "won"), [(0, True), (1, False)])
def test_without_variance(test: str, judge: int, won: bool) -> None:
    """Always as good as people, or never."""
    humans, judge_labels = np.zeros((3, 40), int), np.full(40, judge)
    found = alternative_annotator_test(humans, judge_labels, test=test)
    assert found.winning_rate == float(won)
    edge = alternative_annotator_test(humans, np.zeros(40, int), epsilon=0.0, test=test)
    assert [one.p for one in edge.opponents] == [1.0] * 3


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4,\)"):
        alternative_annotator_test(np.zeros((2, 3)), np.zeros(4))
    with pytest.raises(ValueError, match="3 rows and 2 clusters"):
        alternative_annotator_test(np.zeros((2, 3)), np.zeros(3), clusters=[1, 2])
