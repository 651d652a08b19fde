"""Prompts: pieces of known origin become token ids, and long text gives way in the middle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.engine.prompt import OMISSION, Message, Prompt, Segment, assemble
from evenhand.schemas.errors import InputTooLong


def tokenize(text: str, control: bool) -> list[int]:
    """Characters; control text in the negative, so that it can be told apart."""
    return [-ord(c) if control else ord(c) for c in text]


def text(prompt: Prompt) -> str:
    return "".join(chr(abs(t)) for t in prompt.tokens)


def build(*segments: Segment, limit: int = 1_000, bos: int | None = None) -> Prompt:
    return assemble(segments, tokenize, limit=limit, bos=bos)


def test_origin_decides_what_is_control_text() -> None:
    prompt = build(Segment("<s>", control=True), Segment("<s>"))
    assert prompt.tokens == (*(-ord(c) for c in "<s>"), *(ord(c) for c in "<s>"))


def test_the_prefix_is_what_stays_the_same_at_the_start() -> None:
    prompt = build(
        Segment("ab", constant=True),
        Segment("", constant=False),
        Segment("c", constant=True),
        Segment("x"),
        Segment("d", constant=True),
    )
    assert (text(prompt), prompt.prefix) == ("abcxd", 3)
    assert build(Segment("x"), Segment("a", constant=True)).prefix == 0


def test_beginning_of_text_comes_once() -> None:
    assert build(Segment("a", constant=True), bos=7).tokens == (7, ord("a"))
    assert build(Segment("a", constant=True), bos=7).prefix == 2
    assert build(Segment("a"), bos=ord("a")).tokens == (ord("a"),)
    assert build(bos=7).tokens == (7,)


def test_spaces_move_into_the_next_piece() -> None:
    prompt = build(Segment("a  ", constant=True), Segment("b"), Segment("  "), Segment("c "))
    assert text(prompt) == "a  b  c "
    assert prompt.prefix == 1


@given(st.lists(st.text("ab \n", max_size=4), max_size=5))
def test_no_text_is_lost_or_made(pieces: list[str]) -> None:
    assert text(build(*(Segment(p) for p in pieces))) == "".join(pieces)


def test_too_long_is_refused() -> None:
    with pytest.raises(InputTooLong, match="11 tokens") as caught:
        build(Segment("x" * 11), limit=10)
    assert caught.value.hint
    assert build(Segment("x" * 10), limit=10).omitted == 0
    with pytest.raises(InputTooLong):
        build(Segment("x", cut=True), limit=0)
    with pytest.raises(InputTooLong):
        build(Segment("x" * 20), Segment("y" * 5, cut=True), limit=10)


def test_the_middle_gives_way() -> None:
    prompt = build(Segment("<"), Segment("a" * 20 + "b" * 20, cut=True), Segment(">"), limit=22)
    assert len(prompt) == 22
    assert text(prompt) == "<" + "a" * 8 + OMISSION + "b" * 7 + ">"
    assert prompt.omitted == 40 - 15


def test_the_longest_gives_way_first() -> None:
    prompt = build(Segment("a" * 10, cut=True), Segment("b" * 50, cut=True), limit=30)
    assert text(prompt).startswith("a" * 10 + "b")
    assert len(prompt) == 30


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=5),
    st.integers(0, 120),
)
def test_what_is_built_fits_and_keeps_what_may_not_be_cut(
    sizes: list[tuple[int, bool]], limit: int
) -> None:
    segments = [Segment(chr(ord("a") + i) * size, cut=cut) for i, (size, cut) in enumerate(sizes)]
    try:
        prompt = build(*segments, limit=limit)
    except InputTooLong:
        least = sum(min(s, len(OMISSION)) if cut else s for s, cut in sizes)
        assert limit < least or limit < sum(s for s, _ in sizes)
        assert least > limit
        return
    assert len(prompt) <= limit
    for i, (size, cut) in enumerate(sizes):
        kept = text(prompt).count(chr(ord("a") + i))
        assert kept == size or cut
    total = sum(s for s, _ in sizes)
    assert (prompt.omitted > 0) == (total > limit)


def test_messages() -> None:
    assert Message.text("user", "hi") == Message("user", (Segment("hi"),))
