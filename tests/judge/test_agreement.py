"""Agreement measures: against scikit-learn where it is there, against known truth everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(pairs)
def test_against_scikit_learn(rows: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the `train` extra")
    gold, said = split(rows)
    table = agreement.confusion(gold, said, LABELS)
    assert agreement.macro_f1(table) == pytest.approx(
        metrics.f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0)
    )
    if len(set(gold + said)) > 1:
        assert agreement.cohen_kappa(table) == pytest.approx(metrics.cohen_kappa_score(gold, said))


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
    with pytest.raises(ValueError, match="2 reference labels and 1"):
        agreement.confusion([0, 1], [0], LABELS)


def test_calibration_error_of_a_calibrated_and_of_a_boastful_judge() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), 40_000)
    gold = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    assert agreement.expected_calibration_error(p, gold) < 0.01
    sure = np.eye(3)[p.argmax(1)]
    wrong = float((p.argmax(1) != gold).mean())
    assert agreement.expected_calibration_error(sure, gold) == pytest.approx(wrong)


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
