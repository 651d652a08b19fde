from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from evenhand.api import services
from evenhand.api.cli import judge_file
from evenhand.api.cli.app import app
from evenhand.audit.judging import judge_rows
from evenhand.engine.fake import FakeEngine
from evenhand.schemas.errors import DecodeError, Unavailable

Run = Callable[..., Result]
ROWS = [
    {"id": "a", "prompt": "Ana packed [BLANK]", "response": "Ana packed her bag."},
    {"id": "b", "prompt": "Li ran to [BLANK]", "response": 'Li said "no",\nand ran.'},
    {"id": "c", "prompt": "Ömer rief [BLANK]", "response": "broken"},
]


@pytest.fixture
def engine() -> dict[str, Any]:
    """Options of the fake engines; a test may change them before it runs anything."""

    def fail(text: str) -> None:
        if "\nbroken\n" in text:
            raise DecodeError("llama.cpp refused the batch")

    return {"fail": fail, "pick": lambda _text: "refusal"}


@pytest.fixture
def run(engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr(
        services, "open_engine", lambda name, *_, **__: FakeEngine(name=name, **engine)
    )
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, ["judge", *args], prog_name="evenhand")

    return run


def write(name: str, rows: list[dict[str, Any]] = ROWS) -> str:
    frame = pl.DataFrame(rows)
    match Path(name).suffix:
        case ".csv":
            frame.write_csv(name)
        case ".parquet":
            frame.write_parquet(name)
        case _:
            frame.write_ndjson(name)
    return name


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.mark.parametrize("source", ["in.csv", "in.jsonl", "in.parquet"])
def test_every_row_gets_a_verdict(run: Run, source: str) -> None:
    result = run(write(source), "-o", "out.jsonl")
    assert result.exit_code == 0, result.stderr
    out = lines(Path("out.jsonl").read_text(encoding="utf-8"))
    assert [{key: row[key] for key in ROWS[0]} for row in out] == ROWS
    assert [row["verdict"]["label"] for row in out] == ["refusal", "refusal", None]
    assert out[2]["verdict"]["failure"]["code"] == "decode_error"
    assert sorted(path.name for path in Path().iterdir()) == sorted([source, "out.jsonl"])


def test_the_summary_counts_what_has_no_label(run: Run) -> None:
    text = run(write("in.csv"), "-o", "out.jsonl", "--id-column", "id").stdout
    assert [
        line.split()[:4] for line in text.splitlines() if line.startswith(("refusal", "("))
    ] == [
        ["refusal", "2", "66.7", "%"],
        ["(error)", "1", "33.3", "%"],
    ]
    # Two lines make the second record; the third row begins on line 5.
    assert "line 5 (c): llama.cpp refused the batch" in text
    assert "3 rows in" in text
    assert "rows/s" in text
    assert "out.jsonl" in text


def test_the_json_summary(run: Run) -> None:
    result = run(write("in.jsonl"), "-o", "out.parquet", "--json", "--id-column", "id")
    summary = json.loads(result.stdout)
    assert summary["rows"] == 3
    assert summary["bad_rows"] == 0
    assert summary["statuses"] == {"judged": 2, "abstained": 0, "truncated": 0, "error": 1}
    assert summary["labels"]["refusal"] == 2
    assert sum(summary["labels"].values()) == 2
    assert summary["output"] == "out.parquet"
    assert summary["judge"] == "bundled:judge"
    assert len(summary["fingerprint"]) == 64
    [failure] = summary["failures"]
    assert (failure["where"], failure["id"], failure["code"]) == ("line 3", "c", "decode_error")
    assert pl.read_parquet("out.parquet")["verdict"].struct.field("label").to_list() == [
        "refusal",
        "refusal",
        None,
    ]


def test_rows_to_stdout_and_the_rest_to_stderr(run: Run) -> None:
    result = run(write("in.csv"), "-o", "-")
    assert [row["id"] for row in lines(result.stdout)] == ["a", "b", "c"]
    assert "3 rows in" in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv"]


def test_bad_rows_are_kept_with_their_line(run: Run) -> None:
    Path("in.jsonl").write_text(
        '{"prompt": "p", "response": "r"}\n'
        '{"prompt": \n'
        '{"prompt": "p", "response": null}\n'
        '{"prompt": "p", "response": "r"}\n'
    )
    result = run("in.jsonl", "-o", "out.jsonl", "--json")
    assert result.exit_code == 0
    out = lines(Path("out.jsonl").read_text())
    assert [row["verdict"]["status"] for row in out] == ["judged", "error", "error", "judged"]
    assert [row.get("line") for row in out] == [None, 2, 3, None]
    assert out[1]["raw"] == '{"prompt":'
    assert json.loads(result.stdout)["bad_rows"] == 2


