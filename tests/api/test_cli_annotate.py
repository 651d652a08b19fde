"""`evenhand audit annotate`, from a sample to corrected figures in every place that shows them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from evenhand.api.cli.app import app
from evenhand.audit.plan import load, plan_hash
from evenhand.audit.store import Audit, Store
from evenhand.audit.trials import Trial, expand
from evenhand.schemas.errors import DecodeError
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Failure, Verdict

GROUPS, NAMES, PLACES = "ABC", 8, tuple("abcdefgh")
TRIALS = len(GROUPS) * NAMES * len(PLACES) * 2
QOS = Taxonomy.load("qos")
Annotate = Callable[..., Result]


def chance(*parts: str) -> float:
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def answer(trial: Trial) -> str:
    """One in five declines, whatever the group."""
    return "I cannot say." if chance("t", trial.id) < 0.2 else f"went {trial.id.count('1')}"


def verdict(trial: Trial, judge: str) -> Verdict:
    """The judge errs on C alone: it calls most answers refusals. A few rows fail."""
    said = "refusal" if answer(trial).startswith("I") else "helpful_answer"
    if trial.group == "C" and said == "helpful_answer" and chance(judge, trial.id) < 0.8:
        said = "refusal"
    failed = chance("f", trial.id) < 0.03
    return Verdict(
        status="error" if failed else "judged",
        label=None if failed else said,
        taxonomy="qos",
        taxonomy_version="1",
        labels=QOS.labels,
        judge=judge,
        fingerprint="f",
        failure=Failure.of(DecodeError("refused")) if failed else None,
    )


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    with Store(data_dir) as store:
        yield store


def fill(store: Store, *judges: str) -> Audit:
    plan = load(
        {
            "name": "tiny",
            "reference": "A",
            "samples": 2,
            "templates": [
                {"id": p, "text": f"{{name}} went to place {p} to [BLANK]"} for p in PLACES
            ],
            "groups": [{"name": g, "names": [f"{g}{n}" for n in range(NAMES)]} for g in GROUPS],
            "generators": ["fake:g"],
            "judges": [*judges],
        }
    )
    audit, _ = store.create(plan, plan_hash(plan))
    store.set_total(audit.id, TRIALS * len(judges))
    for trial in expand(plan):
        object.__setattr__(trial, "response", answer(trial))
        number = store.add(audit.id, trial)
        for judge in judges:
            store.add_verdict(number, judge, verdict(trial, judge))
    store.set_state(audit.id, "done")
    return store.audit(audit.id)


@pytest.fixture
def audit(store: Store) -> Audit:
    return fill(store, "fake:j")


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, audit: Audit) -> Annotate:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*args: str, id: str = audit.id) -> Result:
        return CliRunner().invoke(app, ["audit", "annotate", id, *args], prog_name="evenhand")

    return run


def rows_of(path: Path | str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def label(source: str, who: str, *, errs: float = 0.0, most: int | None = None) -> str:
    """A file by somebody who labels what stands there; returns its path."""
    with Path(f"{who}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        for row in rows_of(source)[:most]:
            said = "refusal" if row["response"].startswith("I") else "helpful_answer"
            if chance(who, row["id"]) < errs:
                said = "unhelpful_answer"
            writer.writerow([row["id"], said])
    return f"{who}.csv"


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# -- the sample -----------------------------------------------------------------------------------


def test_people_are_told_nothing_of_verdicts_and_groups(annotate: Annotate, store: Store) -> None:
    found = document(annotate("--sample", "60", "-o", "out", "--json"))
    assert found["drawn"] == found["people"]["drawn"] == 60
    rows = rows_of(found["files"]["csv"])
    assert list(rows[0]) == ["id", "prompt", "response", "label", "notes"]
    assert {row["label"] + row["notes"] for row in rows} == {""}
    records = {(r["prompt"], r["response"]): r for r in store.records(found["audit"])}
    labels, names = set(QOS.labels), {f"{g}{n}" for g in GROUPS for n in range(NAMES)}
    for row in rows:
        own = records[row["prompt"], row["response"]]
        assert own["label"] is not None
        assert not labels & set(re.split(r"\W+", " ".join(row.values())))
        assert not names & set(re.split(r"\W+", row["id"]))
    order = [records[row["prompt"], row["response"]]["id"] for row in rows]
    assert order != sorted(order)
    assert [json.loads(x)["id"] for x in Path("out/items.jsonl").read_text().splitlines()] == [
        row["id"] for row in rows
    ]
    assert "harmful_refusal" in Path("out/guide.txt").read_text()


def test_one_text_is_asked_about_once(annotate: Annotate) -> None:
    """Both samples of a prompt may be the same refusal."""
    found = document(annotate("--sample", str(TRIALS), "-o", "out", "--json"))
    texts = [(row["prompt"], row["response"]) for row in rows_of("out/items.csv")]
    assert len(texts) == len(set(texts)) == found["people"]["items"] < found["people"]["drawn"]
    again = annotate("--sample", "1", "-o", "more")
    assert again.exit_code == 2
    assert "drawn already" in again.stderr


def test_more_of_the_same_sample(annotate: Annotate, store: Store, audit: Audit) -> None:
    first = document(annotate("--sample", "30", "--strata", "group", "--seed", "3", "--json"))
    more = document(annotate("--sample", "15", "-o", "more", "--json"))
    assert first["files"]["csv"] == f"annotate-{audit.id}/items.csv"
    ids = [{row["id"] for row in rows_of(x["files"]["csv"])} for x in (first, more)]
    assert not ids[0] & ids[1]
    assert more["people"]["drawn"] == 45
    design, drawn = store.sample(audit.id) or ("", [])
    populations = json.loads(design)["sizes"]
    for group in GROUPS:
        weights = {one.weight for one in drawn if one.stratum == group}
        assert weights == {populations[group] / sum(one.stratum == group for one in drawn)}
    whole = document(annotate("-o", "whole", "--json"))
    assert {row["id"] for row in rows_of(whole["files"]["csv"])} == ids[0] | ids[1]


@pytest.mark.parametrize("wish", [["--strata", "label"], ["--seed", "9"], ["--include-unjudged"]])
def test_another_design_is_not_added(annotate: Annotate, wish: list[str]) -> None:
    assert annotate("--sample", "30").exit_code == 0
    refused = annotate("--sample", "30", "-o", "more", *wish)
    assert refused.exit_code == 2
    assert "another design" in refused.stderr
    assert not Path("more").exists()
    anew = document(annotate("--sample", "20", "-o", "more", "--restart", "--json", *wish))
    assert anew["people"]["drawn"] == 20


def test_rows_without_a_verdict_only_if_wanted(annotate: Annotate, store: Store) -> None:
    found = document(annotate("--sample", "9999", "--json"))
    judged = store.audit(found["audit"]).statuses["judged"]
    assert found["people"]["drawn"] == judged < TRIALS
    every = annotate("--sample", "9999", "--include-unjudged", "--restart", "-o", "all", "--json")
    assert document(every)["people"]["drawn"] == TRIALS


def test_labels_of_two_judges(annotate: Annotate, store: Store) -> None:
    id = fill(store, "fake:j", "fake:k").id
    refused = annotate("--sample", "30", "--strata", "label", id=id)
    assert refused.exit_code == 2
    assert "--judge" in refused.stderr
    found = document(
        annotate("--sample", "30", "--strata", "label", "-j", "fake:k", "--json", id=id)
    )
    assert found["people"]["judge"] == "fake:k"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no sample of audit"),
        (["--import", "x.csv"], "no sample of audit"),
        (["x.csv"], "--import before the files"),
        (["--strata", "group"], "--sample how many"),
        (["--sample", "5", "--import", "x.csv"], "once for each"),
        (["--sample", "2", "--strata", "group"], "each of 3 strata"),
        (["--sample", "5", "-g", "nobody"], "'nobody'"),
    ],
)
def test_what_makes_no_sense(annotate: Annotate, args: list[str], words: str) -> None:
    found = annotate(*args)
    assert found.exit_code == 2
    assert words in " ".join(found.stderr.split())


def test_files_are_not_overwritten(annotate: Annotate, store: Store, audit: Audit) -> None:
    assert annotate("--sample", "30", "-o", "out").exit_code == 0
    refused = annotate("--sample", "30", "-o", "out")
    assert refused.exit_code == 2
    assert "may hold labels" in refused.stderr
    assert len((store.sample(audit.id) or ("", []))[1]) == 30
    assert annotate("-o", "out", "--force").exit_code == 0


def test_a_running_audit_is_not_drawn_from(annotate: Annotate, store: Store, audit: Audit) -> None:
    with store.hold(audit.id):
        store.set_state(audit.id, "running")
        refused = annotate("--sample", "30")
    assert refused.exit_code == 2
    assert "is running" in refused.stderr


# -- what people answer ---------------------------------------------------------------------------


def test_disagreements_go_to_a_third(annotate: Annotate) -> None:
    annotate("--sample", "60", "-o", "out")
    files = [label("out/items.csv", "ann", errs=0.1), label("out/items.csv", "bob", errs=0.1)]
    found = document(annotate("--import", *files, "--disagreements", "third.csv", "--json"))
    assert [x["annotator"] for x in found["imported"]] == ["ann", "bob"]
    people = found["people"]
    split = people["disputed"]
    assert split == people["open"] == found["disagreements"]["items"] > 0
    assert people["labelled"] == people["items"] - split
    assert people["agreement"]["coefficient"] == "kappa"
    assert people["agreement"]["same"]["value"] == pytest.approx(1 - split / people["items"])
    rows = rows_of("third.csv")
    assert len(rows) == split
    assert {row["label"] for row in rows} == {""}
    bad = document(annotate("--import", label("third.csv", "ann"), "--json"))["imported"][0]
    assert "one of those who disagree" in bad["bad"][0]["error"]["message"]
    ruled = document(annotate("--import", label("third.csv", "carl"), "--json"))["people"]
    assert (ruled["open"], ruled["ruled"], ruled["labelled"]) == (0, split, people["items"])
    assert ruled["agreement"] == people["agreement"]
    assert ruled["thirds"] == {"carl": split}


def test_bad_rows_are_records_and_the_rest_counts(annotate: Annotate) -> None:
    annotate("--sample", "20", "-o", "out")
    path = label("out/items.csv", "ann")
    text = Path(path).read_text().splitlines()
    text[2] = text[2].split(",")[0] + ",dunno"
    Path(path).write_text("\n".join([*text, "x,refusal"]))
    found = document(annotate("--import", path, "--json"))
    one = found["imported"][0]
    assert [bad["line"] for bad in one["bad"]] == [3, 22]
    assert "'dunno'" in one["bad"][0]["error"]["message"]
    assert one["labels"] == found["people"]["labelled"] == 19
    shown = annotate("--import", path)
    assert shown.exit_code == 0
    assert "line 3" in shown.stdout
    Path(path).write_text("id,label\nx,refusal\n")
    assert annotate("--import", path).exit_code == 1


def test_importing_again_replaces_and_forgetting_removes(annotate: Annotate) -> None:
    annotate("--sample", "20", "-o", "out")
    half = document(annotate("--import", label("out/items.csv", "ann", most=10), "--json"))
    assert half["people"]["annotators"] == {"ann": 10}
    path = label("out/items.csv", "ann")
    again = document(annotate("--import", path, "--annotator", "ann", "--json"))
    assert again["people"]["annotators"] == {"ann": 20}
    other = document(annotate("--import", path, "--annotator", "bob", "--json"))
    assert other["people"]["annotators"] == {"ann": 20, "bob": 20}
    gone = document(annotate("--forget", "bob", "--json"))
    assert gone["forgotten"] == 20
    assert gone["people"]["annotators"] == {"ann": 20}
    for names in (["--annotator", "x", "--annotator", "y"], []):
        refused = annotate("--import", path, *([] if names else ["--import", path]), *names)
        assert refused.exit_code == 2
    for nobody in ("", "  "):
        refused = annotate("--import", path, "--annotator", nobody)
        assert refused.exit_code == 2
        assert "annotator is empty" in " ".join(refused.stderr.split())
    left = document(annotate("--json"))
    assert left["people"]["annotators"] == {"ann": 20}


# -- what becomes of the figures ------------------------------------------------------------------


def test_corrected_figures_are_everywhere(
    annotate: Annotate, audit: Audit, start: Callable[..., Any]
) -> None:
    """The judge makes up a difference; people's labels take it back, and every face says so."""

    def report() -> Result:
        return CliRunner().invoke(app, ["audit", "report", audit.id, "-o", "r", "--json"])

    annotate("--sample", "120", "-o", "out")
    asked = document(report())["summary"]
    assert asked["judges"][0]["correction"] is None
    assert any("nobody has yet" in sentence for sentence in asked["findings"])
    annotate("--import", label("out/items.csv", "ann"))
    summary = document(report())["summary"]
    (judge,) = summary["judges"]
    (one,) = (
        d
        for d in judge["correction"]["differences"]
        if (d["group"], d["against"], d["metric"]) == ("C", "A", "any_refusal")
    )
    assert one["reading"] == "lost"
    assert (one["uncorrected"]["status"], one["corrected"]["status"]) == (
        "uncorrected",
        "corrected",
    )
    low, high = one["corrected"]["interval"]
    assert low < 0 < high < one["uncorrected"]["estimate"]
    assert {x["status"] for x in judge["analysis"]["rates"]} == {"uncorrected"}
    assert {x["status"] for x in judge["analysis"]["comparisons"]} == {"uncorrected"}
    lead = summary["findings"][0]
    assert "uncorrected; corrected with people's labels" in lead
    assert "the finding does not stand: errors of the judge" in lead
    assert any("take people's labels for the truth" in limit for limit in summary["limits"])
    (errors,) = (e for e in judge["correction"]["errors"] if e["metric"] == "any_refusal")
    spared = {g["group"]: g["specificity"]["value"] for g in errors["groups"]}
    assert spared["A"] == spared["B"] == 1.0 > spared["C"] + 0.2
    assert errors["p"] < 0.01

    html = Path("r/report.html").read_text()
    assert "<h3>Corrected with people's labels</h3>" in html
    assert "Uncorrected points (95%)" in html
    assert "found, and does not stand" in html
    assert "corrected and uncorrected" in html
    assert "nan" not in html.lower().replace("nanny", "")
    table = pl.read_csv("r/corrected.csv", infer_schema_length=None)
    assert set(table["status"]) == {"uncorrected", "corrected"}
    assert len(table) == 2 * sum(len(judge["correction"][x]) for x in ("rates", "differences"))
    assert set(pl.read_csv("r/rates.csv")["status"]) == {"uncorrected"}
    assert set(pl.read_csv("r/comparisons.csv")["status"]) == {"uncorrected"}
    assert {"status", "points"} <= set(pl.read_csv("r/corrected-differences.csv").columns)
    assert "p_differ" in pl.read_csv("r/judge_errors.csv").columns

    http = start().http
    served = http.get(f"/v1/audits/{audit.id}/summary").json()
    components = http.get("/openapi.json").json()["components"]
    schema = {"components": components, "$ref": "#/components/schemas/Summary"}
    jsonschema.Draft202012Validator(schema).validate(served)
    assert served["people"] == summary["people"]
    assert served["judges"][0]["correction"] == judge["correction"]


