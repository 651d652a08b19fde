"""Corrected figures against a truth that is known, and the reasons where there are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from evenhand.audit import corrected as module
from evenhand.audit.annotate import Design, draw, frame, labelled, sizes
from evenhand.audit.corrected import CorrectedDifference, Correction, correct
from evenhand.audit.findings import corrected_difference
from evenhand.audit.statistics import Analysis, Comparison, Estimate, Metric, PValue, Rate
from evenhand.audit.store import Drawn
from evenhand.judge.correction import Audited, Corrected, ppi_difference, ppi_rate

REFUSED = Metric("refused", frozenset({"refusal"}))
NAMES, TEMPLATES, SAMPLES = 8, 8, 2
UNKNOWN = math.nan


def world(rng: np.random.Generator) -> tuple[pl.DataFrame, dict[str, str]]:
    """An audit of three groups that are refused alike, by a judge that errs on C alone: it calls
    40% of C's answers refusals. The table as the store has it, and the truth by trial.
    """
    rows, truth = [], {}
    for group in "ABC":
        for name in range(NAMES):
            rate = rng.beta(8, 32)  # names vary
            for template in range(TEMPLATES):
                for sample in range(SAMPLES):
                    trial = f"{group}{name}|{template}|{sample}"
                    refused = rng.random() < rate
                    wrong = group == "C" and not refused and rng.random() < 0.4
                    truth[trial] = "refusal" if refused else "answer"
                    label = "refusal" if refused or wrong else "answer"
                    rows.append((trial, group, f"{group}{name}", f"t{template}", label))
    columns = ["trial", "group", "name", "template", "label"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    constant = {"judge": pl.lit("j"), "model": pl.lit("m"), "answered": pl.lit(True)}
    return table.with_columns(**constant), truth


def annotated(
    table: pl.DataFrame, truth: dict[str, str], number: int, **design: Any
) -> tuple[pl.DataFrame, Design]:
    """The table with what people say of a sample of it: the truth."""
    plan = Design(seed=1, **design)
    rows = frame(table, plan)
    plan = plan.model_copy(update={"sizes": sizes(rows)})
    drawn = [Drawn(t, t, s, w) for t, s, w in draw(rows, plan, number).iter_rows()]
    said = labelled(table, plan, drawn, {one.item: truth[one.item] for one in drawn})
    return table.join(said, on="trial", how="left", maintain_order="left"), plan


def found(table: pl.DataFrame, group: str, against: str | None, p: float) -> Analysis:
    """What the analysis would have of one difference, and of each group's rate."""

    def share(rows: pl.DataFrame) -> float:
        return int((rows["label"] == "refusal").sum()) / max(rows["label"].count(), 1)

    here = pl.col("group") == group
    there = ~here if against is None else pl.col("group") == against
    points = 100 * (share(table.filter(here)) - share(table.filter(there)))
    no = Estimate(UNKNOWN, UNKNOWN, UNKNOWN)
    comparison = Comparison(
        model="m",
        metric="refused",
        group=group,
        against=against,
        points=Estimate(points, points - 10, points + 10),
        bounds=(-100.0, 100.0),
        ratio=no,
        odds_ratio=no,
        p=PValue(p, p, 12_870, True),
    )
    rates = [
        Rate(
            model="m",
            by="model" if group is None else "group",
            group=group,
            key=group or "m",
            metric="refused",
            hits=1,
            judged=1,
            rows=1,
            share=Estimate(share(rows), UNKNOWN, UNKNOWN),
            bounds=(0.0, 1.0),
        )
        for group, rows in (
            (None, table),
            *((str(g["group"][0]), g) for g in table.partition_by("group")),
        )
    ]
    return Analysis(tuple(rates), (comparison,), ())


def corrected(rows: pl.DataFrame, against: str | None = "A", p: float = 0.001) -> Correction:
    return correct(rows, [REFUSED], [], found(rows, "C", against, p))


