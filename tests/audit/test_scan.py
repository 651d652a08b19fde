"""The walk through a document equals what `json` reads, wherever the chunks end."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.audit import scan
from evenhand.audit.scan import Broken, Scan

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.sampled_from(['"', "\\", '\\"', "]}", "é" * 30]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(autouse=True, params=[1, 5, 2**16])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK", request.param)


def of(text: str | bytes) -> Scan:
    return Scan(io.BytesIO(text.encode() if isinstance(text, str) else text))


def skip_all(walk: Scan) -> None:
    for _ in walk.members():
        walk.skip()


@given(value=VALUES, ascii=st.booleans(), indent=st.sampled_from([None, 2]))
def test_a_value_is_what_json_reads(value: Any, ascii: bool, indent: Any) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert of(text).value() == value


@given(data=st.dictionaries(st.text(), VALUES, max_size=5), kept=st.integers(0, 4))
def test_members_are_walked_and_skipped(data: dict[str, Any], kept: int) -> None:
    text = json.dumps(data, indent=1).encode()
    walk, found = of(text), {}
    for number, key in enumerate(walk.members()):
        if number == kept:
            found[key] = walk.value()
        else:
            walk.skip()
    assert found == {key: data[key] for key in list(data)[kept : kept + 1]}
    assert walk.at == len(text)


def test_lists_of_objects() -> None:
    walk = of('[{"a": 1, "b": [{}]}, {"a": 2}, {}]')
    found = []
    for _ in walk.items():
        found.append(0)
        for key in walk.members():
            if key == "a":
                found[-1] = walk.value()
            else:
                walk.skip()
    assert found == [1, 2, 0]


def test_a_byte_order_mark_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK", 64)
    assert of(b'\xef\xbb\xbf{"a": 1}').value() == {"a": 1}


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a"', '{"a":', '{"a": "b', '{"a": [1, 2', '{"a" 1}', "{1: 2}", '{"a": 1 "b"'],
)
def test_what_is_broken_is_said(text: str) -> None:
    with pytest.raises(Broken):
        skip_all(of(text))


@pytest.mark.parametrize(
    "bad", ["nan", '"\\x"', "[1,]", "{]", '"\x01"', "[" * 20_000 + "]" * 20_000]
)
def test_a_bad_value_costs_itself_alone(bad: str) -> None:
    walk = of(f'{{"a": {bad}, "b": 2}}')
    found: dict[str, Any] = {}
    for key in walk.members():
        try:
            found[key] = walk.value()
        except ValueError:
            found[key] = "bad"
    assert found == {"a": "bad", "b": 2}


def test_bytes_that_are_no_utf8_are_a_bad_value() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        of(b'"\xe9"').value()


def test_a_value_too_long_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_VALUE", 100)
    walk = of(json.dumps({"a": list(range(100)), "b": 1}))
    found: dict[str, Any] = {}
    for key in walk.members():
        try:
            found[key] = walk.value()
        except ValueError as exc:
            found[key] = str(exc)
    assert found == {"a": "it is longer than 0 MiB", "b": 1}


def test_a_text_without_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_VALUE", 2**17)
    with pytest.raises(Broken, match="longer than"):
        skip_all(of('{"a": "' + "x" * 2**19))
