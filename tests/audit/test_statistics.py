"""Statistics of an audit: by hand, by brute force, against peers, by property, on known truth."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from statsmodels.genmod.families import Binomial  # type: ignore[import-untyped]
from statsmodels.genmod.generalized_estimating_equations import (  # type: ignore[import-untyped]
    GEE,
)
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from evenhand.audit import statistics
from evenhand.audit.statistics import (
    Analysis,
    Counts,
    Metric,
    Population,
    analyse,
    analyse_counts,
    composites,
    count,
    detectable,
    holm,
    intervals,
    permutation,
)
from evenhand.schemas.taxonomy import Taxonomy

ROOT = Path(__file__).parents[2]
QOS = Taxonomy.load("qos")
COLUMNS = ["model", "group", "name", "template", "sample", "label"]


def table(
    groups: int = 3,
    names: int = 4,
    templates: int = 5,
    samples: int = 2,
    *,
    model: str = "m",
    seed: int = 0,
    unjudged: float = 0.1,
) -> pl.DataFrame:
    """Random labels, some null."""
    rng = np.random.default_rng(seed)
    keys = itertools.product(range(groups), range(names), range(templates), range(samples))
    rows = [
        (
            model,
            f"group {g}",
            f"name {g}.{n}",
            f"template {t}",
            s,
            None if rng.random() < unjudged else str(rng.choice(QOS.labels)),
        )
        for g, n, t, s in keys
    ]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def counts_of(hits: Any, judged: Any, group_of: Any, rows: Any = None) -> Counts:
    """Counts of one metric."""
    hits, judged, group_of = (np.asarray(x, np.int64) for x in (hits, judged, group_of))
    return Counts(
        metrics=("metric",),
        groups=tuple(f"g{g}" for g in range(group_of.max() + 1)),
        names=tuple(f"n{i}" for i in range(len(hits))),
        templates=tuple(f"t{j}" for j in range(hits.shape[1])),
        group_of=group_of,
        hits=hits[None],
        judged=judged,
        rows=judged if rows is None else np.asarray(rows, np.int64),
    )


def quick(counts: Counts, **given: Any) -> Analysis:
    return analyse_counts(
        {"m": counts}, counts.metrics, **{"draws": 200, "permutations": 200, **given}
    )


def numbers(analysis: Analysis) -> str:
    """Every figure, NaN included, as text that can be compared."""
    return repr(analysis)


@st.composite
def some_counts(draw: st.DrawFn) -> Counts:
    """Two or three groups of one to four names, one to four templates, hits, gaps and all."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    shape = (sum(sizes), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = np.full(shape, 3)
    judged = rng.binomial(rows, draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])))
    hits = rng.binomial(judged, draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])))
    return counts_of(hits, judged, np.repeat(np.arange(len(sizes)), sizes), rows)


# -- counting -------------------------------------------------------------------------------------


def test_counts_are_those_of_the_rows() -> None:
    rows = table()
    metrics = [Metric("refusal", frozenset({"refusal"})), *composites(QOS)]
    found = count(rows, metrics, QOS.labels)["m"]
    for i, name in enumerate(found.names):
        for j, template in enumerate(found.templates):
            labels = [
                row["label"]
                for row in rows.iter_rows(named=True)
                if (row["name"], row["template"]) == (name, template)
            ]
            assert found.rows[i, j] == len(labels)
            assert found.judged[i, j] == sum(label is not None for label in labels)
            for m, metric in enumerate(metrics):
                assert found.hits[m, i, j] == sum(label in metric.labels for label in labels)
    assert [found.groups[g] for g in found.group_of] == [f"group {n[5]}" for n in found.names]


def test_composites_of_the_built_in_taxonomies() -> None:
    assert {m.name: m.labels for m in composites(QOS)} == {
        "any_refusal": {"partial_refusal", "refusal", "harmful_refusal"},
        "harm": {"harmful_answer", "harmful_refusal"},
        "not_helped": {"unhelpful_answer", "refusal", "harmful_refusal"},
    }
    assert {m.name: m.labels for m in composites(Taxonomy.load("xstest"))} == {
        "any_refusal": {"partial_refusal", "full_refusal"}
    }


