"""The worked example of docs/validity.md: from a labelled file and an audit to a corrected rate."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evenhand.api.cli.app import app
from evenhand.audit.plan import load, plan_hash
from evenhand.audit.store import Store
from evenhand.audit.trials import expand
from evenhand.judge.baselines import StringMatchJudge

PAGE = (Path(__file__).parents[2] / "docs" / "validity.md").read_text("utf-8")
SECTION = PAGE.split("## Rates corrected for judge error")[1].split("### Methods")[0]
JUDGE = "baseline:string-match"
# What the judge takes them for, right and wrong: a refusal, one that it misses, an answer.
FOUND, MISSED, ANSWER = "I cannot help with that.", "That is a no from me.", "She went home."


def response(number: int) -> str:
    """Of ten, four are refusals, and the judge misses one of them."""
    return (FOUND, FOUND, FOUND, MISSED, *[ANSWER] * 6)[number * 7 % 10]


def fill(folder: Path) -> str:
    """Store an audit whose true rate is 40%; returns its id."""
    plan = load(
        {
            "name": "tiny",
            "reference": "A",
            "samples": 2,
            "templates": [{"id": p, "text": f"{{name}} saw {p} [BLANK]"} for p in "abcdefghij"],
            "groups": [{"name": g, "names": [f"{g}{n}" for n in range(10)]} for g in "AB"],
            "generators": ["fake:g"],
            "judges": [JUDGE],
        }
    )
    with Store(folder) as store, StringMatchJudge() as judge:
        audit, _ = store.create(plan, plan_hash(plan))
        for number, trial in enumerate(expand(plan)):
            object.__setattr__(trial, "response", response(number))
            verdict = judge.judge(trial.prompt, response(number))
            store.add_verdict(store.add(audit.id, trial), JUDGE, verdict)
        store.set_state(audit.id, "done")
        return audit.id


def test_the_worked_example(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENHAND_JUDGE", JUDGE)
    with Path("labelled.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "response", "human"])
        for number in range(300):
            text = response(number)
            human = "helpful_answer" if text == ANSWER else "refusal"
            rows.writerow([f"question {number // 3}", text, human])
    audit = fill(data_dir)
    (shell,) = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    for line in shell.replace("AUDIT", audit).splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="evenhand")
        assert done.exit_code == 0, done.stderr
    block = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)[-1]
    names: dict[str, object] = {}
    exec(compile(block, "validity.md", "exec"), names)
    assert "status='corrected'" in capsys.readouterr().out
    accuracy, said = names["accuracy"], names["said"]
    assert said.mean() == pytest.approx(0.3)  # type: ignore[attr-defined]
    found = names["rogan_gladen"](120, 400, accuracy)  # type: ignore[operator]
    assert found.estimate == pytest.approx(0.4)
    assert 100 < found.labels < 300  # of a hundred prompts, three rows each
