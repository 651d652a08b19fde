"""Judges the rows of a dataset: each row comes out with a verdict, in order, whatever it was like.

Knows rows, columns and judges. It does not know files or progress bars.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import NamedTuple

from evenhand.audit.datasets import Rows
from evenhand.audit.rows import Row
from evenhand.judge.base import BaseJudge
from evenhand.schemas.errors import DatasetError, EvenhandError, QueueFull, RetryableError
from evenhand.schemas.verdict import Verdict

IN_FLIGHT = 64
_PATIENCE = 0.05  # seconds to wait for room in a queue that others fill


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row holds the prompt and the response, and where its verdict will go."""

    prompt: str = "prompt"
    response: str = "response"
    id: str | None = None
    verdict: str = "verdict"

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a file must have."""
        named = (self.prompt, self.response, self.id)
        return tuple(name for name in named if name is not None)


class Judged(NamedTuple):
    """A row and its verdict. `bad`: the row itself was at fault, and no judge saw it."""

    row: Row
    verdict: Verdict
    bad: bool


def check_columns(rows: Rows, columns: Columns) -> None:
    """Raise `DatasetError` where a column of the file's own would be overwritten."""
    if rows.columns is not None and columns.verdict in rows.columns:
        raise _taken(f"the file has a column {columns.verdict!r} already")


def judge_rows(
    judge: BaseJudge,
    rows: Iterable[Row],
    columns: Columns,
    *,
    reason: bool = False,
    in_flight: int = IN_FLIGHT,
) -> Iterator[Judged]:
    """Judge a stream of rows, in order, never holding more than `in_flight` of them.

    A bad row gets an error verdict without troubling the judge. A full queue is waited out. Raises
    what means that no further row can be judged (`Unavailable`).
    """
    waiting: deque[tuple[Row, Future[Verdict] | Verdict]] = deque()

    def ready() -> bool:
        return bool(waiting) and (isinstance(waiting[0][1], Verdict) or waiting[0][1].done())

    try:
        for row in rows:
            row = _keeping_verdict(row, columns.verdict)
            while True:
                try:
                    waiting.append((row, _submit(judge, row, columns, reason)))
                    break
                except QueueFull as exc:
                    if waiting:
                        yield _outcome(judge, *waiting.popleft())
                    else:
                        time.sleep(min(exc.retry_after or _PATIENCE, _PATIENCE))
            while len(waiting) >= in_flight or ready():
                yield _outcome(judge, *waiting.popleft())
        while waiting:
            yield _outcome(judge, *waiting.popleft())
    finally:
        for _row, work in waiting:
            if isinstance(work, Future):
                work.cancel()


def _submit(
    judge: BaseJudge, row: Row, columns: Columns, reason: bool
) -> Future[Verdict] | Verdict:
    try:
        prompt, response = row.text_of(columns.prompt), row.text_of(columns.response)
    except DatasetError as exc:
        return judge.failed(exc)
    try:
        return judge.submit(prompt, response, reason=reason)
    except RetryableError:
        raise
    except EvenhandError as exc:  # this row's fault, and found at once
        future: Future[Verdict] = Future()
        future.set_result(judge.failed(exc))
        return future


def _outcome(judge: BaseJudge, row: Row, work: Future[Verdict] | Verdict) -> Judged:
    if isinstance(work, Verdict):
        return Judged(row, work, bad=True)
    try:
        return Judged(row, work.result(), bad=False)
    except Exception as exc:  # a judge that breaks its promise must not cost the other rows
        return Judged(row, judge.failed(exc), bad=False)


def _keeping_verdict(row: Row, column: str) -> Row:
    """A row with a value of its own under the verdict's name is kept as its raw text."""
    if column not in row.data:
        return row
    return replace(
        row,
        data={name: value for name, value in row.data.items() if name != column},
        text=None,
        raw=row.text or row.raw,
        problem=_taken(f"{row.where} has a value for {column!r} already"),
    )


def _taken(what: str) -> DatasetError:
    return DatasetError(
        what, hint="Choose another name for the verdicts (--verdict-column), or rename yours."
    )