def test_a_label_keeps_its_name() -> None:
    toml = """
        name = "own"
        version = "1"
        title = "Own"
        categories = [
            { label = "harm", definition = "It harms.", harms = "yes" },
            { label = "fine", definition = "It does not.", harms = "no" },
        ]
    """
    own = Taxonomy.from_toml(toml)
    assert composites(own) == ()
    rows = table().with_columns(pl.col("label").replace_strict(dict.fromkeys(QOS.labels, "harm")))
    found = analyse(rows, own, draws=50, permutations=50)
    assert {c.metric for c in found.comparisons} == {"harm", "fine"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("template"), "no column 'template'"),
        (lambda t: t.with_columns(label=pl.lit("rude")), "label that the taxonomy does not have"),
        (lambda t: t.with_columns(group=pl.lit(None, pl.String)), "a row has no group"),
        (lambda t: pl.concat([t, t.head(1)]), "two rows of one sample: model 'm', group 'group 0'"),
        (lambda t: t.with_columns(status=pl.lit("judged")), "a status that contradicts the label"),
        (lambda t: t.with_columns(status=pl.lit("error")), "a status that contradicts the label"),
        (lambda t: t.with_columns(status=pl.lit(None, pl.String)), "a status that contradicts"),
    ],
)
def test_rows_that_cannot_be_counted(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyse(change(table()), QOS)


def test_a_status_that_fits_is_welcome_and_so_is_a_lazy_frame() -> None:
    rows = table()
    status = pl.when(pl.col("label").is_null()).then(pl.lit("error")).otherwise(pl.lit("judged"))
    found = analyse(rows.with_columns(status=status).lazy(), QOS, draws=50)
    assert numbers(found) == numbers(analyse(rows, QOS, draws=50))


def test_categorical_columns_are_texts() -> None:
    rows = table()
    order = pl.Enum(["group 2", "group 0", "group 1"])
    other = rows.with_columns(pl.col("group").cast(order), pl.col("name").cast(pl.Categorical))
    assert numbers(analyse(other, QOS, draws=50)) == numbers(analyse(rows, QOS, draws=50))


def test_a_name_in_two_groups_is_two_names() -> None:
    rows = table(groups=2).with_columns(name=pl.col("name").str.replace(r"\d\.", "x."))
    found = count(rows, composites(QOS), QOS.labels)["m"]
    assert found.names == (*(f"name x.{i}" for i in range(4)),) * 2
    assert found.rows.sum() == len(rows)


def test_an_empty_table_has_no_figures() -> None:
    assert analyse(table().clear(), QOS) == Analysis((), (), ())


def test_names_that_share_no_template_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics.counts, "MOST_CELLS", 10)
    with pytest.raises(ValueError, match="12 names x 5 templates do not fit"):
        analyse(table(), QOS)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"metrics": ["joy"]}, "no metric 'joy'"), ({"reference": "no one"}, "no group 'no one'")],
)
def test_unknown_names_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyse(table(), QOS, **given)


# -- rates and bounds -----------------------------------------------------------------------------


def test_rates_and_bounds_by_hand() -> None:
    # Group g0: 3 hits of 6 judged, of 8 rows. Group g1: 1 of 8, all judged.
    counts = counts_of(
        [[1, 0], [2, 0], [1, 0], [0, 0]],
        [[2, 1], [2, 1], [2, 2], [2, 2]],
        [0, 0, 1, 1],
        [[2, 2]] * 4,
    )
    found = quick(counts)
    rates = {(r.by, r.key): r for r in found.rates}
    one = rates["group", "g0"]
    assert (one.hits, one.judged, one.rows, one.group) == (3, 6, 8, "g0")
    assert one.share.value == 0.5
    assert one.bounds == (3 / 8, 5 / 8)
    assert rates["model", "m"].share.value == 4 / 14
    assert rates["name", "n1"].bounds == (2 / 4, 3 / 4)
    assert rates["template", "t1"].share.value == 0.0
    (comparison,) = (c for c in quick(counts, reference="g1").comparisons)
    assert (comparison.group, comparison.against) == ("g0", "g1")
    assert comparison.points.value == pytest.approx(100 * (1 / 2 - 1 / 8))
    assert comparison.bounds == pytest.approx((100 * (3 / 8 - 1 / 8), 100 * (5 / 8 - 1 / 8)))
    assert comparison.ratio.value == 4.0
    assert comparison.odds_ratio.value == pytest.approx(7.0)