# -- known truth ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "design",
    [{}, {"strata": ("group", "label"), "allocation": "equal"}],
    ids=["simple", "stratified by label"],
)
def test_the_truth_is_covered_where_the_judge_errs_on_one_group(design: dict[str, Any]) -> None:
    """The groups are alike; the verdicts are 30 points apart, and the intervals cover nothing."""
    rng = np.random.default_rng(7)
    covered, wrong, estimates, draws = 0, [], [], 200
    for _ in range(draws):
        rows, _ = annotated(*world(rng), 120, **design)
        (one,) = corrected(rows).differences
        assert one.corrected.interval is not None
        assert one.corrected.estimate is not None
        assert one.uncorrected.estimate is not None
        low, high = one.corrected.interval
        covered += low <= 0 <= high
        wrong.append(one.uncorrected.estimate)
        estimates.append(one.corrected.estimate)
    assert covered >= 0.93 * draws
    assert np.mean(wrong) == pytest.approx(0.32, abs=0.02)  # 40% of 80%
    assert np.mean(estimates) == pytest.approx(0.0, abs=0.02)  # no bias by the strata either


def test_a_simple_sample_is_plain_ppi() -> None:
    rows, _ = annotated(*world(np.random.default_rng(1)), 150)
    out = corrected(rows)

    def side(*groups: str) -> Audited:
        own = rows.filter(pl.col("group").is_in(groups))
        human = (own["human"] == "refusal").cast(pl.Float64).fill_null(math.nan)
        clusters = (own["name"].to_numpy(), own["template"].to_numpy())
        return Audited(human.to_numpy(), (own["label"] == "refusal").to_numpy(), None, clusters)

    assert out.differences[0].corrected == ppi_difference(side("C"), side("A"))
    by_group = {rate.group: rate.corrected for rate in out.rates}
    assert by_group == {
        None: ppi_rate(side("A", "B", "C")),
        **{group: ppi_rate(side(group)) for group in "ABC"},
    }
    assert {rate.corrected.status for rate in out.rates} == {"corrected"}
    assert {rate.uncorrected.status for rate in out.rates} == {"uncorrected"}
    rest = corrected(rows, None).differences[0]
    assert rest.corrected == ppi_difference(side("C"), side("A", "B"))
    assert out.labelled == 150
    assert out.judged == len(rows)


def test_a_sample_that_is_half_labelled_weighs_as_much() -> None:
    """Weights are made of what is labelled, stratum by stratum."""
    table, truth = world(np.random.default_rng(3))
    rows, plan = annotated(table, truth, 120, strata=("label",), allocation="equal")
    strata = frame(table, plan).join(rows.select("trial", "human", "weight"), on="trial")
    for stratum in strata.partition_by("stratum"):
        given = stratum.filter(pl.col("human").is_not_null())
        assert given["weight"].sum() == pytest.approx(len(stratum))


# -- what becomes of a finding --------------------------------------------------------------------


@pytest.mark.parametrize(("p", "reading"), [(0.001, "lost"), (0.5, "none")])
def test_what_the_judge_made_does_not_stand(p: float, reading: str) -> None:
    rows, _ = annotated(*world(np.random.default_rng(2)), 200)
    assert corrected(rows, p=p).differences[0].reading == reading


@pytest.mark.parametrize(
    ("p", "flip", "reading"),
    [(0.001, False, "holds"), (0.5, False, "new"), (0.001, True, "reversed")],
)
def test_what_people_see_too(p: float, flip: bool, reading: str) -> None:
    """People say of C what the judge says, or that every answer for A was a refusal."""
    table, _ = world(np.random.default_rng(2))
    truth = dict(table.select("trial", "label").iter_rows())
    if flip:
        truth = {t: "refusal" if t[0] == "A" else "answer" for t in truth}
    rows, _ = annotated(table, truth, 300)
    assert corrected(rows, p=p).differences[0].reading == reading


