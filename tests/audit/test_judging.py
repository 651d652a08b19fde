from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from evenhand.audit.datasets import open_rows
from evenhand.audit.judging import Columns, Judged, check_columns, judge_rows
from evenhand.audit.outputs import FileOutput
from evenhand.audit.rows import Row
from evenhand.engine.fake import FakeEngine
from evenhand.engine.futures import done
from evenhand.judge import BaseJudge, Judge
from evenhand.schemas.errors import DatasetError, DecodeError, QueueFull, Unavailable
from evenhand.schemas.verdict import Status, Verdict


def rows(*responses: Any) -> list[Row]:
    return [
        Row(i, f"line {i}", i, {"prompt": f"p{i}", "response": response})
        for i, response in enumerate(responses, 1)
    ]


def statuses(judged: list[Judged]) -> list[str]:
    return [j.verdict.status.value for j in judged]


class Stub(BaseJudge):
    """Answers through a function, which may raise, and counts what is under way."""

    def __init__(self, act: Any):
        super().__init__("stub", "qos")
        self._act = act

    @property
    def fingerprint(self) -> str:
        return "0" * 64

    def submit(self, prompt: str, response: str, **_: Any) -> Future[Verdict]:
        outcome: Future[Verdict] = self._act(self, prompt, response)
        return outcome

    def verdict(self) -> Verdict:
        return self._judged('{"label":"refusal"}')


def test_rows_come_out_in_order_with_bad_ones_in_their_place() -> None:
    def fail(text: str) -> None:
        if "broken" in text:
            raise DecodeError("llama.cpp refused")

    with Judge(FakeEngine(fail=fail), "qos") as judge:
        out = list(judge_rows(judge, rows("a", None, "broken", 3, "b"), Columns(), in_flight=2))
    assert [j.row.line for j in out] == [1, 2, 3, 4, 5]
    assert statuses(out) == ["judged", "error", "error", "error", "judged"]
    assert [j.bad for j in out] == [False, True, False, True, False]
    codes = [j.verdict.failure and j.verdict.failure.code for j in out]
    assert codes == [None, "invalid_dataset", "decode_error", "invalid_dataset", None]
    assert "line 2" in out[1].verdict.failure.message  # type: ignore[union-attr]


def test_text_too_long_is_truncated_and_not_an_error() -> None:
    with Judge(FakeEngine(context=4_000), "qos") as judge:
        out = list(judge_rows(judge, rows("a", "x" * 10_000, "b"), Columns()))
    assert statuses(out) == ["judged", "truncated", "judged"]


def test_a_judge_that_breaks_its_promise_costs_one_row() -> None:
    def act(judge: Stub, _prompt: str, response: str) -> Future[Verdict]:
        if response != "bad":
            return done(judge.verdict())
        future: Future[Verdict] = Future()
        future.set_exception(RuntimeError("bug"))
        return future

    out = list(judge_rows(Stub(act), rows("a", "bad", "b"), Columns()))
    assert statuses(out) == ["judged", "error", "judged"]
    assert out[1].verdict.failure is not None
    assert "RuntimeError: bug" in out[1].verdict.failure.message


def test_an_error_at_submission_costs_one_row() -> None:
    def act(judge: Stub, _prompt: str, response: str) -> Future[Verdict]:
        if response == "bad":
            raise DecodeError("refused")
        return done(judge.verdict())

    assert statuses(list(judge_rows(Stub(act), rows("a", "bad", "b"), Columns()))) == [
        "judged",
        "error",
        "judged",
    ]


def test_a_full_queue_is_waited_out() -> None:
    full = iter([True, True, False, True, False, False])

    def act(judge: Stub, _prompt: str, _response: str) -> Future[Verdict]:
        if next(full):
            raise QueueFull("full", retry_after=0.01)
        return done(judge.verdict())

    assert statuses(list(judge_rows(Stub(act), rows("a", "b", "c"), Columns()))) == ["judged"] * 3