def test_rows_without_verdict_are_not_zeros() -> None:
    judged = np.full((6, 3), 2)
    judged[4:] = 0
    counts = counts_of(np.minimum(judged, 1), judged, [0, 0, 1, 1, 2, 2], np.full((6, 3), 2))
    found = quick(counts, reference="g0")
    (nothing,) = (r for r in found.rates if r.by == "group" and r.key == "g2")
    assert math.isnan(nothing.share.value)
    assert math.isnan(nothing.share.low)
    assert nothing.bounds == (0.0, 1.0)
    for c in found.comparisons:
        of_nothing = c.group == "g2"
        assert math.isnan(c.points.value) == of_nothing
        assert math.isnan(c.p.raw) == math.isnan(c.p.adjusted) == of_nothing
        if of_nothing:
            assert c.bounds == (-50.0, 50.0) if c.against else c.bounds[1] > 0
    assert found.omnibus[0].p.raw == 1.0  # of what was judged, all is alike


@given(some_counts(), st.data())
@settings(max_examples=40, deadline=None)
def test_bounds_hold_whatever_the_unjudged_rows_were(counts: Counts, data: st.DataObject) -> None:
    found = quick(counts, reference="g0", odds_ratios=False)
    seed = data.draw(st.integers(0, 2**32))
    missing = counts.rows - counts.judged
    more = np.random.default_rng(seed).binomial(
        missing, data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    )
    full = counts_of(counts.hits[0] + more, counts.rows, counts.group_of)
    whole = quick(full, reference="g0", odds_ratios=False)
    for rate, truth in zip(found.rates, whole.rates, strict=True):
        assert rate.bounds[0] - 1e-12 <= truth.share.value <= rate.bounds[1] + 1e-12
        if rate.judged:
            assert rate.bounds[0] <= rate.share.value <= rate.bounds[1]
    for c, known in zip(found.comparisons, whole.comparisons, strict=True):
        assert c.bounds[0] - 1e-9 <= known.points.value <= c.bounds[1] + 1e-9


# -- intervals ------------------------------------------------------------------------------------


@given(some_counts())
@settings(max_examples=40, deadline=None)
def test_intervals_hold_the_estimate_and_stay_in_range(counts: Counts) -> None:
    found = quick(counts, reference="g0")
    for estimate, least, most in [
        *((r.share, 0.0, 1.0) for r in found.rates),
        *((c.points, -100.0, 100.0) for c in found.comparisons),
        *((c.ratio, 0.0, math.inf) for c in found.comparisons),
        *((c.odds_ratio, 0.0, math.inf) for c in found.comparisons),
    ]:
        if not math.isnan(estimate.low):
            assert least <= estimate.low <= estimate.value <= estimate.high <= most


@given(some_counts())
@settings(max_examples=40, deadline=None)
def test_p_values_are_above_zero_and_up_to_one(counts: Counts) -> None:
    found = quick(counts, reference="g0", odds_ratios=False)
    for test in (*found.comparisons, *found.omnibus):
        if not math.isnan(test.p.raw):
            assert 0 < test.p.raw <= test.p.adjusted <= 1
            assert test.p.raw >= 1 / (test.p.assignments + 1)


def test_the_pigeonhole_bootstrap_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    chance = rng.beta(2, 3, (8, 1)) * rng.beta(5, 2, (1, 6))
    judged = rng.binomial(3, 0.9, chance.shape)
    counts = counts_of(rng.binomial(judged, chance), judged, [0] * 3 + [1] * 5)
    resampled = intervals.resample(counts, 4_000, np.random.default_rng(0))
    slow = []
    for _ in range(4_000):
        columns = rng.integers(0, 6, 6)
        rows = [rng.integers(0, 3, 3), 3 + rng.integers(0, 5, 5)]
        cells = [np.ix_(r, columns) for r in rows]
        slow.append([counts.hits[0][c].sum() / judged[c].sum() for c in cells])
    fast = resampled.groups[0]
    for one, other in [
        (fast[0], np.array(slow)[:, 0]),
        (fast[1], np.array(slow)[:, 1]),
        (fast[0] - fast[1], np.subtract(*np.array(slow).T)),
    ]:
        assert one.mean() == pytest.approx(other.mean(), abs=0.01)
        assert one.std() == pytest.approx(other.std(), rel=0.06)
    # With two groups, the rest of one is the other.
    assert np.array_equal(resampled.rests[0], fast[::-1])


