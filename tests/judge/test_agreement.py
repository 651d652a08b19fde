"""Agreement measures: by hand, against scikit-learn and krippendorff, on known truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from sklearn import metrics  # type: ignore[import-untyped]

from evenhand.judge import agreement

LABELS = 4
pairs = st.lists(
    st.tuples(st.integers(0, LABELS - 1), st.integers(0, LABELS - 1)), min_size=1, max_size=60
)


def split(rows: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [a for a, _ in rows], [b for _, b in rows]


@given(pairs)
def test_confusion_counts_every_pair_once(rows: list[tuple[int, int]]) -> None:
    table = agreement.confusion(*split(rows), LABELS)
    for gold in range(LABELS):
        for said in range(LABELS):
            assert table[gold, said] == rows.count((gold, said))


@given(pairs)
def test_kappa_by_its_definition(rows: list[tuple[int, int]]) -> None:
    gold, said = split(rows)
    observed = sum(a == b for a, b in rows) / len(rows)
    chance = sum(gold.count(k) * said.count(k) for k in range(LABELS)) / len(rows) ** 2
    kappa = agreement.cohen_kappa(agreement.confusion(gold, said, LABELS))
    if len(set(gold + said)) == 1:
        assert kappa == 1.0
    else:
        assert kappa == pytest.approx((observed - chance) / (1 - chance))


@settings(deadline=None)
@given(pairs)
def test_against_scikit_learn(rows: list[tuple[int, int]]) -> None:
    gold, said = split(rows)
    table = agreement.confusion(gold, said, LABELS)
    assert agreement.accuracy(table) == pytest.approx(metrics.accuracy_score(gold, said))
    assert agreement.macro_f1(table) == pytest.approx(
        metrics.f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0)
    )
    assert agreement.f1s(table) == pytest.approx(
        metrics.f1_score(
            gold, said, labels=list(range(LABELS)), average=None, zero_division=np.nan
        ),
        nan_ok=True,
    )
    recall = metrics.recall_score(gold, said, labels=sorted(set(gold)), average="macro")
    assert agreement.balanced_accuracy(table) == pytest.approx(recall)
    if len(set(gold)) > 1 and set(said) <= set(gold):  # else scikit-learn warns
        assert agreement.balanced_accuracy(table) == pytest.approx(
            metrics.balanced_accuracy_score(gold, said)
        )
    if len(set(gold + said)) > 1:
        assert agreement.cohen_kappa(table) == pytest.approx(metrics.cohen_kappa_score(gold, said))


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 2**32), st.floats(0.0, 0.9))
def test_alpha_against_krippendorff(raters: int, rows: int, seed: int, gaps: float) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.integers(0, LABELS, (raters, rows))
    ratings[rng.random(ratings.shape) < gaps] = -1
    found = agreement.krippendorff_alpha(ratings)
    pairable = ratings[:, (ratings >= 0).sum(0) > 1]
    if len(np.unique(pairable[pairable >= 0])) < 2:
        assert math.isnan(found)
    else:
        with_gaps = np.where(ratings < 0, np.nan, ratings)
        assert found == pytest.approx(
            krippendorff.alpha(reliability_data=with_gaps, level_of_measurement="nominal")
        )


def test_alpha_of_perfect_and_of_chance_agreement() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 4_000)
    assert agreement.krippendorff_alpha([labels, labels, labels]) == 1.0
    others = rng.integers(0, 3, (2, 4_000))
    assert abs(agreement.krippendorff_alpha(np.vstack([labels[None], others]))) < 0.02


def test_macro_f1_by_hand() -> None:
    # Label 0: 2 of 3 found, 2 of 2 right, F1 0.8. Label 1: 1 of 1 found, 1 of 2 right, F1 2/3.
    # Label 2 never occurs in the reference and does not count.
    table = agreement.confusion([0, 0, 0, 1], [0, 0, 1, 1], 3)
    assert agreement.macro_f1(table) == pytest.approx((0.8 + 2 / 3) / 2)
    assert agreement.recalls(table)[:2] == pytest.approx([2 / 3, 1.0])
    assert agreement.precisions(table)[:2] == pytest.approx([1.0, 0.5])
    assert math.isnan(agreement.recalls(table)[2])


def test_nothing_gives_nan_and_unequal_lengths_raise() -> None:
    empty = agreement.confusion([], [], LABELS)
    assert math.isnan(agreement.cohen_kappa(empty))
    assert math.isnan(agreement.accuracy(empty))
    assert math.isnan(agreement.macro_f1(empty))
    assert math.isnan(agreement.balanced_accuracy(empty))
    assert np.isnan(agreement.f1s(empty)).all()
    assert math.isnan(agreement.krippendorff_alpha(np.full((3, 4), -1)))
    assert math.isnan(agreement.brier(np.empty((0, 3)), []))
    assert math.isnan(agreement.expected_calibration_error(np.empty((0, 3)), []))
    assert agreement.reliability(np.empty((0, 3)), []) == []
    with pytest.raises(ValueError, match="2 reference labels and 1"):
        agreement.confusion([0, 1], [0], LABELS)
    with pytest.raises(ValueError, match="2 reference labels and 1"):
        agreement.brier([[0.5, 0.5]], [0, 1])


@pytest.mark.parametrize(("gold", "said"), [([0, 1], [0, -1]), ([4, 0], [0, 0]), ([-1], [1])])
def test_a_row_without_a_label_is_never_counted_as_one(gold: list[int], said: list[int]) -> None:
    with pytest.raises(ValueError, match="outside of 0 to 3"):
        agreement.confusion(gold, said, LABELS)


def test_calibration_error_of_a_calibrated_and_of_a_boastful_judge() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), 40_000)
    gold = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    assert agreement.expected_calibration_error(p, gold) < 0.01
    sure = np.eye(3)[p.argmax(1)]
    wrong = float((p.argmax(1) != gold).mean())
    assert agreement.expected_calibration_error(sure, gold) == pytest.approx(wrong)


def test_reliability_by_hand() -> None:
    p = [[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.05, 0.95], [0.0, 1.0]]
    found = agreement.reliability(p, [1, 0, 1, 0, 1], bins=10)
    # 0.5 lies in (0.4, 0.5]; of equal probabilities the first label counts as the best.
    assert [(b.lower, b.upper, b.rows) for b in found] == [
        (0.4, 0.5, 1),
        (0.8, 0.9, 2),
        (0.9, 1, 2),
    ]
    assert [b.accuracy for b in found] == [0.0, 1.0, 0.5]
    assert [b.confidence for b in found] == pytest.approx([0.5, 0.9, 0.975])
    ece = agreement.expected_calibration_error(p, [1, 0, 1, 0, 1], bins=10)
    assert ece == pytest.approx((0.5 + 2 * 0.1 + 2 * 0.475) / 5)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32))
def test_bins_of_reliability_hold_every_row_once(rows: int, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, gold = rng.dirichlet(np.ones(3), rows), rng.integers(0, 3, rows)
    found = agreement.reliability(p, gold, bins)
    assert sum(b.rows for b in found) == rows
    assert sum(b.rows * b.accuracy for b in found) == pytest.approx((p.argmax(1) == gold).sum())
    for b in found:
        assert b.lower <= b.confidence <= b.upper + 1e-12


def test_brier_by_hand_and_against_scikit_learn() -> None:
    assert agreement.brier([[1.0, 0.0], [1.0, 0.0]], [0, 1]) == 1.0  # (0 + 2) / 2
    rng = np.random.default_rng(3)
    p, gold = rng.dirichlet(np.ones(2), 50), rng.integers(0, 2, 50)
    one = metrics.brier_score_loss(gold, p[:, 1])
    assert agreement.brier(p, gold) == pytest.approx(2 * one)


# -- intervals ------------------------------------------------------------------------------------


def test_resamples_take_clusters_whole_and_all_figures_from_one_resample() -> None:
    clusters = ["b", "a", "b", "c", "a", "b"]
    seen: list[list[int]] = []

    def statistics(rows: np.ndarray) -> list[float]:
        seen.append(rows.tolist())
        return [float(rows.mean()), float(rows.mean()), math.nan]

    ends = agreement.intervals(statistics, clusters, draws=50)
    assert ends.shape == (2, 3)
    assert ends[:, 0].tolist() == ends[:, 1].tolist()
    assert np.isnan(ends[:, 2]).all()
    assert len(seen) == 50
    for rows in seen:
        times = np.bincount(rows, minlength=6)
        assert times[0] == times[2] == times[5]
        assert times[1] == times[4]
        assert times[0] + times[1] + times[3] == 3
    assert len({tuple(rows) for rows in seen}) > 10


def test_interval_is_that_of_intervals() -> None:
    values = np.random.default_rng(4).normal(size=30)
    keys = [i // 3 for i in range(30)]
    one = agreement.interval(lambda rows: float(values[rows].mean()), keys, draws=100)
    both = agreement.intervals(
        lambda rows: [values[rows].mean(), values[rows].std()], keys, draws=100
    )
    assert one == tuple(both[:, 0].tolist())


def test_interval_leaves_out_draws_without_a_value() -> None:
    values = np.array([math.nan, 1.0, 2.0])
    low, high = agreement.interval(
        lambda rows: float(values[rows].sum()), list(range(3)), draws=200
    )
    assert (low, high) == (3.0, 6.0)


def test_one_cluster_tells_nothing_about_how_clusters_vary() -> None:
    assert np.isnan(agreement.interval(lambda rows: float(len(rows)), ["a"] * 5)).all()
    found = agreement.share([True, False, True], ["a"] * 3)
    assert found.value == pytest.approx(2 / 3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(agreement.share([], []).value)


def test_interval_of_few_clusters_is_as_wide_as_students() -> None:
    """Plain percentiles would be narrower by a third."""
    values = np.random.default_rng(5).normal(size=6)
    low, high = agreement.interval(
        lambda rows: float(values[rows].mean()), list(range(6)), draws=4_000
    )
    ends = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert high - low == pytest.approx(ends[1] - ends[0], rel=0.15)


def test_share_is_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(6)
    hits, clusters = rng.random(200) < 0.3, rng.integers(0, 40, 200).tolist()
    found = agreement.share(hits, clusters, seed=1)
    low, high = agreement.interval(lambda rows: float(hits[rows].mean()), clusters, seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((hits.mean(), low, high))


def test_share_of_none_or_all_has_a_width_by_clusters() -> None:
    clusters = [i // 10 for i in range(200)]
    none = agreement.share([False] * 200, clusters)
    every = agreement.share([True] * 200, clusters)
    edge = stats.beta.ppf(0.975, 0.5, 20.5)  # 20 clusters, not 200 rows
    assert (none.value, none.low, none.high) == pytest.approx((0.0, 0.0, edge))
    assert (every.value, every.low, every.high) == pytest.approx((1.0, 1 - edge, 1.0))


def test_share_covers_with_eight_clusters() -> None:
    """Eight names with rates of their own, twenty rows each."""
    covered, runs = 0, 500
    for run in range(runs):
        rng = np.random.default_rng(run)
        rates = np.repeat(rng.beta(6, 4, 8), 20)
        found = agreement.share(rng.random(160) < rates, [i // 20 for i in range(160)], seed=run)
        covered += found.low <= 0.6 <= found.high
    assert covered / runs > 0.92


def test_interval_covers_the_truth_when_rows_of_a_cluster_agree() -> None:
    """Clusters of five equal rows: rows taken as independent would cover far less."""
    rng = np.random.default_rng(2)
    covered = alone = 0
    runs = 200
    for run in range(runs):
        values = np.repeat(rng.random(60) < 0.3, 5).astype(float)
        clusters = np.repeat(np.arange(60), 5).tolist()

        def mean(where: np.ndarray, values: np.ndarray = values) -> float:
            return float(values[where].mean())

        low, high = agreement.interval(mean, clusters, draws=200, seed=run)
        covered += low <= 0.3 <= high
        low, high = agreement.interval(mean, list(range(300)), draws=200, seed=run)
        alone += low <= 0.3 <= high
    assert covered / runs > 0.89
    assert alone / runs < 0.75


# -- the interval of the calibration error --------------------------------------------------------


def overconfident(rows: int, by: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two labels, and labels: the best is right `by` less often than it says."""
    sure = rng.uniform(0.5 + by, 1, rows)
    right = rng.random(rows) < sure - by
    return np.stack([sure, 1 - sure], axis=1), np.where(right, 0, 1)


