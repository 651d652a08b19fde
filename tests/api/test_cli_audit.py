"""`evenhand audit`, from a plan to a report, over fake engines and a store of the test's own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from evenhand.api import services
from evenhand.api.auditing import ask_to_stop, stoppable
from evenhand.api.cli.app import app
from evenhand.api.cli.audit import end, progress
from evenhand.api.cli.audit.common import duration
from evenhand.audit import estimate
from evenhand.audit.plan import load
from evenhand.audit.store import Audit, Store
from evenhand.engine.fake import FakeEngine
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import DecodeError, ModelNotFound, StoreError
from evenhand.schemas.service import AuditReply, AuditsReply

PLAN = """
name = "tiny"
title = "A tiny audit"
reference = "A"
samples = 2
seed = 7
templates = [{id = "walk", text = "{name} went to [BLANK]"}, {id = "sing", text = "{name} sang"}]
groups = [
    {name = "A", names = ["Ana", "Al"]}, {name = "B", names = ["Bo", "Bea"]},
    {name = "C", names = ["Cy", "Cleo"]},
]
"""
TRIALS = 2 * 6 * 2
Run = Callable[..., Result]


class Opener:
    """Stands in for `open_engine`; keeps what was opened."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.engines: dict[str, FakeEngine] = {}

    def __call__(self, reference: str, *_: Any, **__: Any) -> FakeEngine:
        if reference.endswith("missing.gguf"):
            raise ModelNotFound("no such file")
        self.engines[reference] = FakeEngine(name=Path(reference).name, **self.options)
        return self.engines[reference]

    def calls(self, reference: str) -> int:
        return len(self.engines[reference].calls)


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    opener = Opener()
    monkeypatch.setattr(services, "open_engine", opener)
    return opener


