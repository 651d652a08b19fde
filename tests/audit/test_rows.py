from __future__ import annotations

import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from evenhand.audit.rows import Row, dumps, to_line
from evenhand.schemas.errors import DatasetError


def row(data: dict[str, Any], **more: Any) -> Row:
    return Row(7, "line 7", 100, data, **more)


@pytest.mark.parametrize(
    ("data", "column", "value"),
    [
        ({"a": "x"}, "a", "x"),
        ({"doc": {"question": "x"}}, "doc.question", "x"),
        ({"resps": [["x", "y"], ["z"]]}, "resps.1.0", "z"),
        ({"doc.question": "own", "doc": {"question": "x"}}, "doc.question", "own"),
    ],
)
def test_columns_and_paths(data: dict[str, Any], column: str, value: str) -> None:
    assert row(data).text_of(column) == value


@pytest.mark.parametrize(
    ("data", "column", "message"),
    [
        ({}, "a", "line 7: there is no 'a'"),
        ({"a": ["x"]}, "a.1", "there is no 'a.1'"),
        ({"a": "xyz"}, "a.0", "there is no 'a.0'"),
        ({"a": None}, "a", "holds nothing (null) where text belongs"),
        ({"a": 3}, "a", "holds a number where"),
        ({"a": True}, "a", "holds true or false where"),
        ({"a": {"b": "c"}}, "a", "holds an object where"),
    ],
)
def test_what_is_not_text_is_said(data: dict[str, Any], column: str, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        row(data).text_of(column)
    assert message in str(caught.value)
    assert caught.value.hint


def test_an_empty_text_is_a_text() -> None:
    assert row({"a": ""}).text_of("a") == ""


def test_a_row_with_a_problem_raises_it() -> None:
    problem = DatasetError("line 7 is not JSON")
    with pytest.raises(DatasetError) as caught:
        row({"a": "x"}, problem=problem).text_of("a")
    assert caught.value is problem


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{ }",
        '{"a": 1.10, "b": 123456789012345678901234567890, "c": 1e400}',
        r'{"a": "\ud83d lone", "b": "\u00e9"}',
        '{"twice": 1, "twice": 2}',
    ],
)
def test_json_rows_keep_their_text_to_the_letter(text: str) -> None:
    line = to_line(row(json.loads(text), text=text), '{"status":"judged"}', "verdict", bad=False)
    assert line.startswith(text[:-1].rstrip())
    assert json.loads(line)["verdict"] == {"status": "judged"}
    assert line.count("\n") == 0


def test_a_bad_row_says_where_it_was_and_what_it_read() -> None:
    bad = row({"a": "x"}, raw="x,y,z", problem=DatasetError("ragged"))
    assert json.loads(to_line(bad, "{}", "v", bad=True)) == {
        "a": "x",
        "line": 7,
        "raw": "x,y,z",
        "v": {},
    }


def test_a_column_called_line_is_the_users_own() -> None:
    bad = row({"line": "mine"}, raw="?", problem=DatasetError("ragged"))
    assert json.loads(to_line(bad, "{}", "v", bad=True))["line"] == "mine"


def test_what_json_cannot_hold() -> None:
    written = json.loads(
        dumps(
            {
                "when": datetime(2024, 1, 2, 3, 4, 5),
                "day": date(2024, 1, 2),
                "hour": time(3, 4),
                "span": timedelta(seconds=90),
                "cents": Decimal("1.10"),
                "bytes": b"\x00\xff",
                "nan": [math.nan, {"deep": math.inf}],
                "half": "\ud800",
                "word": "NaN",
            }
        )
    )
    assert written == {
        "when": "2024-01-02T03:04:05",
        "day": "2024-01-02",
        "hour": "03:04:00",
        "span": "0:01:30",
        "cents": "1.10",
        "bytes": "AP8=",
        "nan": [None, {"deep": None}],
        "half": "\ud800",
        "word": "NaN",
    }


def test_lines_are_always_utf8() -> None:
    assert dumps({"é": "\ud800"}).encode() == b'{"\\u00e9":"\\ud800"}'
    assert dumps({"é": "ü"}) == '{"é":"ü"}'
