"""Reading a reason that is still being written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.judge.reason import reason_in
from evenhand.schemas.text import clean

anything = st.text(st.characters(), max_size=40)


@given(anything)
def test_never_raises(text: str) -> None:
    reason_in(text)
    reason_in('{"reason":"' + text)
    reason_in('{"reason":"' + text + '"')


@given(anything, st.booleans(), anything)
def test_a_closed_reason_is_read_whole(reason: str, ascii_only: bool, rest: str) -> None:
    text = json.dumps({"reason": reason}, ensure_ascii=ascii_only, separators=(",", ":"))[:-1]
    # json.dumps leaves DEL and C1 controls as they are, and JSON allows them.
    assert reason_in(text + rest) == (clean(reason), True)


@given(anything, st.booleans(), st.integers(0, 300))
def test_a_reason_cut_anywhere_is_a_beginning_of_it(reason: str, ascii_only: bool, at: int) -> None:
    whole = json.dumps({"reason": reason}, ensure_ascii=ascii_only, separators=(",", ":"))[:-2]
    head = len('{"reason":"')
    found, closed = reason_in(whole[: head + at])
    assert not closed
    assert found is not None
    assert clean(reason).startswith(found)
    lost = len(clean(reason)) - len(found)
    if head + at >= len(whole) and not reason.endswith("\ufffd") and clean(reason) == reason:
        assert lost == 0


@pytest.mark.parametrize("end", range(len('{"reason":"')))
def test_not_yet_a_reason(end: int) -> None:
    assert reason_in('{"reason":"'[:end]) == (None, False)
