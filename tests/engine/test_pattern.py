"""Regular expressions: what is left of a pattern in JSON, and how large its automaton is."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand.engine.pattern import places, plain
from evenhand.schemas.errors import UnsupportedSchema

CLASSES = ("a", "b", ".", "[^a]", "[a-c]", "[^b-z]", r"\d", r"\S", '"', "é", r"[\w-]", r"\.")
patterns = st.recursive(
    st.sampled_from(CLASSES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: f"({'|'.join(some)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


def python(regex: str) -> str:
    """The same expression for Python's `re`, which spells code points otherwise."""
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: f"\\U{int(found[1], 16):08x}", regex)


@settings(max_examples=300, deadline=None)
@given(patterns, st.text('ab"\\.9é\n -', max_size=6))
def test_what_is_left_of_a_pattern_is_its_texts_without_escapes(pattern: str, text: str) -> None:
    plainly = json.dumps(text, ensure_ascii=False) == f'"{text}"'
    try:
        left = python(plain(pattern))
    except UnsupportedSchema:
        left = "(?!)"
    expected = plainly and re.fullmatch(pattern, text, re.ASCII) is not None
    assert (re.fullmatch(left, text) is not None) is expected


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^a$|^b$", "a", "a$"),
        ("^a|b$", "b", "ab"),
        (r"^\u00e9\x41\u{1F600}$", "éA\U0001f600", "é"),
        (r"^[\]\-^]+$", "^-]", "a"),
        ("^a{2,}?$", "aaa", "a"),
        ("^$", "", "a"),
    ],
)
def test_how_patterns_are_read(pattern: str, good: str, bad: str) -> None:
    left = python(plain(pattern))
    assert re.fullmatch(left, good)
    assert not re.fullmatch(left, bad)


@pytest.mark.parametrize(
    "pattern",
    [
        '^"$', r"^\\$", r"^\n+$", "^[\x00-\x1f]$", "(?=a)b", "(?!a)b", "(?<=a)b", "(?i)a",
        "(?P<n>a)",
        r"(a)\1", r"\bword", r"\p{L}", "a^b", "a$b", "(^a)", "(a$)", "(", ")", "a)", "[",
        "[]", "[]a]",
        "*", "a**", "{2}", "a{2", "a{3,2}", "[z-a]", r"[\d-z]", "\\", "\ud800",
        r"\ud800", r"\u{110000}",
        "(" * 100_000, "(" * 50_000 + "a" + ")" * 50_000,
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_held_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(UnsupportedSchema, match="pattern") as caught:
        plain(pattern)
    assert caught.value.hint


def test_places_are_states_by_what_may_follow() -> None:
    assert places("abc", 1e9) == pytest.approx(4 / 32)  # three characters and the end
    assert places("[ -~]{10}", 1e9) == pytest.approx(10 + 1 / 32)
    assert places("(ab|ac)", 1e9) == places("a(b|c)", 1e9)  # deterministic
    assert 2**10 / 32 <= places("[ab]*a[ab]{10}", 1e9) < 2**11
    assert places("[ -~]{1000}", 20) < 30  # it stops


@pytest.mark.parametrize(
    "regex",
    [
        "[ab]*a[ab]{24}",
        "(a{997})*|(a{991})*|(a{983})*",
        "a{100000000}",
        "((a{1000}){1000}){1000}",
        r'"([^"\\]|\\["n]){0,60}"',  # small from its beginning, not from the middle of a text
    ],
)
def test_an_automaton_that_blows_up_is_refused(regex: str) -> None:
    with pytest.raises(UnsupportedSchema, match="too many states"):
        places(regex, 1e9)
