"""Selective judging: by hand, by brute force, and a guarantee that holds in simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

from evenhand.judge.selective import risk_bound, risk_coverage, threshold
from evenhand.schemas.errors import InvalidInput

# -- the curve ------------------------------------------------------------------------------------


def test_curve_by_hand() -> None:
    curve = risk_coverage([0.9, 0.5, 0.7, 0.7], [True, False, True, False])
    assert curve.threshold.tolist() == [0.9, 0.7, 0.5]
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0.0, 1 / 3, 0.5])
    # The tie at 0.7 in either order: risks (0, 0, 1/3, 1/2) or (0, 1/2, 1/3, 1/2).
    assert curve.area == pytest.approx((0 + 1 / 4 + 1 / 3 + 1 / 2) / 4)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.8]), st.booleans()), max_size=6))
def test_area_is_the_mean_over_all_orders_of_ties(rows: list[tuple[float, bool]]) -> None:
    curve = risk_coverage([c for c, _ in rows], [r for _, r in rows])
    if not rows:
        assert math.isnan(curve.area)
        return
    areas = []
    for order in permutations(rows):
        if all(a[0] >= b[0] for a, b in pairwise(order)):
            wrong = np.cumsum([not right for _, right in order])
            areas.append((wrong / np.arange(1, len(rows) + 1)).mean())
    assert curve.area == pytest.approx(np.mean(areas))
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx(1 - np.mean([r for _, r in rows]))


def test_an_informed_confidence_has_a_smaller_area() -> None:
    rng = np.random.default_rng(0)
    c = rng.random(2_000)
    right = rng.random(2_000) < c
    risk = 1 - right.mean()
    assert risk_coverage(c, right).area < 0.7 * risk
    assert risk_coverage(rng.random(2_000), right).area == pytest.approx(risk, abs=0.04)


def test_rows_without_a_verdict_lower_the_coverage_alone() -> None:
    sure, right = np.linspace(0.5, 1, 200), [True] * 200
    every, half = risk_coverage(sure, right), risk_coverage(sure, right, of=400)
    assert half.coverage.tolist() == (every.coverage / 2).tolist()
    assert half.coverage[-1] == 0.5
    assert (half.area, half.risk.tolist()) == (every.area, every.risk.tolist())
    clusters = [i // 2 for i in range(200)]
    whole = threshold(sure, right, 0.9, clusters=clusters)
    found = threshold(sure, right, 0.9, of=400, clusters=clusters)
    assert whole is not None
    assert found is not None
    assert (whole.coverage, found.coverage) == (1.0, 0.5)
    assert (found.value, found.bound, found.kept) == (whole.value, whole.bound, whole.kept)
    with pytest.raises(ValueError, match="200 of 100 rows"):
        threshold(sure, right, 0.9, of=100)


# -- the threshold --------------------------------------------------------------------------------


@given(st.integers(1, 200), st.data())
def test_bound_by_its_definition(rows: int, data: st.DataObject) -> None:
    errors = data.draw(st.integers(0, rows))
    bound = risk_bound(errors, rows, 0.1)
    if errors == rows:
        assert bound == 1.0
    else:
        assert stats.binom.cdf(errors, rows, bound) == pytest.approx(0.1)
        both = proportion_confint(errors, rows, alpha=0.2, method="beta")
        assert bound == pytest.approx(both[1])


def test_threshold_by_hand() -> None:
    # 22 rows without an error are the fewest that can show 90% at 10%: 0.9**22 < 0.1 < 0.9**21.
    assert threshold(np.full(21, 0.9), [True] * 21, 0.9) is None
    found = threshold(np.full(22, 0.9), [True] * 22, 0.9)
    assert found is not None
    assert (found.value, found.rows, found.kept, found.coverage) == (0.9, 22, 22, 1.0)
    assert found.agreement == 1.0
    assert found.bound == pytest.approx(0.1 ** (1 / 22))


def test_it_stops_where_the_bound_no_longer_holds() -> None:
    confidence = np.linspace(1, 0, 1_000)
    right = np.arange(1_000) < 600  # wrong below 0.4
    found = threshold(confidence, right, 0.9)
    assert found is not None
    assert 600 < found.kept < 667  # 600 of 666 are 90%
    assert found.bound >= 0.9
    assert found.agreement == pytest.approx(600 / found.kept)
    assert found.value == confidence[found.kept - 1]
    beyond = found.kept + 20
    assert 1 - risk_bound(beyond - 600, beyond, 0.1) < 0.9


def test_rows_of_equal_confidence_are_kept_together() -> None:
    confidence = np.repeat([0.9, 0.6, 0.3], 100)
    right = np.repeat([True, True, False], 100)
    found = threshold(confidence, right, 0.9)
    assert found is not None
    assert (found.value, found.kept) == (0.6, 200)


def test_no_threshold_is_invented() -> None:
    rng = np.random.default_rng(1)
    assert threshold([], [], 0.9) is None
    assert threshold(rng.random(500), rng.random(500) < 0.5, 0.9) is None


def test_what_cannot_be_is_refused() -> None:
    for target, delta in ((0.0, 0.1), (1.0, 0.1), (0.9, 0.0), (0.9, 1.0)):
        with pytest.raises(InvalidInput):
            threshold([0.5], [True], target, delta)
    with pytest.raises(ValueError, match="NaN"):
        threshold([math.nan], [True], 0.9)
    with pytest.raises(ValueError, match="2 confidences and 1"):
        risk_coverage([0.5, 0.5], [True])
    with pytest.raises(ValueError, match="1 rows and 2 clusters"):
        threshold([0.5], [True], 0.9, clusters=["a", "b"])


def test_one_row_of_each_cluster_counts() -> None:
    rng = np.random.default_rng(2)
    confidence, right = rng.random(900), rng.random(900) < 0.99
    found = threshold(confidence, right, 0.9, clusters=[i // 3 for i in range(900)])
    assert found is not None
    assert found.rows == 300
    assert found == threshold(confidence, right, 0.9, clusters=[i // 3 for i in range(900)])


GRID = np.linspace(0, 1, 10_001)
RISKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "falls steadily": lambda c: 0.5 * (1 - c),
    "falls steeply": lambda c: 0.6 / (1 + np.exp(8 * (c - 0.4))),
    "just too high": lambda c: np.full_like(c, 0.1001),
    "a bad patch": lambda c: np.where((c > 0.6) & (c < 0.8), 0.5, 0.02),
    "most confident are worst": lambda c: np.where(c > 0.95, 0.4, 0.08),
}


def violations(risk: Callable[[np.ndarray], np.ndarray], copies: int, clustered: bool) -> float:
    """How often, over calibration sets, agreement beyond the threshold is below its target of 90%.

    150 clusters of `copies` equal rows, confidence even over 0 to 1.
    """
    at = risk(GRID)
    beyond = at[::-1].cumsum()[::-1] / np.arange(len(GRID), 0, -1)
    failed, runs = 0, 400
    for run in range(runs):
        rng = np.random.default_rng(run)
        confidence = rng.random(150)
        right = rng.random(150) >= risk(confidence)
        found = threshold(
            np.repeat(confidence, copies),
            np.repeat(right, copies),
            0.9,
            0.1,
            clusters=np.repeat(np.arange(150), copies).tolist() if clustered else None,
        )
        failed += found is not None and bool(np.interp(found.value, GRID, beyond) > 0.1)
    return failed / runs


@pytest.mark.parametrize("world", RISKS)
def test_the_guarantee_holds(world: str) -> None:
    # Three standard errors of 400 runs above 10%.
    assert violations(RISKS[world], 1, clustered=False) < 0.145


def test_the_guarantee_holds_with_clusters_and_only_so() -> None:
    risk = RISKS["falls steadily"]
    assert violations(risk, 8, clustered=True) < 0.145
    assert violations(risk, 8, clustered=False) > 0.2