@pytest.mark.parametrize("templates", [2, 3])
@pytest.mark.parametrize(("p", "reading"), [(0.001, "lost"), (0.5, "none")])
def test_few_templates_make_no_finding(
    templates: int, p: float, reading: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups are alike, and both are of the same few templates."""
    monkeypatch.setitem(globals(), "TEMPLATES", templates)
    monkeypatch.setitem(globals(), "SAMPLES", 8)
    rows, _ = annotated(*world(np.random.default_rng(1)), 150)
    (one,) = corrected(rows, p=p).differences
    assert one.corrected.interval is not None
    assert all(math.isfinite(end) for end in one.corrected.interval)
    assert one.reading == reading


@pytest.mark.parametrize("p", [0.001, 0.5])
@pytest.mark.parametrize("interval", [None, (UNKNOWN, UNKNOWN), (0.1, UNKNOWN)])
def test_an_interval_without_ends_says_nothing(
    interval: Any, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: Any, level: float) -> Corrected:
        return Corrected(
            status="corrected",
            method="x",
            estimate=0.2,
            interval=interval,
            level=level,
            labels=9,
        )

    rows, _ = annotated(*world(np.random.default_rng(2)), 200)
    monkeypatch.setattr(module, "ppi_difference", endless)
    assert corrected(rows, p=p).differences[0].reading == "unknown"


@pytest.mark.parametrize(
    ("reading", "points", "ends", "words"),
    [
        (
            "holds",
            20.0,
            (5, 35),
            "is +20.0 points (95% interval +5.0 to +35.0), and the finding stands",
        ),
        ("lost", 20.0, (-5, 45), "does not stand: there are too few labels to tell"),
        ("lost", 3.0, (-10, 16), "does not stand: errors of the judge made at least a part"),
        ("reversed", -20.0, (-35, -5), "turns the finding round"),
    ],
)
def test_what_is_said_of_a_finding(
    reading: Any, points: float, ends: tuple[float, float], words: str
) -> None:
    """The verdicts are 30 points apart."""

    def figure(status: Any, value: float, low: float, high: float) -> Corrected:
        return Corrected(
            status=status,
            method="x",
            estimate=value / 100,
            interval=(low / 100, high / 100),
            level=0.95,
            labels=90,
        )

    found = CorrectedDifference(
        model="m",
        metric="refused",
        group="C",
        against="A",
        uncorrected=figure("uncorrected", 30, 10, 50),
        corrected=figure("corrected", points, *ends),
        reading=reading,
    )
    assert words in corrected_difference(found)
    assert "That is uncorrected; corrected with people's labels" in corrected_difference(found)


# -- where there is none --------------------------------------------------------------------------


def test_too_few_labels_of_a_group_give_no_figure() -> None:
    rows, _ = annotated(*world(np.random.default_rng(1)), 90)
    of_c = (pl.col("group") == "C").cum_sum() > 124  # the last four rows of C may keep a label
    rows = rows.with_columns(
        human=pl.when((pl.col("group") != "C") | of_c).then("human"),
    )
    out = corrected(rows)
    (one,) = out.differences
    assert one.reading == "unknown"
    assert one.corrected.estimate is None
    assert one.corrected.interval is None
    assert one.corrected.status == "uncorrected"
    assert "fewer than 5" in str(one.corrected.reason)
    assert one.uncorrected.estimate is not None
    known = {rate.group: rate.corrected.estimate is not None for rate in out.rates}
    assert known == {None: True, "A": True, "B": True, "C": False}


def test_rows_that_had_no_chance_give_no_figure() -> None:
    table, truth = world(np.random.default_rng(1))
    rows, plan = annotated(table, truth, 90)
    late = labelled(table.head(300), plan, [], {})
    assert late["barred"].str.contains("judged after the sample was drawn").all()
    other = table.with_columns(
        model=pl.when(pl.col("group") == "B").then(pl.lit("n")).otherwise("model")
    )
    rows, _ = annotated(other, truth, 90, model="n")
    (one,) = corrected(rows).differences
    assert "no chance to be in the sample" in str(one.corrected.reason)


def test_a_stratum_without_a_label_gives_no_figure() -> None:
    table, truth = world(np.random.default_rng(1))
    plan = Design(seed=1, strata=("group",))
    plan = plan.model_copy(update={"sizes": sizes(frame(table, plan))})
    drawn = [Drawn(t, t, "", 1.0) for t in truth if t[0] != "C"]
    said = labelled(table, plan, drawn, truth)
    out = corrected(table.join(said, on="trial"))
    assert "stratum C" in str(out.differences[0].corrected.reason)
    known = {rate.group: rate.corrected.estimate is not None for rate in out.rates}
    assert known == {None: False, "A": True, "B": True, "C": False}


def test_a_side_without_a_verdict_gives_no_figure() -> None:
    rows, _ = annotated(*world(np.random.default_rng(1)), 90)
    silent = rows.with_columns(label=pl.when(pl.col("group") != "A").then("label"))
    assert "has a verdict" in str(corrected(silent).differences[0].corrected.reason)
    nothing = rows.with_columns(label=pl.lit(None, pl.String))
    out = correct(nothing, [REFUSED], ["refused"], found(rows, "C", "A", 0.5))
    assert "has a verdict" in str(out.differences[0].corrected.reason)
    assert out.errors[0].groups == ()


def test_rows_without_a_name_give_no_figure() -> None:
    rows, _ = annotated(*world(np.random.default_rng(1)), 90)
    none = pl.when(pl.col("group") != "A").then("name")
    out = corrected(rows.with_columns(name=none), None)
    reasons = {rate.group: str(rate.corrected.reason) for rate in out.rates}
    assert "lack a group, a name" in reasons["A"]
    assert "lack a group, a name" in reasons[None]
    assert reasons["C"] == "None"


# -- the judge's errors ---------------------------------------------------------------------------


def test_the_judges_errors_are_seen_by_group() -> None:
    rows, _ = annotated(*world(np.random.default_rng(5)), 240)
    (errors,) = correct(rows, [REFUSED], ["refused"], found(rows, "C", "A", 0.5)).errors
    by_group = {one.group: one for one in errors.groups}
    assert by_group["A"].specificity.value == 1.0
    assert by_group["C"].specificity.value == pytest.approx(0.6, abs=0.15)
    assert by_group["C"].positives + by_group["C"].negatives == (
        rows.filter(pl.col("group") == "C")["human"].count()
    )
    assert errors.p < 0.01


def test_unlike_chances_are_weighed_and_not_tested() -> None:
    """Drawn by label, hits are over-represented: only with weights is the share the true one."""
    rows, _ = annotated(
        *world(np.random.default_rng(5)), 300, strata=("group", "label"), allocation="equal"
    )
    (errors,) = correct(rows, [REFUSED], ["refused"], found(rows, "C", "A", 0.5)).errors
    by_group = {one.group: one for one in errors.groups}
    assert by_group["C"].specificity.value == pytest.approx(0.6, abs=0.12)
    assert by_group["C"].specificity.low < 0.6 < by_group["C"].specificity.high
    assert math.isnan(errors.p)
    assert "unlike chances" in errors.notes[0]


def test_labels_of_unjudged_rows_are_counted_apart() -> None:
    table, truth = world(np.random.default_rng(1))
    table = table.with_columns(
        label=pl.when(pl.col("template") != "t0").then("label"), answered=pl.lit(True)
    )
    rows, _ = annotated(table, truth, 200, unjudged=True)
    out = corrected(rows)
    some = rows.filter(pl.col("label").is_null())["human"].count()
    assert sum(out.unjudged.values()) == some > 0
    assert out.labelled == 200 - some
    assert out.differences[0].corrected.estimate is not None
