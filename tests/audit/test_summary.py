"""Summaries: the figures of the rows, what has none, and what the sentences say of them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evenhand.audit.store import Store
from evenhand.audit.summary import JudgeSummary, Summary, summarise
from evenhand.audit.trials import Trial
from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge, PanelJudge
from evenhand.judge.baselines import StringMatchJudge
from evenhand.judge.evidence import Evidence
from evenhand.judge.facts import keep_facts
from evenhand.schemas.errors import Conflict, NotFound


def chance(*parts: object) -> float:
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def planted(trial: Trial, _judge: str) -> str:
    """Cy is refused half the time, the others a tenth of it."""
    refused = chance(trial.id) < (0.5 if trial.group == "Cy" else 0.05)
    return "refusal" if refused else "helpful_answer"


def even(trial: Trial, _judge: str) -> str:
    return "refusal" if chance(trial.id) < 0.1 else "helpful_answer"


def rate(one: JudgeSummary, by: str, key: str, metric: str) -> Any:
    (found,) = [r for r in one.analysis.rates if (r.by, r.key, r.metric) == (by, key, metric)]
    return found


def responses(folder: Path, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A plan that judges these rows."""
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return {"name": "given", "responses": {"file": str(path)}, "judges": ["fake:j"], **more}


# -- what is found --------------------------------------------------------------------------------


def test_a_planted_difference_is_found_and_told(store: Store, fill: Any, names_plan: Any) -> None:
    audit = fill(names_plan, planted)
    summary = summarise(store, audit.id)
    (one,) = summary.judges
    rows = store.table(audit.id).filter(pl.col("group") == "Cy")
    refused = int((rows["label"] == "refusal").sum()) / len(rows)
    assert rate(one, "group", "Cy", "any_refusal").share.value == pytest.approx(refused)
    found = [c for c in one.analysis.comparisons if c.p.adjusted <= 0.05]
    assert {c.group for c in found if c.against == "Ada"} == {"Cy"}
    (sentence,) = [s for s in summary.findings if "for Cy" in s and "refused" in s]
    assert f"{100 * refused:.1f}%" in sentence
    assert "percentage points more than for Ada" in sentence
    assert f"adjusted for {one.tests} tests" in sentence
    assert one.tests == len(one.analysis.comparisons) + len(one.analysis.omnibus) - sum(
        math.isnan(x.p.raw) for x in (*one.analysis.comparisons, *one.analysis.omnibus)
    )


def test_nothing_found_says_what_would_have_been_missed(
    store: Store, fill: Any, names_plan: Any
) -> None:
    summary = summarise(store, fill(names_plan, even).id)
    (one,) = summary.judges
    (detection,) = [d for d in one.detections if d.metric == "any_refusal"]
    assert 5 < detection.points < 60
    (sentence,) = [s for s in summary.findings if "no difference" in s and "any_refusal" in s]
    assert f"below about {detection.points:.0f} points would probably have been missed" in sentence
    assert any("Not finding a difference" in s for s in summary.limits)


def test_the_told_power_is_about_right(store: Store, fill: Any, names_plan: Any) -> None:
    """A difference of the told size is mostly found, and a third of it seldom."""
    told = summarise(store, fill(names_plan, even).id).judges[0].detections[0].points / 100

    def found(gap: float) -> int:
        def pick(trial: Trial, judge: str) -> str:
            at = 0.1 + (gap if trial.group == "Cy" else 0.0)
            return "refusal" if chance(judge, trial.id) < at else "helpful_answer"

        names_plan["judges"] = [f"fake:{i}" for i in range(8)]  # eight audits in one
        judges = summarise(store, fill(names_plan, pick).id).judges
        return sum(
            c.p.adjusted <= 0.05
            for one in judges
            for c in one.analysis.comparisons
            if (c.group, c.against, c.metric) == ("Cy", "Ada", "any_refusal")
        )

    assert found(told) >= 6
    assert found(told / 3) <= 2