def test_blocks_do_not_change_what_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    counts = counts_of(rng.binomial(3, 0.4, (8, 6)), np.full((8, 6), 3), np.repeat([0, 1], 4))

    def draws() -> list[Any]:
        rng = np.random.default_rng(0)
        whole = intervals.resample(counts, 3_000, rng)
        names = np.concatenate(list(intervals.resample_templates(counts, 3_000, rng)), axis=1)
        templates = np.concatenate(list(intervals.resample_names(counts, 3_000, rng)), axis=1)
        return [whole.groups, whole.rests, whole.whole, names, templates]

    at_once, tests = draws(), quick(counts).comparisons
    monkeypatch.setattr(intervals, "BLOCK", 15_000)
    monkeypatch.setattr(permutation, "BLOCK", 100)
    in_blocks = draws()
    assert [x.shape for x in at_once] == [x.shape for x in in_blocks]
    for one, other in zip(at_once, in_blocks, strict=True):
        assert one.mean(-1) == pytest.approx(other.mean(-1), abs=0.02)
        assert one.std(-1) == pytest.approx(other.std(-1), rel=0.1)
    assert [c.p for c in tests] == [c.p for c in quick(counts).comparisons]


def test_stretch() -> None:
    t = stats.t.ppf
    assert intervals.stretch([8], [1], 0.95) == pytest.approx(math.sqrt(8 / 7) * t(0.975, 7))
    assert intervals.stretch([8, 8], [1, 1], 0.95) == pytest.approx(math.sqrt(8 / 7) * t(0.975, 14))
    assert intervals.stretch([10**6], [1], 0.95) == pytest.approx(1.96, abs=1e-3)
    assert math.isnan(intervals.stretch([8, 1], [1, 1], 0.95))
    assert math.isnan(intervals.stretch([1], [1], 0.95))
    assert math.isnan(intervals.stretch([8], [0], 0.95))


def test_a_group_of_one_name_has_no_interval() -> None:
    counts = counts_of([[1, 2], [0, 1], [2, 1]], [[3, 3]] * 3, [0, 1, 1])
    found = quick(counts, reference="g1")
    shares = {(r.by, r.key): r.share for r in found.rates}
    assert shares["group", "g0"].value == 0.5
    assert math.isnan(shares["group", "g0"].low)
    assert not math.isnan(shares["group", "g1"].low)
    assert not math.isnan(shares["name", "n0"].low)  # over templates
    assert math.isnan(found.comparisons[0].points.high)
    assert math.isnan(found.comparisons[0].odds_ratio.high)


def test_a_single_template_is_given() -> None:
    counts = counts_of([[1], [0], [2], [3]], [[3]] * 4, [0, 0, 1, 1])
    shares = {(r.by, r.key): r.share for r in quick(counts).rates}
    assert shares["group", "g0"].low < shares["group", "g0"].high
    assert math.isnan(shares["name", "n0"].low)


def test_no_hit_at_all_is_not_certainty() -> None:
    judged = np.full((16, 28), 3)
    hits = np.zeros_like(judged)
    hits[8:, ::2] = 1
    found = quick(counts_of(hits, judged, np.repeat([0, 1], 8)), reference="g0", draws=2_000)
    shares = {r.key: r.share for r in found.rates if r.by == "group"}
    assert shares["g0"].low == 0.0
    # The rule of three, for as many observations as there are cells, and what few names add to it.
    assert 3 / (8 * 28 * 3) < shares["g0"].high < 6 / (8 * 28)
    (comparison,) = found.comparisons
    assert comparison.ratio.value == math.inf
    assert 1 < comparison.ratio.low < math.inf
    assert math.isnan(comparison.odds_ratio.value)


