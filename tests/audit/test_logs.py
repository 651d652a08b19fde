"""Logs of lm-eval and Inspect as rows, laid out as those projects write them."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.audit import logs
from evenhand.audit.datasets import JsonLines
from evenhand.audit.logs import EvalLog, JsonLog, LmEvalLog, open_responses
from evenhand.audit.rows import Row
from evenhand.schemas.errors import DatasetError


def read(path: Path, **more: Any) -> list[Row]:
    with open_responses(path, **more) as rows:
        found = list(rows)
        assert rows.total >= found[-1].at
    return found


def refusal(path: Path, **more: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        read(path, **more)
    assert caught.value.hint
    return caught.value


# -- lm-evaluation-harness ------------------------------------------------------------------------


def sample(doc: int, *responses: Any, **more: Any) -> dict[str, Any]:
    """A line as `--log_samples` writes it, for a task that generates."""
    return {
        "doc_id": doc,
        "doc": {"question": f"q{doc}", "group": "A"},
        "target": "t",
        "arguments": {"gen_args_0": {"arg_0": f"Q: q{doc}\nA:", "arg_1": {"until": ["\n"]}}},
        "resps": [list(responses)],
        "filtered_resps": list(responses)[:1],
        "filter": "none",
        "metrics": ["bypass"],
        "doc_hash": "0",
        "prompt_hash": "0",
        "target_hash": "0",
        **more,
    }


@pytest.fixture
def lm_eval(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: Any) -> Path:
        path = tmp_path / "samples_task_2026-01-01T00-00-00.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write


def test_lm_eval_rows(lm_eval: Callable[..., Path]) -> None:
    path = lm_eval(sample(0, "a"), sample(1, "b", "c"))
    with open_responses(path) as rows:
        assert isinstance(rows, LmEvalLog)
    found = read(path)
    assert [
        (row.line, row.data["id"], row.data["sample"], row.data["response"]) for row in found
    ] == [
        (1, "0", 0, "a"),
        (2, "1", 0, "b"),
        (2, "1", 1, "c"),
    ]
    assert found[0].text_of("prompt") == "Q: q0\nA:"
    assert found[0].text_of("doc.group") == "A"


def test_lm_eval_filters_do_not_repeat_the_responses(lm_eval: Callable[..., Path]) -> None:
    path = lm_eval(
        *(sample(doc, "x", filter="strict") for doc in range(2)),
        *(sample(doc, "x", filter="flexible") for doc in range(2)),
    )
    assert [row.data["id"] for row in read(path)] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([["Q", {"until": []}]], {"prompt": "Q"}),
        ({"gen_args_0": {"arg_0": ["Q"], "arg_1": {}}}, {"prompt": "Q"}),
        (
            {
                "gen_args_0": {
                    "arg_0": json.dumps(
                        [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
                    )
                }
            },
            {"prompt": "Q", "system": "S"},
        ),
        ({"gen_args_0": {"arg_0": '[{"role": broken'}}, {"prompt": '[{"role": broken'}),
    ],
)
def test_lm_eval_prompts(lm_eval: Callable[..., Path], arguments: Any, told: Any) -> None:
    row = read(lm_eval(sample(0, "a", arguments=arguments)))[0]
    assert row.problem is None
    assert {key: row.data[key] for key in ("prompt", "system") if key in row.data} == told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resps": [[["-1.5", "False"]]]}, "line 1 holds a list for a response: does this task"),
        ({"resps": []}, "line 1 has no requests with a response each"),
        ({"resps": "x"}, "line 1 has no requests"),
        ({"arguments": {}}, "line 1 has no requests"),
        ({"arguments": {"gen_args_0": {"arg_0": 3}}}, "line 1 has a request without a prompt"),
    ],
)
def test_lm_eval_lines_that_hold_no_response(
    lm_eval: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    bad, good = read(lm_eval(sample(0, "a", **change), sample(1, "b")))
    assert message in str(bad.problem)
    assert bad.data["id"] == "0"
    assert good.problem is None


def test_a_broken_line_is_a_row_with_a_problem(lm_eval: Callable[..., Path]) -> None:
    path = lm_eval(sample(0, "a"))
    path.write_text(path.read_text() + '{"doc_id": 1\n' + json.dumps(sample(2, "c")))
    assert [row.problem is None for row in read(path)] == [True, False, True]


def test_other_json_lines_are_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p", "response": "r"}\n')
    with open_responses(path, needs=("prompt", "response")) as rows:
        assert isinstance(rows, JsonLines)
    assert "no column 'doc_id'" in str(refusal(path, format="lm-eval"))


# -- Inspect --------------------------------------------------------------------------------------


def inspect_sample(id: int | str, response: str | None = "r", **more: Any) -> dict[str, Any]:
    """A sample with the fields, and in the order, in which Inspect writes them."""
    choices = [] if response is None else [{"message": {"content": response, "role": "assistant"}}]
    return {
        "id": id,
        "epoch": 1,
        "input": f"prompt of {id}",
        "target": "t",
        "messages": [{"role": "user", "content": ']}\\"'}],
        "output": {"model": "m", "choices": choices, "completion": response or ""},
        "scores": {"s": {"value": "C"}},
        "metadata": {"group": "A"},
        "events": [{"event": "model", "text": 'a "quoted" [ {'}] * 3,
        "attachments": {},
        **more,
    }


def log(*samples: Any) -> dict[str, Any]:
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "t", "model": "openai/gpt", "dataset": {"name": "d", "model": "no"}},
        "plan": {"steps": []},
        "stats": {},
        "samples": list(samples),
        "reductions": [],
    }


@pytest.fixture(params=["json", "compact", "eval"])
def inspect(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    def write(*samples: Any) -> Path:
        whole = log(*samples)
        if request.param != "eval":
            path = tmp_path / "log.json"
            indent = 2 if request.param == "json" else None
            path.write_text(json.dumps(whole, indent=indent, ensure_ascii=False), encoding="utf-8")
            return path
        path = tmp_path / "log.eval"
        write_eval(path, whole)
        return path

    return write


def write_eval(path: Path, whole: dict[str, Any], header: str = "header.json") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/summaries/1.json", "[]")
        for number, each in enumerate(whole["samples"]):
            name = each.get("id", number) if isinstance(each, dict) else number
            archive.writestr(f"samples/{name}_epoch_1.json", json.dumps(each))
        archive.writestr(header, json.dumps({k: v for k, v in whole.items() if k != "samples"}))


def test_inspect_rows(inspect: Callable[..., Path]) -> None:
    path = inspect(inspect_sample("a", "é — “x”"), inspect_sample(7, ""))
    with open_responses(path) as rows:
        assert isinstance(rows, EvalLog if path.suffix == ".eval" else JsonLog)
    first, second = read(path)
    assert dict(first.data) == {
        "id": "a",
        "sample": 1,
        "model": "openai/gpt",
        "target": "t",
        "metadata": {"group": "A"},
        "scores": {"s": {"value": "C"}},
        "prompt": "prompt of a",
        "response": "é — “x”",
    }
    assert first.get("metadata.group") == "A"
    assert (second.line, second.where) == (2, "sample 2")
    assert second.text_of("response") == ""  # an empty response is one, and no error
    assert second.data["id"] == "7"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([{"role": "user", "content": "Q"}], {"prompt": "Q"}),
        (
            [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
            {"prompt": "Q", "system": "S"},
        ),
        (
            [
                {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "image"}]},
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "R"},
            ],
            {"prompt": "user: Q\n\nassistant: A\n\nuser: R"},
        ),
    ],
)
def test_inspect_conversations(inspect: Callable[..., Path], said: Any, told: Any) -> None:
    row = read(inspect(inspect_sample("a", input=said)))[0]
    assert {key: row.data[key] for key in ("prompt", "system") if key in row.data} == told


def test_inspect_responses_without_a_completion(inspect: Callable[..., Path]) -> None:
    content = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "yes"}]
    output = {"model": "m", "choices": [{"message": {"content": content}}]}
    assert read(inspect(inspect_sample("a", output=output)))[0].text_of("response") == "yes"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (inspect_sample("a", None), "sample 1 has no response"),
        (
            inspect_sample("a", None, error={"message": "boom"}),
            "sample 1 ended with an error: boom",
        ),
        (inspect_sample("a", input=[]), "sample 1 has no input text"),
        (inspect_sample("a", input=[{"role": "user", "content": [{}]}]), "has no input text"),
        (inspect_sample("a", input="attachment://0a1b"), "as an attachment"),
        (["x"], "sample 1 is not an object"),
    ],
)
def test_inspect_samples_without_a_response(
    inspect: Callable[..., Path], bad: Any, message: str
) -> None:
    first, second = read(inspect(bad, inspect_sample("b")))
    assert message in str(first.problem)
    assert second.problem is None
    if isinstance(bad, dict):  # what is known of it still counts for the group's bounds
        assert first.get("metadata.group") == "A"


def test_columns_that_no_sample_has_are_refused(inspect: Callable[..., Path]) -> None:
    path = inspect(inspect_sample("a"))
    assert read(path, needs=("prompt", "metadata.group"))
    assert "no column 'metadata.grop'" in str(refusal(path, needs=("metadata.grop",)))


def test_a_log_without_samples_is_refused(inspect: Callable[..., Path]) -> None:
    assert "has no samples" in str(refusal(inspect()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "not an Inspect log"),
        ("a.json", b'[{"prompt": "p"}]', "not an Inspect log"),
        ("a.json", b"\xff\xfe{\x00", "not an Inspect log"),
        ("a.json", b'{"a": 1}', "has no samples"),
        ("a.json", b'{"a": 1', "not an Inspect log"),
        ("a.eval", b"", "not an Inspect log"),
        ("a.eval", b"PK\x03\x04", "not an Inspect log"),
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert message in str(refusal(path))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "does not exist" in str(refusal(tmp_path / "a.jsonl", format="lm-eval"))
    assert "does not exist" in str(refusal(tmp_path / "a.eval"))
    (tmp_path / "b.json").mkdir()
    assert "is a folder" in str(refusal(tmp_path / "b.json"))


def test_a_log_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    text = json.dumps(log(inspect_sample("a"), inspect_sample("b"), inspect_sample("c")))
    path.write_text(text[: text.index("prompt of c")])
    rows = read(path)
    assert [row.data.get("id") for row in rows] == ["a", "b", None]
    assert "sample 3: the log breaks off here" in str(rows[-1].problem)
    path.write_text(text[: text.rindex("}, {")])
    assert [(row.line, row.problem is None) for row in read(path)] == [
        (1, True),
        (2, True),
        (3, False),
    ]


@given(cut=st.integers(0, 10_000))
def test_a_log_cut_anywhere_is_refused_or_read_so_far(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "log.json"
    text = json.dumps(log(*(inspect_sample(id) for id in "abc")))
    path.write_text(text[: cut % len(text)])
    try:
        rows = read(path)
    except DatasetError:
        return
    good = [row for row in rows if row.problem is None]
    assert [row.data["id"] for row in good] == list("abc")[: len(good)]
    # What is missing is never passed over in silence.
    assert len(good) < len(rows) or len(good) == 3


def test_an_eval_log_that_was_cut_off_says_its_model_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    write_eval(path, log(inspect_sample("a")), header="_journal/start.json")
    assert read(path)[0].data["model"] == "openai/gpt"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_eval_sample_that_was_written_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    write_eval(path, log(inspect_sample("a", "first")))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("samples/a_epoch_1.json", json.dumps(inspect_sample("a", "second")))
        archive.writestr("samples/b_epoch_1/sample.json", json.dumps(inspect_sample("b", "third")))
        archive.writestr("samples/b_epoch_1/events/0.json", "[]")
    assert [row.data["response"] for row in read(path)] == ["second", "third"]


def test_an_eval_sample_with_a_wrong_checksum_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("samples/a_epoch_1.json", json.dumps(inspect_sample("a", "no harm")))
    path.write_bytes(path.read_bytes().replace(b"no harm", b"no hart"))
    assert "CRC" in str(read(path)[0].problem)


def test_a_damaged_eval_sample_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    write_eval(path, log(inspect_sample("a"), inspect_sample("b", "x" * 5_000)))
    data = path.read_bytes()
    middle = data.index(b"samples/b_epoch_1.json") + 200
    path.write_bytes(data[:middle] + b"\0" * 20 + data[middle + 20 :])
    assert [row.problem is None for row in read(path)] == [True, False]


def test_a_compression_that_python_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.eval"
    write_eval(path, log(inspect_sample("a")))
    # Method 93 is Zstandard, which Inspect writes and `zipfile` reads from Python 3.14 on.
    data = path.read_bytes().replace(b"\x08\x00", b"\x5d\x00")
    path.write_bytes(data)
    monkeypatch.setattr(logs, "_zip_module", lambda: zipfile)
    if hasattr(zipfile, "ZIP_ZSTANDARD"):
        pytest.skip("this Python reads Zstandard")
    error = refusal(path)
    assert "compressed in a way" in str(error)
    assert "inspect log convert" in error.hint


def test_zstandard_is_read_where_something_here_can(tmp_path: Path) -> None:
    module = logs._zip_module()
    if not hasattr(module, "ZIP_ZSTANDARD"):
        pytest.skip("needs Python 3.14 or backports.zstd")
    path = tmp_path / "log.eval"
    with module.ZipFile(path, "w", module.ZIP_ZSTANDARD) as archive:
        archive.writestr("samples/a_epoch_1.json", json.dumps(inspect_sample("a")))
    assert read(path)[0].data["response"] == "r"


def test_a_transcript_of_any_length_is_stepped_over(inspect: Callable[..., Path]) -> None:
    events = [{"event": "model", "text": "x" * 1_000}] * 5_000
    path = inspect(*(inspect_sample(n, events=events) for n in range(2)))
    del events
    tracemalloc.start()
    try:
        assert len(read(path)) == 2
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