def test_too_few_names_to_find_anything_is_said(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["groups"] = [
        {"name": group["name"], "names": group["popular"][:2]} for group in names_plan["groups"]
    ]
    summary = summarise(store, fill(names_plan, planted).id)
    assert any("none could have been found, however large" in s for s in summary.findings)
    assert not any("would probably have been missed" in s for s in summary.findings)


def test_popular_and_rare_names_are_compared(store: Store, fill: Any, names_plan: Any) -> None:
    def pick(trial: Trial, _judge: str) -> str:
        at = 0.4 if trial.commonness == "popular" else 0.05
        return "refusal" if chance(trial.id) < at else "helpful_answer"

    summary = summarise(store, fill(names_plan, pick).id)
    common = summary.judges[0].commonness
    assert common is not None
    first = common.comparisons[0]
    assert (first.metric, first.group, first.against) == ("any_refusal", "popular", "rare")
    assert first.points.value > 20
    assert first.p.adjusted <= 0.05
    assert {r.group for r in common.rates} == {None, "Ada", "Bo", "Cy"}
    (of_bo,) = [
        r for r in common.rates if (r.group, r.commonness, r.metric) == ("Bo", "rare", "refusal")
    ]
    assert of_bo.rows == 4 * 8 * 2
    assert any("for popular names" in s for s in summary.findings)


# -- rows without a verdict -----------------------------------------------------------------------


def test_a_row_without_a_verdict_is_no_zero(store: Store, fill: Any, names_plan: Any) -> None:
    def pick(trial: Trial, _judge: str) -> str | None:
        return None if trial.sample == 1 and trial.group == "Bo" else "refusal"

    summary = summarise(store, fill(names_plan, pick).id)
    (one,) = summary.judges
    assert (one.rows, one.judged, one.statuses["error"]) == (384, 320, 64)
    bo = rate(one, "group", "Bo", "refusal")
    assert (bo.hits, bo.judged, bo.rows, bo.share.value, bo.bounds) == (64, 64, 128, 1.0, (0.5, 1))
    (excluded,) = one.excluded
    assert (excluded.code, excluded.rows, excluded.message) == (
        "decode_error",
        64,
        "the batch was refused",
    )
    assert any("64 have none (64 error)" in s for s in summary.findings)


def test_a_finding_that_hangs_on_missing_rows_says_so(
    store: Store, fill: Any, names_plan: Any
) -> None:
    def pick(trial: Trial, judge: str) -> str | None:
        return None if chance("gone", trial.id) < 0.5 else planted(trial, judge)

    summary = summarise(store, fill(names_plan, pick).id)
    told = [s for s in summary.findings if "for Cy" in s]
    assert told
    assert all("hangs on the responses without a verdict" in s for s in told)


def test_no_rows_and_no_verdicts(store: Store, fill: Any, names_plan: Any) -> None:
    empty = summarise(store, fill(names_plan, even, most=0, state="created").id)
    assert (empty.done, empty.models, empty.judges[0].rows) == (0, (), 0)
    assert any("nothing to report" in s for s in empty.findings)
    blind = summarise(store, fill(names_plan, lambda *_: None).id)
    (one,) = blind.judges
    assert (one.judged, one.rows) == (0, 384)
    assert one.uncompared == "groups are not compared: no row has a verdict"
    assert not [s for s in blind.findings if "%" in s]
    assert math.isnan(rate(one, "model", "fake:g", "refusal").share.value)
    assert json.loads(blind.model_dump_json())["judges"][0]["rows"] == 384


def test_an_unfinished_audit_says_so_first(store: Store, fill: Any, names_plan: Any) -> None:
    summary = summarise(store, fill(names_plan, even, most=100, state="cancelled").id)
    assert not summary.complete
    assert "not finished (state: cancelled): 100 of 384 judgements" in summary.findings[0]
    assert "not finished" in summary.limits[0]
    assert not summary.judges[0].crossed
    assert any("Not every name met every template" in s for s in summary.limits)
    assert summarise(store, fill(names_plan, even).id).complete


# -- rows that cannot be placed -------------------------------------------------------------------


def test_rows_without_groups_have_rates_and_no_comparison(
    store: Store, fill: Any, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p{i}", "response": "r", "model": "mm"} for i in range(20)]
    plan = responses(tmp_path, rows, reference="White")
    summary = summarise(store, fill(plan, even).id)
    (one,) = summary.judges
    assert one.uncompared is not None
    assert "no row has a group and a name and a template" in one.uncompared
    whole = rate(one, "model", "mm", "refusal")
    assert (whole.judged, whole.rows) == (20, 20)
    assert math.isnan(whole.share.low)
    assert not one.analysis.comparisons
    assert summary.reference is None
    assert any("The plan compares with 'White'" in s for s in summary.limits)


def test_rows_with_a_group_alone_have_rates_by_group(
    store: Store, fill: Any, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p{i}", "response": "r", "group": "AB"[i % 2]} for i in range(20)]
    (one,) = summarise(store, fill(responses(tmp_path, rows), even).id).judges
    assert one.unplaced == 20
    assert rate(one, "group", "A", "refusal").rows == 10
    assert one.uncompared is not None
    assert "a name and a template" in one.uncompared


def test_some_unplaced_rows_count_in_the_rates_of_models(
    store: Store, fill: Any, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"{n} {t}", "response": "r", "group": g, "name": f"{g}{n}", "template": f"t{t}"}
        for g in "AB"
        for n in range(5)
        for t in range(4)
    ]
    rows += [{"prompt": "loose", "response": "r"}] * 7
    summary = summarise(store, fill(responses(tmp_path, rows), even).id)
    (one,) = summary.judges
    assert (one.rows, one.unplaced) == (47, 7)
    assert rate(one, "model", "responses", "refusal").rows == 47
    assert rate(one, "group", "A", "refusal").rows == 20
    assert {c.group for c in one.analysis.comparisons} == {"A", "B"}
    assert any("7 rows without a group" in s for s in summary.limits)


def test_one_group_is_not_compared(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["groups"] = names_plan["groups"][:1]
    (one,) = summarise(store, fill(names_plan, even).id).judges
    assert one.uncompared == "groups are not compared: all rows belong to one, 'Ada'"
    assert rate(one, "group", "Ada", "refusal").share.low >= 0
    assert not one.analysis.comparisons
    assert not one.analysis.omnibus


def test_a_bad_row_is_excluded_with_its_line(store: Store, fill: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "r"}, {"prompt": "p"}]
    plan = responses(tmp_path, rows)
    (one,) = summarise(store, fill(plan, even).id).judges
    (excluded,) = one.excluded
    assert excluded.code == "invalid_dataset"
    assert "line 2" in excluded.message


def placed_rows() -> list[dict[str, Any]]:
    return [
        {"prompt": f"{n} {t}", "response": "r", "model": "m"}
        | {"group": g, "name": f"{g}{n}", "template": t}
        for g in ("A", "B")
        for n in range(4)
        for t in "xyz"
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": "p", "model": "m", "group": "B", "name": "B0"},
        {"prompt": "p", "response": "r", "model": "m", "group": "B", "commonness": "Popular"},
        {"prompt": "p", "response": "r", "model": "a|b"},
        {"prompt": "p", "model": "m"},
    ],
)
def test_a_bad_row_moves_no_rate_and_widens_the_bounds(
    store: Store, fill: Any, tmp_path: Path, bad: dict[str, Any]
) -> None:
    def summary(rows: list[dict[str, Any]]) -> Summary:
        return summarise(store, fill(responses(tmp_path, rows, reference="A"), planted).id)

    good, both = summary(placed_rows()), summary([*placed_rows(), bad])
    assert both.models == ("m",)
    assert both.reference == "A"
    (one,), (other,) = good.judges, both.judges
    assert [(c.against, c.points, c.p) for c in one.analysis.comparisons] == [
        (c.against, c.points, c.p) for c in other.analysis.comparisons
    ]
    assert [r.share for r in one.analysis.rates] == [r.share for r in other.analysis.rates]
    for by, key in (("model", "m"), ("group", "B")):
        low, high = rate(other, by, key, "any_refusal").bounds
        share = rate(one, by, key, "any_refusal").share.value
        assert low < high
        assert low <= share <= high
    assert any("they move no rate" in limit for limit in both.limits) == (other.unplaced > 0)


def test_a_model_without_a_verdict_costs_others_no_reference(
    store: Store, fill: Any, tmp_path: Path
) -> None:
    silent = {"prompt": "p", "model": "n", "group": "B", "name": "B0", "template": "x"}
    plan = responses(tmp_path, [*placed_rows(), silent], reference="A")
    summary = summarise(store, fill(plan, planted).id)
    assert (summary.models, summary.reference) == (("m", "n"), "A")
    (one,) = summary.judges
    assert {c.model for c in one.analysis.comparisons} == {"m"}
    of_n = rate(one, "model", "n", "any_refusal")
    assert (of_n.judged, of_n.rows, of_n.bounds) == (0, 1, (0.0, 1.0))


def test_too_many_names_for_the_statistics_is_said(
    store: Store, fill: Any, names_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evenhand.audit.statistics.counts.MOST_CELLS", 10)
    (one,) = summarise(store, fill(names_plan, even).id).judges
    assert one.uncompared is not None
    assert "24 names x 8 templates do not fit" in one.uncompared
    assert rate(one, "group", "Ada", "refusal").rows == 128


# -- judges, people, taxonomies -------------------------------------------------------------------


def test_each_judge_is_told_apart(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["judges"] = ["fake:j", "fake:k"]

    def pick(trial: Trial, judge: str) -> str:
        return planted(trial, judge) if judge == "fake:k" else "helpful_answer"

    summary = summarise(store, fill(names_plan, pick).id)
    assert [one.judge for one in summary.judges] == ["fake:j", "fake:k"]
    assert all(one.rows == 384 for one in summary.judges)
    told = [s for s in summary.findings if "for Cy" in s]
    assert told
    assert all(s.startswith("Judge fake:k: ") for s in told)


def test_agreement_with_people(store: Store, fill: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "response": "r", "gold": "refusal" if i < 5 else "helpful_answer"}
        for i in range(10)
    ] + [{"prompt": "unlabelled", "response": "r"}]

    def pick(trial: Trial, _judge: str) -> str | None:
        if trial.prompt == "p9":
            return None
        return "helpful_answer" if trial.prompt in ("p0", "unlabelled") else str(trial.gold)

    summary = summarise(store, fill(responses(tmp_path, rows), pick).id)
    found = summary.judges[0].agreement
    assert found is not None
    assert (found.rows, found.missed) == (9, 1)
    assert found.accuracy.value == pytest.approx(8 / 9)
    assert found.accuracy.low < 8 / 9 < found.accuracy.high
    assert found.recall["refusal"] == pytest.approx(4 / 5)
    assert sum(map(sum, found.confusion)) == 9
    assert any("same one in 88.9%" in s for s in summary.findings)
    assert not any("No labels by people" in s for s in summary.limits)


def test_a_plan_has_metrics_of_its_own(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["metrics"] = {
        "firm": ["refusal", "harmful_refusal"],
        "refusal": ["refusal", "partial_refusal"],
        "helpful_answer": ["helpful_answer"],
    }
    summary = summarise(store, fill(names_plan, planted).id)
    assert summary.metrics["refusal (metric)"] == ("partial_refusal", "refusal")
    (one,) = summary.judges
    compared = {c.metric for c in one.analysis.comparisons}
    assert compared == {"firm", "refusal (metric)", "helpful_answer"}
    assert any("counted as firm" in s for s in summary.findings)


def test_a_taxonomy_that_lost_a_label_is_refused(
    store: Store, fill: Any, names_plan: Any, tmp_path: Path
) -> None:
    def category(label: str) -> str:
        return f'[[categories]]\nlabel = "{label}"\ndefinition = "d"\n'

    head = 'name = "own"\nversion = "1"\ntitle = "t"\n'
    path = tmp_path / "own.toml"
    path.write_text(head + category("good") + category("bad"))
    names_plan["taxonomy"] = str(path)
    audit = fill(names_plan, lambda *_: "bad")
    summary = summarise(store, audit.id)
    assert set(summary.metrics) == {"good", "bad"}  # it says nothing of help or harm
    path.write_text(head + category("good") + category("bad") + category("new"))
    changed = summarise(store, audit.id)
    assert any("taxonomy of the plan has changed" in s for s in changed.limits)
    path.write_text(head + category("good") + category("worse"))
    with pytest.raises(Conflict, match="no longer has the label 'bad'"):
        summarise(store, audit.id)


@pytest.mark.parametrize(
    ("template", "names", "told"),
    [
        ("compact", ["Emily", "Jamal", "Qwzt", "Vrxo"], True),  # the last two are on no list
        ("compact", ["Emily", "Jamal", "Emily Qwzt", "Keisha Vrxo"], True),
        ("compact", ["Emily", "Jamal", "Keisha", "John"], False),
        ("compact", ["Qwzt", "Vrxo", "Xqua", "Zvir"], False),  # all are seen alike
        ("instruct", ["Emily", "Jamal", "Qwzt", "Vrxo"], False),
    ],
)
@pytest.mark.parametrize("panel", [True, False])
def test_a_judge_from_whom_only_some_names_are_hidden_is_told_of(
    store: Store,
    fill: Any,
    names_plan: Any,
    *,
    template: str,
    names: list[str],
    told: bool,
    panel: bool,
) -> None:
    names_plan["groups"] = [
        {"name": "one", "names": names[::2]},
        {"name": "two", "names": names[1::2]},
    ]
    del names_plan["reference"]
    alone = Judge(FakeEngine(), template=template)
    with PanelJudge([alone, StringMatchJudge()]) if panel else alone as judge:
        keep_facts(judge, Evidence(store.folder / "judges"))
        audit = fill(names_plan, even, fingerprints={"judge fake:j": judge.fingerprint})
    found = [s for s in summarise(store, audit.id).limits if "stand-in" in s]
    assert len(found) == told
    if told:
        assert "a stand-in for 2 of the 4 names" in found[0]
        assert f"({names[2]}, {names[3]})" in found[0]


def test_the_bundled_model_is_called_a_demonstration(
    store: Store, fill: Any, names_plan: Any
) -> None:
    names_plan["generators"] = ["bundled:chat"]
    summary = summarise(store, fill(names_plan, even, most=4).id)
    assert any("demonstration" in s for s in summary.limits)


# -- the object -----------------------------------------------------------------------------------


def test_facts_and_json(store: Store, fill: Any, names_plan: Any) -> None:
    audit = fill(names_plan, even)
    summary = summarise(store, audit.id[:6])
    assert isinstance(summary, Summary)
    assert (summary.id, summary.title, summary.state) == (audit.id, "Walks", "done")
    assert (summary.done, summary.total, summary.seconds) == (384, 384, 1.5)
    assert summary.plan_hash == audit.plan_hash
    assert summary.fingerprints == dict(audit.fingerprints)
    assert summary.versions["evenhand"]
    data = json.loads(summary.model_dump_json(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert data["judges"][0]["analysis"]["comparisons"][0]["points"]["value"] is not None
    assert summary.model_dump_json() == summarise(store, audit.id).model_dump_json()
    with pytest.raises(NotFound):
        summarise(store, "none")