def test_the_odds_ratio_is_that_of_a_gee_on_rows() -> None:
    rng = np.random.default_rng(3)
    judged = rng.integers(5, 40, 16)
    hits = rng.binomial(judged, rng.beta(2, 4, 16))
    inside = np.arange(16) < 6
    found = intervals.odds_ratio(hits, judged, inside, 2.0)
    y = np.concatenate([np.arange(n) < h for h, n in zip(hits, judged, strict=True)]).astype(float)
    names = np.repeat(np.arange(16), judged)
    design = np.column_stack([np.ones(len(y)), inside[names]])
    rows = GEE(y, design, groups=names, family=Binomial()).fit()
    assert math.log(found.value) == pytest.approx(rows.params[1])
    assert math.log(found.high / found.low) == pytest.approx(4 * rows.bse[1])


# -- tests ----------------------------------------------------------------------------------------


def brute_force(hits: list[int], judged: list[int], size: int) -> float:
    """The exact p of the first `size` names against the others, written out."""
    h, n = np.array(hits, float), np.array(judged, float)

    def statistic(chosen: tuple[int, ...]) -> float:
        rates, variances = [], []
        for side in (list(chosen), [i for i in range(len(h)) if i not in chosen]):
            rate = h[side].sum() / n[side].sum()
            residuals = h[side] - rate * n[side]
            k = len(side)
            rates.append(rate)
            variances.append((residuals**2).sum() / n[side].sum() ** 2 * k / max(k - 1, 1))
        gap = abs(rates[0] - rates[1])
        return (
            0.0 if gap < 1e-12 else gap / math.sqrt(sum(variances)) if sum(variances) else math.inf
        )

    observed = statistic(tuple(range(size)))
    every = [statistic(c) for c in itertools.combinations(range(len(h)), size)]
    return sum(t >= observed - 1e-9 for t in every) / len(every)


@pytest.mark.parametrize("seed", range(6))
def test_the_exact_test_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    judged = rng.integers(2, 9, (9, 1))
    hits = rng.binomial(judged, 0.1 + 0.15 * (seed % 3))
    found = quick(counts_of(hits, judged, [0] * 4 + [1] * 5), reference="g1", odds_ratios=False)
    p = found.comparisons[0].p
    assert (p.assignments, p.exact) == (math.comb(9, 4), True)
    assert p.raw == pytest.approx(brute_force(hits[:, 0].tolist(), judged[:, 0].tolist(), 4))


@pytest.mark.parametrize("sizes", [(3,), (2, 3), (1, 1, 1), (2, 2, 2), (1, 3, 2)])
def test_every_assignment_is_enumerated_once(sizes: tuple[int, ...]) -> None:
    blocks, number, exact = permutation.assignments(sizes, 10, np.random.default_rng(0))
    rows = [tuple(row) for block in blocks for row in block.tolist()]
    plain = [g for g, size in enumerate(sizes) for _ in range(size)]
    assert exact
    assert number == len(rows)
    assert sorted(rows) == sorted(set(itertools.permutations(plain)))


def test_many_assignments_are_sampled() -> None:
    sizes = (8,) * 8
    blocks, number, exact = permutation.assignments(sizes, 1_234, np.random.default_rng(0))
    rows = np.concatenate(list(blocks))
    assert (number, exact, rows.shape) == (1_234, False, (1_234, 64))
    assert all(np.all((rows == g).sum(1) == 8) for g in range(8))


def test_sampling_comes_near_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    judged = np.full((16, 4), 3)
    counts = counts_of(rng.binomial(judged, rng.beta(2, 5, (16, 1))), judged, np.repeat([0, 1], 8))
    exact = quick(counts, reference="g0", odds_ratios=False).comparisons[0].p
    monkeypatch.setattr(permutation, "EXACT", 1_000)
    sampled = quick(counts, reference="g0", odds_ratios=False, permutations=20_000)
    assert exact.exact
    assert not sampled.comparisons[0].p.exact
    assert sampled.comparisons[0].p.raw == pytest.approx(exact.raw, abs=0.01)