@pytest.mark.parametrize(
    ("rows", "by"), [(200, 0.0), (200, 0.02), (1_000, 0.02), (450, 0.04), (450, 0.1)]
)
def test_the_interval_of_a_calibration_error_covers_the_true_one(rows: int, by: float) -> None:
    """Percentiles of plug-in errors cover it in none of the first two."""
    runs = 100
    rng = np.random.default_rng(9)
    covered = 0
    for run in range(runs):
        p, gold = overconfident(rows, by, rng)
        found = agreement.calibration_error(p, gold, range(rows), draws=100, seed=run)
        covered += found.low <= by <= found.high
        assert found.low <= found.value <= found.high
    assert covered / runs >= 0.93


def test_a_large_calibration_error_is_told_from_none() -> None:
    p, gold = overconfident(450, 0.2, np.random.default_rng(3))
    found = agreement.calibration_error(p, gold, range(450))
    assert found.value == agreement.expected_calibration_error(p, gold)
    assert 0.1 < found.low < 0.2 < found.high < 0.3


def test_the_interval_of_a_calibration_error_knows_of_clusters() -> None:
    p, gold = overconfident(200, 0.1, np.random.default_rng(4))
    one, five = np.tile(p, (5, 1)), np.tile(gold, 5)
    alone = agreement.calibration_error(one, five, range(1_000))
    together = agreement.calibration_error(one, five, [*range(200)] * 5)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    single = agreement.calibration_error(p, gold, ["a"] * 200)
    assert math.isnan(single.low)
    assert math.isnan(single.high)


def test_a_calibration_error_without_a_wrong_row_has_a_width() -> None:
    p = np.tile([0.97, 0.03], (20, 1))
    found = agreement.calibration_error(p, [0] * 20, range(20))
    edge = stats.beta.ppf(0.975, 0.5, 20.5)  # as many as that may be wrong
    assert (found.value, found.low, found.high) == pytest.approx((0.03, 0.0, 0.03 + edge))