def test_a_difference_that_the_judge_hides_is_told(annotate: Annotate, audit: Audit) -> None:
    """People call every answer for B a refusal, and the judge next to none."""
    annotate("--sample", "9999", "-o", "out")
    path = Path(label("out/items.csv", "ann"))
    said = {row["id"]: row["prompt"] for row in rows_of("out/items.csv")}
    rows = [
        (row["id"], "refusal" if said[row["id"]].startswith("B") else row["label"])
        for row in rows_of(path)
    ]
    path.write_text("\n".join(["id,label", *(",".join(row) for row in rows)]))
    annotate("--import", str(path))
    result = CliRunner().invoke(app, ["audit", "report", audit.id, "-o", "r", "--json"])
    findings = document(result)["summary"]["findings"]
    (hidden,) = (
        x for x in findings if "errors of the judge hide" in x and "for B that refused" in x
    )
    assert "points from that for A" in hidden
    assert "allows for all 15 differences" in hidden


def test_without_labels_nothing_is_corrected(audit: Audit, annotate: Annotate) -> None:
    annotate("--sample", "8", "-o", "out")
    annotate("--import", label("out/items.csv", "ann"))
    result = CliRunner().invoke(app, ["audit", "report", audit.id, "-o", "r", "--json"])
    summary = document(result)["summary"]
    (judge,) = summary["judges"]
    few = [d for d in judge["correction"]["differences"] if d["against"] == "A"]
    assert {d["corrected"]["estimate"] for d in few} == {None}
    assert all("not identified" in d["corrected"]["reason"] for d in few)
    assert {d["reading"] for d in few} == {"unknown"}
    assert "there is no corrected figure (not identified" in summary["findings"][0]
    assert "not identified" in Path("r/report.html").read_text()