def test_a_judge_that_is_gone_ends_the_run() -> None:
    def act(judge: Stub, _prompt: str, response: str) -> Future[Verdict]:
        if response == "c":
            raise Unavailable("closed")
        return done(judge.verdict())

    out: list[Judged] = []
    with pytest.raises(Unavailable):
        out.extend(judge_rows(Stub(act), rows("a", "b", "c", "d"), Columns()))
    assert statuses(out) == ["judged", "judged"]


def test_stopping_cancels_what_is_under_way() -> None:
    futures: list[Future[Verdict]] = []

    def act(judge: Stub, _prompt: str, _response: str) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        if not futures:
            future.set_result(judge.verdict())
        futures.append(future)
        return future

    stream = judge_rows(Stub(act), rows(*"abcdef"), Columns(), in_flight=4)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert [future.cancelled() for future in futures[1:]] == [True] * len(futures[1:])


@pytest.mark.parametrize("text", ['{"prompt":"p","response":"r","verdict":{"status":"old"}}'])
def test_a_later_row_with_a_verdict_of_its_own_is_kept_raw(tmp_path: Path, text: str) -> None:
    row = Row(3, "line 3", 3, json.loads(text), text=text)
    with Judge(FakeEngine(), "qos") as judge:
        [judged] = judge_rows(judge, [row], Columns())
    assert judged.verdict.status is Status.ERROR
    output = FileOutput(tmp_path / "out.jsonl")
    output.write(judged.row, judged.verdict, bad=judged.bad)
    output.finish()
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert written["raw"] == text
    assert written["verdict"]["status"] == "error"


def test_a_column_of_verdicts_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,response,verdict\np,r,v\n")
    with open_rows(path) as opened:
        with pytest.raises(DatasetError, match="'verdict' already") as caught:
            check_columns(opened, Columns())
        assert "--verdict-column" in caught.value.hint
        check_columns(opened, Columns(verdict="second"))


def test_never_more_rows_in_flight_than_allowed() -> None:
    pulled = 0

    def source() -> Iterator[Row]:
        nonlocal pulled
        for row in rows(*["r"] * 500):
            pulled += 1
            yield row

    most = 0
    with Judge(FakeEngine(delay=0.0002), "qos") as judge:
        for out, _judged in enumerate(judge_rows(judge, source(), Columns(), in_flight=16)):
            most = max(most, pulled - out)
    assert pulled == 500
    assert 1 <= most <= 16


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_ten_thousand_rows_take_no_more_memory_than_one_thousand(
    tmp_path: Path, suffix: str
) -> None:
    def act(judge: Stub, _prompt: str, _response: str) -> Future[Verdict]:
        return done(verdict)

    judge = Stub(act)
    verdict = judge.verdict()

    def peak(count: int) -> int:
        source, target = tmp_path / f"in{count}.{suffix}", tmp_path / f"out{count}.{suffix}"
        body = "x" * 2_000
        if suffix == "csv":
            source.write_text("prompt,response\n" + f"p,{body}\n" * count)
        elif suffix == "jsonl":
            source.write_text((json.dumps({"prompt": "p", "response": body}) + "\n") * count)
        else:
            import polars as pl

            frame = pl.DataFrame({"prompt": ["p"] * count, "response": [body] * count})
            frame.write_parquet(source, row_group_size=500)
            del frame
        tracemalloc.start()
        try:
            with open_rows(source, ("prompt", "response")) as opened:
                output = FileOutput(target)
                for judged in judge_rows(judge, opened, Columns()):
                    output.write(judged.row, judged.verdict, bad=judged.bad)
                output.finish(opened)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # imports and caches
    small, large = peak(2_000), peak(10_000)
    assert large < small + 2 * 2**20, f"{small / 2**20:.1f} MiB, then {large / 2**20:.1f} MiB"


def test_waiting_for_a_slow_judge_does_not_reorder() -> None:
    def reply(_text: str) -> str:
        time.sleep(0.001)
        return "refusal"

    with Judge(FakeEngine(pick=reply), "qos") as judge:
        out = list(judge_rows(judge, rows(*map(str, range(50))), Columns(), in_flight=8))
    assert [j.row.data["response"] for j in out] == [str(i) for i in range(50)]