@pytest.fixture
def run(opener: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("EVENHAND_VERDICT_CACHE", "0")
    monkeypatch.setattr(estimate, "AUDITS", 10)
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(PLAN)

    def run(*args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, ["audit", *args], input=stdin, prog_name="evenhand")

    return run


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    with Store(data_dir) as store:
        yield store


def document(result: Result) -> dict[str, Any]:
    """The one document on stdout, in JSON's own words."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)
    return found


def newest(store: Store) -> Audit:
    return store.audits()[0]


# -- run ------------------------------------------------------------------------------------------


def test_a_plan_runs_to_its_end(run: Run, store: Store) -> None:
    result = run("run", "tiny.toml")
    assert result.exit_code == 0, result.stderr
    audit = newest(store)
    assert (audit.state, audit.done, audit.plan.title) == ("done", TRIALS, "A tiny audit")
    assert f"audit {audit.id}: A tiny audit" in result.stderr
    assert f"{TRIALS} of {TRIALS} verdicts (100%)" in result.stderr
    assert f"{TRIALS} of {TRIALS} verdicts (100%)" in result.stdout
    assert f"evenhand audit report {audit.id} -o DIR" in result.stdout
    assert f"All {TRIALS} responses have a verdict." in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 140
    for label, count in audit.labels["bundled:judge"].items():
        assert f"  {label} {count}" in result.stdout


def test_json_is_audit_and_summary(run: Run, store: Store) -> None:
    result = run("run", "tiny.toml", "--json")
    assert result.exit_code == 0, result.stderr
    found = document(result)
    reply = AuditReply.model_validate(found["audit"])
    audit = newest(store)
    assert (reply.id, reply.state, reply.done, reply.total) == (audit.id, "done", TRIALS, TRIALS)
    assert reply.plan_hash == audit.plan_hash
    assert set(reply.fingerprints) == {"generator bundled:chat", "judge bundled:judge"}
    assert Plan.parse(reply.plan) == audit.plan
    assert found["summary"]["id"] == audit.id
    assert found["summary"]["findings"]
    assert found["report"] is None


def test_options_take_the_place_of_what_the_plan_says(
    run: Run, opener: Opener, store: Store
) -> None:
    Path("two.gguf").touch()
    result = run(
        "run", "tiny.toml", "-g", "one.gguf", "--generator", "two.gguf", "-j", "three.gguf",
        "--judge", "baseline:string-match", "--samples", "1", "--seed", "0",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    plan = newest(store).plan
    models = {name: str(Path(f"{name}.gguf").absolute()) for name in ("one", "two", "three")}
    assert {spec.name: spec.model for spec in (*plan.generators, plan.judges[0])} == models
    assert [spec.name for spec in plan.judges] == ["three", "baseline:string-match"]
    assert (plan.samples, plan.seed) == (1, 0)
    assert set(opener.engines) == set(models.values())
    assert newest(store).done == 2 * 2 * 12
    assert "three:  " in result.stdout, "each judge has a line of its own"


def test_the_settings_models_answer_where_the_plan_names_none(
    run: Run, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENHAND_GENERATOR", "mine.gguf")
    assert run("run", "tiny.toml").exit_code == 0
    assert set(opener.engines) == {"mine.gguf", "bundled:judge"}


def test_a_built_in_plan_can_be_named(run: Run, store: Store) -> None:
    found = document(run("plan", "qos-names", "--no-measure", "--json"))
    assert (found["trials"], found["templates"], len(found["groups"])) == (5_376, 28, 8)


def test_a_report_is_written_at_the_end(run: Run) -> None:
    result = run("run", "tiny.toml", "--report", "out/report", "--json")
    assert result.exit_code == 0, result.stderr
    found = document(result)
    page = Path(found["report"])
    assert page.parent == Path("out/report")
    assert "A tiny audit" in page.read_text()
    assert found["summary"]["findings"]


def test_a_model_that_is_not_there_leaves_no_audit_behind(run: Run, store: Store) -> None:
    result = run("run", "tiny.toml", "-g", "missing.gguf", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["code"] == "model_not_found"
    assert store.audits() == []


def test_a_later_model_that_is_not_there_is_found_before_anything_runs(
    run: Run, opener: Opener, store: Store
) -> None:
    result = run("run", "tiny.toml", "-g", "one.gguf", "-g", "two.gguf", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stderr)["code"] == "model_not_found"
    assert (store.audits(), opener.engines) == ([], {})


def test_where_nothing_can_be_judged_the_exit_code_says_so(run: Run, opener: Opener) -> None:
    def fail(text: str) -> None:
        if "You label how" in text:
            raise DecodeError("the judge is broken")

    opener.options = {"fail": fail}
    result = run("run", "tiny.toml")
    assert result.exit_code == 1
    assert f"error {TRIALS}" in result.stdout
    assert "--retry-errors" in result.stdout


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "folder/rows.parquet", "log.eval"])
def test_a_file_of_data_is_no_plan_and_the_hint_shows_one(run: Run, name: str) -> None:
    result = run("run", name, "--json")
    assert result.exit_code == 2
    problem = json.loads(result.stderr)
    assert "not a plan" in problem["detail"]
    _, *lines = problem["hint"].split("\n")
    assert len(lines) == 3
    plan = Plan.parse(tomllib.loads("\n".join(lines)))
    assert plan.responses is not None
    assert plan.responses.file == name


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nonsense"], "no built-in plan"),
        (["nonsense.toml"], "does not exist"),
        (["tiny.toml", "-g", "a", "-g", "a"], "used twice"),
        (["judged.toml", "-g", "a"], "nothing is generated"),
        (["judged.toml"], "rows.csv"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_opened(
    run: Run, opener: Opener, store: Store, args: list[str], says: str
) -> None:
    Path("judged.toml").write_text('[responses]\nfile = "rows.csv"\n')
    result = run("run", *args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("hint:") == 1
    assert opener.engines == {}
    assert store.audits() == []


def test_responses_that_are_there_are_judged_alone(run: Run, opener: Opener, store: Store) -> None:
    rows = [{"q": f"p{n}", "answer": f"r{n}", "who": "A" if n % 2 else "B"} for n in range(9)]
    pl.DataFrame(rows).write_csv("rows.csv")
    Path("judged.toml").write_text(
        '[responses]\nfile = "rows.csv"\n'
        'columns = { prompt = "q", response = "answer", group = "who" }\n'
    )
    result = run("run", "judged.toml")
    assert result.exit_code == 0, result.stderr
    assert set(opener.engines) == {"bundled:judge"}
    assert newest(store).done == 9


def test_the_plans_in_the_readme_are_plans() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    plans = [load(tomllib.loads(text)) for text in re.findall(r"```toml\n(.*?)```", readme, re.S)]
    assert [bool(plan.responses) for plan in plans] == [False, True]
    assert [spec.name for spec in plans[0].generators] == [
        "llama-2-7b-chat.Q4_0",
        "llama-2-13b-chat.Q4_0",
    ]


# -- progress -------------------------------------------------------------------------------------


def test_a_log_gets_lines_now_and_then(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("run", "tiny.toml").stderr.splitlines()
    assert len(lines) == 3, "the audit, its beginning, its end"
    assert lines[1] == f"0 of {TRIALS} verdicts (0%)"
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    lines = run("run", "tiny.toml").stderr.splitlines()
    assert len(lines) == 1 + 1 + TRIALS + 1
    assert "verdicts/s" in lines[5]
    assert " left; " in lines[5]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3_600, "1 h"),
        (3_725, "1 h 2 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# -- interrupted and resumed ----------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = interrupted(run, store, monkeypatch)
    assert (audit.state, audit.done) == ("interrupted", 5)
    shown = run("status").stdout
    assert "interrupted, 5 of 24 verdicts (21%)" in shown
    assert f"`evenhand audit resume {audit.id}` goes on with it" in shown


def test_a_signal_in_a_terminal(data_dir: Path, tmp_path: Path) -> None:
    """Ctrl-C in a process of its own, with the live display."""
    (tmp_path / "tiny.toml").write_text(PLAN)
    script = textwrap.dedent("""
        import sys
        from evenhand.api import services
        from evenhand.api.cli.app import app
        from evenhand.engine.fake import FakeEngine
        services.open_engine = lambda name, *_, **__: FakeEngine(name=name, delay=0.2)
        app(["audit", *sys.argv[1:]], prog_name="evenhand")
    """)
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", "tiny.toml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=end,
        env={**os.environ, "EVENHAND_DATA_DIR": str(data_dir), "COLUMNS": "80", "TERM": "xterm"},
    )  # fmt: skip
    os.close(end)
    seen = b""
    while not re.search(rb"\b([2-9]|1\d) of 24 verdicts", seen):
        seen += os.read(terminal, 65_536)
    process.send_signal(signal.SIGINT)
    try:
        while piece := os.read(terminal, 65_536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    assert process.wait(30) == 130
    assert process.stdout is not None
    process.stdout.close()
    os.close(terminal)
    assert b"goes on" in seen
    assert b"Traceback" not in seen
    with Store(data_dir) as store:
        audit = newest(store)
        assert audit.state == "interrupted"
        assert 2 <= audit.done < TRIALS


def interrupted(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, at: int = 5) -> Audit:
    """An audit that was broken off after some verdicts."""
    with monkeypatch.context() as patch:

        def show(_self: progress.Display, state: Any) -> None:
            if state.done == at:
                raise KeyboardInterrupt

        patch.setattr(progress.Display, "show", show)
        result = run("run", "tiny.toml")
    assert result.exit_code == 130
    audit = newest(store)
    assert f"interrupted: what is done is kept; `evenhand audit resume {audit.id}`" in result.stderr
    return audit


def test_resume_does_the_rest_and_nothing_twice(
    run: Run, opener: Opener, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = interrupted(run, store, monkeypatch)
    result = run("resume", audit.id[:6])
    assert result.exit_code == 0, result.stderr
    assert newest(store).state == "done"
    assert newest(store).done == TRIALS
    assert 0 < opener.calls("bundled:judge") <= TRIALS - 5
    assert len(store.audits()) == 1
    opener.engines.clear()
    again = run("resume", audit.id)
    assert again.exit_code == 0
    assert opener.engines == {}, "what is done needs no model"
    assert "done" in again.stdout


def test_resume_from_another_folder_opens_those_alone_whose_trials_are_missing(
    run: Run, opener: Opener, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one.gguf", "two.gguf"):
        Path(name).touch()
    Path("tiny.toml").write_text(f'generators = ["one.gguf", "two.gguf"]\n{PLAN}')
    monkeypatch.setenv("EVENHAND_JUDGE", "judge.gguf")
    audit = interrupted(run, store, monkeypatch, TRIALS + 3)
    one, two, judge = (str(tmp_path / f"{name}.gguf") for name in ("one", "two", "judge"))
    assert set(opener.engines) == {one, two, "judge.gguf"}, "the last as the settings have it"
    opener.engines.clear()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = run("resume", audit.id)
    assert result.exit_code == 0, result.stderr
    assert newest(store).done == 2 * TRIALS
    # The second may have answered all it was asked before the break.
    assert {judge} <= set(opener.engines) <= {two, judge}


def test_resume_tries_errors_again_where_that_is_wanted(
    run: Run, opener: Opener, store: Store
) -> None:
    def fail(text: str) -> None:
        if "Bea" in text and "You label how" in text:
            raise DecodeError("the judge is broken")

    opener.options = {"fail": fail}
    assert run("run", "tiny.toml").exit_code == 0
    audit = newest(store)
    assert audit.statuses == {"judged": 20, "error": 4}
    opener.options = {}
    assert run("resume", audit.id).exit_code == 0
    assert newest(store).statuses == {"judged": 20, "error": 4}
    result = run("resume", audit.id, "--retry-errors", "--json")
    assert document(result)["audit"]["statuses"] == {"judged": 24}
    assert opener.calls("bundled:judge") <= 4


def test_other_models_cannot_go_on_with_it(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = interrupted(run, store, monkeypatch)
    monkeypatch.setenv("EVENHAND_ABSTAIN_BELOW", "0.5")
    result = run("resume", audit.id)
    assert result.exit_code == 2
    assert "is not what it was" in result.stderr
    assert newest(store).done == 5


def test_an_error_in_the_middle_says_how_to_go_on(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StoreError("no space", hint="Free some space.")

    monkeypatch.setattr(Store, "add_verdict", full)
    result = run("run", "tiny.toml", "--json")
    audit = newest(store)
    assert result.exit_code == 2
    problem = json.loads(result.stderr.splitlines()[-1])
    assert problem["hint"].startswith("Free some space. ")
    assert f"evenhand audit resume {audit.id}" in problem["hint"]
    assert audit.state == "failed"
    shown = run("status").stdout
    assert "no space" in shown
    assert "Free some space." in shown


# -- status and list ------------------------------------------------------------------------------


def test_status_is_of_the_newest_or_of_the_one_that_is_named(run: Run, store: Store) -> None:
    assert run("status").exit_code == 2
    for seed in ("1", "2"):
        run("run", "tiny.toml", "--seed", seed)
    second, first = store.audits()
    assert AuditReply.model_validate_json(run("status", "--json").stdout).id == second.id
    assert AuditReply.model_validate_json(run("status", first.id, "--json").stdout).id == first.id
    assert first.id in run("status", first.id[:7]).stdout
    missing = run("status", "zzz", "--json")
    assert (missing.exit_code, json.loads(missing.stderr)["code"]) == (2, "not_found")


def test_list(run: Run, store: Store) -> None:
    assert "No audits yet" in run("list").stdout
    assert document(run("list", "--json")) == {"audits": []}
    run("run", "tiny.toml")
    run("run", "tiny.toml", "--seed", "8")
    reply = AuditsReply.model_validate_json(run("list", "--json").stdout)
    assert [card.id for card in reply.audits] == [audit.id for audit in store.audits()]
    rows = run("list").stdout.splitlines()
    assert [row.split()[0] for row in rows[2:]] == [card.id for card in reply.audits]
    assert f"{TRIALS} of {TRIALS}" in rows[2]


def test_command_line_and_service_see_each_others_audits(
    run: Run, opener: Opener, store: Store, start: Any
) -> None:
    assert run("run", "tiny.toml").exit_code == 0
    ours = newest(store).id
    service = start()
    assert [card["id"] for card in service.http.get("/v1/audits").json()["audits"]] == [ours]
    created = service.http.post("/v1/audits", json=tomllib.loads(PLAN))
    assert created.status_code == 202, created.text
    theirs = created.json()["id"]
    while store.audit(theirs).state != "done":
        time.sleep(0.01)
    assert f"{TRIALS} of {TRIALS} verdicts" in run("status", theirs).stdout
    assert document(run("status", ours, "--json"))["plan_hash"] == created.json()["plan_hash"]
    # What one began the other goes on with: to both, the models are the same.
    assert document(run("status", ours, "--json"))["fingerprints"] == dict(
        store.audit(theirs).fingerprints
    )


# -- plan -----------------------------------------------------------------------------------------


def test_plan_says_what_it_takes_and_stores_nothing(run: Run, opener: Opener, store: Store) -> None:
    result = run("plan", "tiny.toml")
    assert result.exit_code == 0, result.stderr
    assert "24 = 2 templates x 6 names x 2 samples x 1 generator\n" in re_spaced(result.stdout)
    assert "by 24 trials that took" in re_spaced(result.stdout)
    assert "all 18 tests (Holm)" in result.stdout
    assert "standard deviations of 0.5, 0.7 and 0.3" in re_spaced(result.stdout)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert opener.calls("bundled:chat") == TRIALS
    assert store.audits() == []


def re_spaced(text: str) -> str:
    """The text without its line breaks inside paragraphs, and with single spaces."""
    return "\n".join(" ".join(part.split()) + "\n" for part in text.split("\n\n")).replace(
        " verdicts ", "\nverdicts "
    )


def test_plan_can_leave_the_models_alone(run: Run, opener: Opener) -> None:
    found = document(run("plan", "tiny.toml", "--no-measure", "--json"))
    assert found["measured"] is None
    assert found["most_completion_tokens"] == 256 * TRIALS
    assert opener.engines == {}
    assert "not measured" in run("plan", "tiny.toml", "--no-measure").stdout


def test_the_tests_that_a_plan_announces_are_those_of_the_summary(run: Run) -> None:
    Path("two.gguf").touch()
    more = ["-g", "one.gguf", "-g", "two.gguf"]
    planned = document(run("plan", "tiny.toml", "--no-measure", "--json", *more))
    (judge,) = document(run("run", "tiny.toml", "--json", *more))["summary"]["judges"]
    assert judge["tests"] == max(one["tests"] for one in planned["power"]["smallest"]) == 36


# -- export ---------------------------------------------------------------------------------------


def test_export_in_every_format(run: Run, store: Store) -> None:
    run("run", "tiny.toml")
    id = newest(store).id
    counts = []
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        result = run("export", id, "-o", name, "--json")
        assert result.exit_code == 0, result.stderr
        assert document(result)["records"] == TRIALS
        frame = getattr(pl, f"read_{name.removeprefix('out.').replace('jsonl', 'ndjson')}")(name)
        counts.append(frame.group_by("group", "label").len().sort("group", "label").rows())
    assert counts[0] == counts[1] == counts[2]
    lines = run("export", id, "-o", "-").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == pl.read_parquet("out.parquet")[
        "id"
    ].to_list()
    assert sorted(path.name for path in Path().glob("out*")) == [
        "out.csv", "out.jsonl", "out.parquet",
    ]  # fmt: skip


def test_export_filters(run: Run, opener: Opener, store: Store) -> None:
    opener.options = {"pick": lambda text: "refusal" if "Bo went" in text else "helpful_answer"}
    run("run", "tiny.toml")
    id = newest(store).id
    for args, records in (
        (["--group", "B"], 8),
        (["--label", "refusal"], 2),
        (["--status", "judged"], TRIALS),
        (["--group", "A", "--label", "refusal"], 0),
    ):
        assert (
            document(run("export", id, "-o", "x.csv", "--force", "--json", *args))["records"]
            == records
        ), args


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-o", "there.csv"], "exists"),
        (["-o", "x.xlsx"], "extension"),
        (["-o", "none/x.csv"], "no folder"),
        (["-o", "folder.csv"], "is a folder"),
        (["-o", "-", "--json"], "stdout"),
        (["-o", "x.csv", "--label", "refusl"], "helpful_answer"),
        (["-o", "x.csv", "--status", "bad"], "truncated"),
    ],
)
def test_an_export_that_makes_no_sense(run: Run, store: Store, args: list[str], says: str) -> None:
    run("run", "tiny.toml")
    Path("there.csv").touch()
    Path("folder.csv").mkdir()
    result = run("export", newest(store).id, *args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not Path("x.csv").exists()


# -- report and compare ---------------------------------------------------------------------------


def test_report(run: Run, store: Store) -> None:
    run("run", "tiny.toml")
    result = run("report", newest(store).id, "-o", "out")
    assert result.exit_code == 0, result.stderr
    assert "report: out/report.html" in result.stdout
    assert Path("out/report.html").is_file()
    found = document(run("report", newest(store).id, "-o", "out", "--json"))
    assert found["report"] == "out/report.html"
    assert found["summary"]["id"] == newest(store).id


def test_compare(run: Run, opener: Opener, store: Store) -> None:
    run("run", "tiny.toml")
    opener.options = {"reply": lambda *_: "I can't.", "pick": lambda _text: "refusal"}
    run("run", "tiny.toml", "-g", "other.gguf")
    after, before = store.audits()
    refused = run("compare", before.id, after.id)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    result = run("compare", before.id[:8], after.id, "--force")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.index(before.id) < result.stdout.index(after.id)
    found = document(run("compare", before.id, after.id, "--force", "--json"))
    assert found["pairings"][0]["pairs"] == TRIALS
    changed = sum(row["pairs"] for row in found["changes"] if row["before"] != row["after"])
    assert changed == TRIALS - before.labels["bundled:judge"].get("refusal", 0)
    rows = [line.split() for line in result.stdout.splitlines()]
    shown = [row for row in rows if len(row) == 3 and row[1] == "refusal" and row[2].isdigit()]
    assert sum(int(row[2]) for row in shown) == changed > 0


# -- cancel and delete ----------------------------------------------------------------------------


def test_cancel_what_nobody_runs(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = interrupted(run, store, monkeypatch)
    assert document(run("cancel", audit.id, "--json"))["state"] == "cancelled"
    assert "cancelled" in run("cancel", audit.id).stdout
    assert run("resume", audit.id).exit_code == 0
    done = run("cancel", audit.id)
    assert done.exit_code == 2
    assert "is done" in done.stderr


def test_cancel_what_another_runs(run: Run, opener: Opener, store: Store) -> None:
    opener.options = {"delay": 0.1}
    results: list[Result] = []
    runner = threading.Thread(target=lambda: results.append(run("run", "tiny.toml", "--json")))
    runner.start()
    while not (audits := store.audits()) or audits[0].state != "running":
        time.sleep(0.01)
    # Two commands at once would share one stdout here, so `cancel`'s own part is called.
    ask_to_stop(store, audits[0].id)
    runner.join(20)
    assert not runner.is_alive()
    assert results[0].exit_code == 1
    assert document(results[0])["audit"]["state"] == "cancelled"
    assert newest(store).state == "cancelled"
    assert newest(store).done < TRIALS


def test_cancel_waits_until_it_has_stopped(run: Run, store: Store, data_dir: Path) -> None:
    id = store.create(load({**tomllib.loads(PLAN)}), "hash")[0].id
    ready, stopped = threading.Event(), threading.Event()

    def another() -> None:
        with Store(data_dir) as own, own.hold(id), stoppable(own, id) as stop:
            own.set_state(id, "running")
            ready.set()
            assert stop.wait(20)
            time.sleep(0.3)
            stopped.set()
            own.set_state(id, "cancelled")

    runner = threading.Thread(target=another)
    runner.start()
    assert ready.wait(10)
    result = run("cancel", id)
    assert stopped.is_set()
    assert result.exit_code == 0
    assert "cancelled" in result.stdout
    runner.join()


def test_cancel_does_not_wait_for_ever(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end, "_PATIENCE", 0.2)
    id = store.create(load({**tomllib.loads(PLAN)}), "hash")[0].id
    with store.hold(id):
        store.set_state(id, "running")
        result = run("cancel", id)
    assert result.exit_code == 3
    assert "has not done so yet" in result.stderr


def test_delete_asks_first(run: Run, store: Store) -> None:
    run("run", "tiny.toml")
    id = newest(store).id
    result = run("delete", id)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert len(store.audits()) == 1
    assert document(run("delete", id[:6], "--yes", "--json")) == {"deleted": id}
    assert store.audits() == []
    assert run("delete", id, "--yes").exit_code == 2


def test_delete_takes_along_the_file_that_was_sent(run: Run, store: Store) -> None:
    mine = store.folder / "mine.jsonl"
    kept = store.folder / "uploads" / "u1" / "rows.jsonl"
    kept.parent.mkdir(parents=True)
    for file in (mine, kept):
        file.write_text(json.dumps({"prompt": "p", "response": "r"}))
        plan = load({"responses": {"file": str(file)}, "judges": ["fake:j"]})
        id = store.create(plan, "hash")[0].id
        assert run("delete", id, "--yes").exit_code == 0
    assert mine.exists()
    assert not kept.parent.exists()


def test_half_a_character_in_a_plan_is_no_defect(run: Run, tmp_path: Path) -> None:
    plan = {**tomllib.loads(PLAN), "system": "half \ud800 a character"}
    Path("half.json").write_text(json.dumps(plan))
    assert run("run", "half.json").exit_code == 0


def test_what_runs_is_not_deleted(run: Run, store: Store) -> None:
    id = store.create(load({**tomllib.loads(PLAN)}), "hash")[0].id
    with store.hold(id):
        result = run("delete", id, "--yes")
    assert result.exit_code == 2
    assert "another process" in result.stderr
    assert newest(store).id == id


# -- the store and its folder ---------------------------------------------------------------------


def test_a_folder_that_cannot_be_used_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHAND_DATA_DIR", "tiny.toml")
    result = run("list")
    assert result.exit_code == 2
    assert "EVENHAND_DATA_DIR" in result.stderr


def test_help_names_every_command(run: Run) -> None:
    text = run("--help").stdout
    for name in ("plan", "run", "resume", "status", "list", "report", "compare", "export"):
        assert f" {name} " in text
        assert run(name, "--help").exit_code == 0