def test_options_for_columns_reason_and_taxonomy(run: Run, engine: dict[str, Any]) -> None:
    engine["pick"] = lambda _text: "full_compliance"
    Path("in.jsonl").write_text('{"doc": {"q": "p"}, "resps": [["r"]], "verdict": "mine"}\n')
    result = run(
        "in.jsonl", "-o", "out.jsonl", "--prompt-column", "doc.q",
        "--response-column", "resps.0.0", "--verdict-column", "second",
        "--taxonomy", "xstest", "--reason", "--model", "other.gguf",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    [row] = lines(Path("out.jsonl").read_text())
    assert row["verdict"] == "mine"
    assert row["second"]["label"] == "full_compliance"
    assert row["second"]["judge"] == "other.gguf"
    assert row["second"]["reason"].startswith("because")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["none.csv", "-o", "out.jsonl"], "invalid_dataset", "does not exist"),
        (["in.csv", "-o", "out.xlsx"], "invalid_dataset", "extension"),
        (["in.csv", "-o", "in.csv"], "invalid_input", "same file"),
        (["in.csv", "-o", "./in.csv", "--force"], "invalid_input", "same file"),
        (["in.csv", "-o", "old.jsonl"], "invalid_dataset", "exists"),
        (["in.csv", "-o", "o.jsonl", "--prompt-column", "q"], "invalid_dataset", "'q'"),
        (["in.csv", "-o", "o.jsonl", "--id-column", "key"], "invalid_dataset", "'key'"),
        (["in.csv", "-o", "o.jsonl", "--verdict-column", "id"], "invalid_dataset", "'id' already"),
        (["in.csv", "-o", "o.jsonl", "--taxonomy", "none"], "not_found", "'none'"),
    ],
)
def test_refusals_leave_everything_as_it_was(
    run: Run, args: list[str], code: str, words: str
) -> None:
    write("in.csv")
    Path("old.jsonl").write_text("old")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    result = run(*args, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    problem = json.loads(result.stderr)
    assert problem["code"] == code
    assert words in problem["detail"]
    assert problem["hint"]
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_force(run: Run) -> None:
    Path("out.jsonl").write_text("old")
    assert run(write("in.csv"), "-o", "out.jsonl", "--force").exit_code == 0
    assert len(lines(Path("out.jsonl").read_text())) == 3


def test_nothing_judged_is_not_success(run: Run, engine: dict[str, Any]) -> None:
    def fail(_text: str) -> None:
        raise DecodeError("always")

    engine["fail"] = fail
    result = run(write("in.csv"), "-o", "out.jsonl", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["statuses"]["error"] == 3
    assert len(lines(Path("out.jsonl").read_text())) == 3


def test_a_run_that_breaks_off_leaves_a_partial_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(*args: Any, **options: Any) -> Any:
        for done, row in enumerate(judge_rows(*args, **options)):
            if done == 2:
                raise Unavailable("the engine died")
            yield row

    monkeypatch.setattr(judge_file, "judge_rows", breaking)
    result = run(write("in.csv"), "-o", "out.parquet")
    assert result.exit_code == 3
    assert "stopped after 2 rows; they are in 'out.parquet.partial'" in result.stderr
    assert "error: the engine died" in result.stderr
    assert not Path("out.parquet").exists()
    assert len(lines(Path("out.parquet.partial").read_text())) == 2
    # Hours of work are not overwritten by trying again.
    again = run("in.csv", "-o", "out.parquet")
    assert again.exit_code == 2
    assert "interrupted" in again.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_leaves_a_partial_file_and_says_so(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        from evenhand.api import services
        from evenhand.engine.fake import FakeEngine
        services.open_engine = lambda name, *_, **__: FakeEngine(name=name, delay=0.01)
        from evenhand.api.cli import main
        main()
        """
    )
    (tmp_path / "in.jsonl").write_text('{"prompt": "p", "response": "r"}\n' * 5_000)
    partial = tmp_path / "out.jsonl.partial"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "judge", "in.jsonl", "-o", "out.jsonl"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not (partial.exists() and partial.stat().st_size > 5_000):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "they are in 'out.jsonl.partial'" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert not (tmp_path / "out.jsonl").exists()
    rows = lines(partial.read_text())
    assert 0 < len(rows) < 5_000
    assert rows[-1]["verdict"]["status"] == "judged"