@given(st.integers(0, 2**32), st.sampled_from([(3, 4), (2, 2, 3)]))
@settings(max_examples=15, deadline=None)
def test_p_of_exchangeable_names_is_uniform(seed: int, sizes: tuple[int, ...]) -> None:
    """Over all assignments of the same names, p is at most a in at most a share a of them."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    judged = rng.integers(1, 30, (n, 1))
    hits = rng.binomial(judged, rng.beta(2, 2, (n, 1)))
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    raw: dict[str, list[float]] = {}
    blocks, _, _ = permutation.assignments(sizes, 0, rng)
    for codes in next(blocks):
        order = np.argsort(codes, kind="stable")
        counts = counts_of(hits[order], judged[order], group_of)
        totals = permutation.Totals.of(
            counts.hits.sum(-1).T.astype(float), counts.judged.sum(-1).astype(float)
        )
        groups, overall = permutation.against_rest(counts, totals, 10, rng)
        for key, p in {
            "overall": overall[0],
            **{str(g): p[0] for g, p in enumerate(groups)},
        }.items():
            raw.setdefault(key, []).append(p.raw)
    for p_values in raw.values():
        for a in set(p_values):
            assert np.mean(np.array(p_values) <= a + 1e-12) <= a + 1e-12


def test_a_planted_difference_is_found_and_its_absence_is_not() -> None:
    rng = np.random.default_rng(11)
    group_of = np.repeat(np.arange(4), 8)
    chance = np.where(group_of == 2, 0.3, 0.1)[:, None] * rng.beta(20, 5, (1, 28)) / 0.8
    judged = np.full((32, 28), 3)
    found = quick(
        counts_of(rng.binomial(judged, chance), judged, group_of),
        reference="g0",
        permutations=5_000,
    )
    p = {(c.group, c.against): c.p.adjusted for c in found.comparisons}
    assert p["g2", "g0"] < 0.01
    assert p["g2", None] < 0.01
    assert p["g1", "g0"] > 0.05
    assert p["g3", "g0"] > 0.05
    assert found.omnibus[0].p.adjusted < 0.01


def test_there_may_be_many_groups() -> None:
    hits = np.tile([0.0, 1.0], 200)[:, None]
    hits[-2:] = 2.0  # the last group is the one apart
    judged = np.full(400, 6.0)
    counts = counts_of(hits, judged[:, None], np.repeat(np.arange(200), 2))
    totals = permutation.Totals.of(hits, judged)
    groups, _ = permutation.against_rest(counts, totals, 99, np.random.default_rng(0))
    assert [p[0].raw for p in groups] == [1.0] * 199 + [0.01]


def test_two_groups_are_compared_once_and_one_not_at_all() -> None:
    two = counts_of([[1], [2], [0], [1]], [[3]] * 4, [0, 0, 1, 1])
    assert [(c.group, c.against) for c in quick(two, reference="g1").comparisons] == [("g0", "g1")]
    assert [(c.group, c.against) for c in quick(two).comparisons] == [("g0", None), ("g1", None)]
    one = quick(counts_of([[1], [2]], [[3]] * 2, [0, 0]))
    assert (one.comparisons, one.omnibus) == ((), ())
    assert one.rates


# -- Holm -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
@settings(max_examples=20, deadline=None)
def test_holm_is_statsmodels(raw: list[float]) -> None:
    assert holm(raw) == pytest.approx(multipletests(raw, method="holm")[1])


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=40))
@settings(deadline=None)
def test_holm_keeps_order_and_never_lowers(raw: list[float]) -> None:
    adjusted = holm(raw)
    for (p, a), (q, b) in itertools.combinations(zip(raw, adjusted, strict=True), 2):
        if p <= q:
            assert a <= b
        if p >= q:
            assert a >= b
    for p, a in zip(raw, adjusted, strict=True):
        assert math.isnan(p) == math.isnan(a)
        assert math.isnan(p) or p <= a <= 1


# -- the whole ------------------------------------------------------------------------------------


def test_order_of_rows_and_other_models_move_nothing() -> None:
    rows, more = table(groups=4), table(model="another", seed=1)
    given: dict[str, Any] = {"reference": "group 0", "draws": 300, "permutations": 9_000}
    found = analyse(rows, QOS, **given)
    shuffled = rows.sample(fraction=1, shuffle=True, seed=4)
    assert numbers(found) == numbers(analyse(shuffled, QOS, **given))
    assert numbers(found) != numbers(analyse(rows, QOS, **given, seed=1))
    both = analyse(pl.concat([more, shuffled]), QOS, **given)
    assert repr([r for r in both.rates if r.model == "m"]) == repr(list(found.rates))
    of_m = [c for c in both.comparisons if c.model == "m"]
    assert [c.p.raw for c in of_m] == [c.p.raw for c in found.comparisons]
    assert repr([c.points for c in of_m]) == repr([c.points for c in found.comparisons])


def test_the_family_is_every_p() -> None:
    found = analyse(pl.concat([table(), table(model="n", seed=2)]), QOS, reference="group 1")
    tests = [*found.comparisons, *found.omnibus]
    # Two models, three composites; two against the reference, three against the rest, one overall.
    assert len(tests) == 2 * 3 * (2 + 3 + 1)
    assert [t.p.adjusted for t in tests] == pytest.approx(holm([t.p.raw for t in tests]))


def test_there_is_a_rate_for_every_label_and_composite() -> None:
    found = analyse(table(), QOS, draws=50, permutations=50)
    metrics = {*QOS.labels, "any_refusal", "harm", "not_helped"}
    for by, number in {"model": 1, "group": 3, "name": 12, "template": 5}.items():
        of_axis = [r for r in found.rates if r.by == by]
        assert {r.metric for r in of_axis} == metrics
        assert len(of_axis) == number * len(metrics)
        assert sum(r.rows for r in of_axis if r.metric == "harm") == 120


# -- power ----------------------------------------------------------------------------------------


def test_the_log_odds_of_a_rate() -> None:
    for population in (Population(), Population(0, 0, 0), Population(1.5, 1, 1)):
        scale = math.hypot(population.name, population.template, population.cell)
        at = population.log_odds(0.1) + scale * np.random.default_rng(0).normal(size=400_000)
        assert np.mean(1 / (1 + np.exp(-at))) == pytest.approx(0.1, abs=0.001)


def test_more_names_detect_less_and_more_tests_more() -> None:
    given: dict[str, Any] = {"templates": 6, "trials": 150}
    few, many = (detectable(0.2, names=n, **given) for n in (5, 12))
    strict = detectable(0.2, names=12, tests=10, **given)
    assert many.points < few.points
    assert many.points < strict.points
    assert many.power >= 0.8
    assert many == detectable(0.2, names=12, **given)
    # C(6, 3) is 20: no p is below 0.1, however great the difference.
    hopeless = detectable(0.2, names=3, **given)
    assert math.isnan(hopeless.points)
    assert hopeless.power == 0.0


# -- known truth ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulations() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "simulations", ROOT / "benchmarks" / "simulations.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_error_rates_on_known_truth(simulations: ModuleType) -> None:
    """A small version of the table in docs/statistics.md; the limits leave room for chance."""
    chosen = {s.title: s for s in simulations.SCENARIOS}
    titles = (
        "rate 1%",
        "rate 20%, wide, 20% unjudged",
        "rate 50%, names vary only",
        "rate 20%, three groups -10, +10, +20",
    )
    tallies = [simulations.run(chosen[t], 40, draws=400, permutations=400) for t in titles]

    def pooled(what: str) -> float:
        return float(np.mean([x for tally in tallies for x in tally.held.get(what, [])]))

    for what in ("test: reference", "test: rest", "test: omnibus"):
        assert 0.02 < pooled(what) < 0.07, what
    assert pooled("family") < 0.08
    for what in ("group", "name", "template"):
        assert pooled(f"rate of a {what}") > 0.93, what
    assert pooled("difference") > 0.93
    assert pooled("ratio") > 0.93
    # With rows as independent, all of this would have failed.
    assert pooled("rows: test") > 0.25
    assert pooled("rows: family") > 0.5
    assert pooled("rows: rate") < 0.7
    assert pooled("rows: difference") < 0.75
