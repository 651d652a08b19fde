"""`evenhand validate`: one command from labels by people to what the judge is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from evenhand.api import services
from evenhand.api.cli.app import app
from evenhand.engine.fake import FakeEngine
from evenhand.judge import Calibration
from evenhand.judge.evidence import Evidence

Run = Callable[..., Result]


def weigh(text: str, answers: Any) -> list[float]:
    """Right but for prompt 3, and much too sure."""
    label = "refusal" if ("\nno\n" in text) != ("prompt 3\n" in text) else "helpful_answer"
    return [-0.02 if f'"{label}"' in answer else -6.0 for answer in answers]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr(
        services, "open_engine", lambda name, *_, **__: FakeEngine(name=name, weigh=weigh)
    )
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, ["validate", *args], prog_name="evenhand")

    return run


def write(name: str, labels: tuple[str, str], count: int = 24, **more: Any) -> str:
    lines = [
        {
            "prompt": f"prompt {i // 2}",
            "response": "no" if i % 2 else "yes",
            "label": labels[i % 2],
            "annotation_1": labels[i % 2],
            "annotation_2": labels[i % 2 if i % 5 else 0],
            "model": "ab"[i // 2 % 2],
            **more,
        }
        for i in range(count)
    ]
    Path(name).write_text("\n".join(map(json.dumps, lines)))
    return name


XSTEST = ("1_full_compliance", "2_full_refusal")
QOS = ("helpful_answer", "refusal")


def test_one_short_command(run: Run, data_dir: Path) -> None:
    result = run(write("xstest.jsonl", XSTEST))
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "2_full_refusal is taken for full_refusal" in out
    assert "annotation_1, annotation_2: labels of single annotators" in out
    for words in ("majority (full_compliance)", "string match", "any_refusal", "p, models alike"):
        assert words in out
    drawn = [
        line for line in out.splitlines() if ".jsonl" not in line and str(data_dir) not in line
    ]
    assert max(map(len, drawn)) <= 100
    (record,) = Evidence(data_dir / "judges").all()
    assert (record.kind, record.name) == ("validation", "xstest")
    assert record.document["raters"][0]["labelled"] == 24
    assert str(data_dir) in out


def test_json_is_one_document_and_nothing_is_kept(run: Run, data_dir: Path) -> None:
    result = run(write("gold.jsonl", QOS), "--json", "--no-save", "--target-agreement", "0.5")
    document = json.loads(result.stdout)
    judge = document["raters"][0]
    assert document["gold_taxonomy"] == "qos"
    assert judge["agreement"]["accuracy"]["value"] == pytest.approx(22 / 24)
    assert document["selection"]["target"] == 0.5
    assert document["people"]["annotators"] == ["annotation_1", "annotation_2"]
    assert not data_dir.exists()


def test_a_fitted_calibration_is_one_that_the_judge_applies(run: Run) -> None:
    gold = write("gold.jsonl", QOS)
    result = run(gold, "--fit", "temperature", "--save-calibration", "c.json", "--json")
    before = json.loads(result.stdout)
    assert before["fitted"]["method"] == "temperature"
    assert Calibration.load("c.json").rows == 24
    after = json.loads(run(gold, "--calibration", "c.json", "--json", "--name", "after").stdout)
    assert after["fingerprint"] != before["fingerprint"]
    scores = [one["reliability"]["scores"]["log_loss"]["value"] for one in (before, after)]
    assert scores[1] < scores[0]


def test_page_figures_and_budget(run: Run) -> None:
    gold = write("gold.jsonl", QOS, group="A")
    result = run(
        gold, "--html", "page.html", "--plots", "figures", "--budget", "0.3",
        "--budget-rows", "1000", "--no-save",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "prediction-powered inference" in " ".join(result.stdout.split())
    assert "How far can" in Path("page.html").read_text()
    assert Path("figures/reliability.svg").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["none.jsonl"], "does not exist"),
        (["gold.jsonl", "--label-column", "x"], "no column 'x'"),
        (["gold.jsonl", "--rater", "x"], "no column 'x'"),
        (["gold.jsonl", "--gold-taxonomy", "qos"], "no labels of qos"),
        (["gold.jsonl", "--fit", "vector"], "cannot be fitted"),
        (["gold.jsonl", "--save-calibration", "c.json"], "no calibration to save"),
        (["gold.jsonl", "--target-agreement", "2"], "target_agreement"),
        (["gold.jsonl", "--html", "nowhere/page.html", "--no-save"], "cannot be written"),
    ],
)
def test_errors_say_what_and_how_to_mend_it(run: Run, args: list[str], words: str) -> None:
    write("gold.jsonl", XSTEST)
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert "hint:" in result.stderr


def test_label_map_and_other_columns(run: Run) -> None:
    Path("gold.csv").write_text("q,a,said\nprompt 1,no,R\nprompt 2,yes,H\n")
    result = run(
        "gold.csv", "--prompt-column", "q", "--response-column", "a", "--label-column", "said",
        "--label-map", "R=refusal", "--label-map", "H=helpful_answer", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["raters"][0]["agreement"]["accuracy"]["value"] == 1.0


def test_exit_code_1_when_nothing_could_be_judged(run: Run, monkeypatch: Any) -> None:
    def broken(_text: str) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(
        services, "open_engine", lambda name, *_, **__: FakeEngine(name=name, fail=broken)
    )
    result = run(write("gold.jsonl", QOS), "--json", "--no-save")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["raters"][0]["labelled"] == 0


def test_a_panel_is_shown_member_by_member(run: Run) -> None:
    panel = "panel:majority=baseline:string-match,baseline:majority=refusal,baseline:string-match"
    found = run(write("qos.jsonl", QOS), "--judge", panel, "--no-save", "--html", "page.html")
    assert found.exit_code == 0
    assert "The panel's members and people's labels" in found.stdout
    assert "Member by member" in found.stdout
    assert "Its 3 members amount to" in " ".join(found.stdout.split())
    assert "Member by member" in Path("page.html").read_text()


def test_a_budget_for_too_few_rows_does_not_cost_the_report(run: Run) -> None:
    gold = write("qos.jsonl", QOS, count=6)
    found = run(gold, "--judge", "baseline:string-match", "--budget", "0.1", "--no-save")
    assert found.exit_code == 0
    assert "Agreement with people's labels" in found.stdout
    assert "No budget" in found.stdout
