"""Text to tokens and back, on real vocabularies: nothing is lost, and text stays text."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenhand.engine.chat import ChatFormat
from evenhand.engine.prompt import Message, assemble
from evenhand.engine.tokens import TextStream, Tokenizer

SPELLINGS = (
    "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>",
    "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|reserved_special_token_0|>", "<|prompt|>", "<|response|>", "<|verdict|>", "<|system|>",
    "<|user|>", "<|assistant|>", "<0x00>", "<0x0A>", "Ġ", "Ċ",
)  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)

# SentencePiece writes a space as "▁", so that character alone comes back as a space.
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60)


def control(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    model = tokenizer._model
    return [t for t in tokens if t in tokenizer.ends or model.is_control(t)]


# -- untrusted text ---------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_text_that_spells_a_control_token_stays_text(tokenizer: Tokenizer, spelling: str) -> None:
    for text in (spelling, f"a{spelling}b", f" {spelling} ", f"\n{spelling}\n", spelling * 3):
        tokens = tokenizer.encode(text)
        assert control(tokenizer, tokens) == []
        assert tokenizer.decode(tokens) == text


def test_no_control_token_of_the_vocabulary_can_be_spelled(tokenizer: Tokenizer) -> None:
    model = tokenizer._model
    special = [t for t in range(model.n_vocab) if t in tokenizer.ends or model.is_control(t)]
    assert special
    for token in special[:300]:
        text = model.piece(token, special=True).decode()
        # The template may spell it; that is what makes the other half worth asserting.
        assert token in tokenizer.encode(text, control=True)
        assert control(tokenizer, tokenizer.encode(text)) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.lists(st.one_of(anything, st.sampled_from(SPELLINGS)), max_size=6).map("".join))
def test_any_text_comes_back_and_stays_text(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert control(tokenizer, tokens) == []


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "   ", "\n", "\n\n\n", "\t \r\n ", "\0", "a\0b", "\x7f\x1b[31m",
        "مرحبا بالعالم", "שלום \u202eעולם\u202c", "👩‍👩‍👧‍👦 🏳️‍🌈 é", "ẞ" * 50, "\ufeffa", "\u2028",
        " leading", "trailing ", "  two", "\nline", "1234567890" * 20, "a" * 500,
    ],
)  # fmt: skip
def test_odd_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00", "\udc80" * 3])
def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    decoded = tokenizer.decode(tokenizer.encode(text))
    assert "\ufffd" in decoded
    assert decoded.replace("\ufffd", "") == "".join(
        c for c in text if not "\ud800" <= c <= "\udfff"
    )


@pytest.mark.parametrize(
    ("piece", "size"),
    # llama.cpp takes quadratic time for characters that a SentencePiece vocabulary lacks.
    [("word ", 2**20), ("a", 2**19), ("</s>[INST] ", 2**20), ("🙂", 2**17)],
)
def test_long_text_comes_back_in_time(tokenizer: Tokenizer, piece: str, size: int) -> None:
    text = piece * (size // len(piece.encode()))
    started = time.monotonic()
    tokens = tokenizer.encode(text)
    assert time.monotonic() - started < 10
    assert tokenizer.decode(tokens) == text
    assert control(tokenizer, tokens) == []


# -- templates --------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("system", ["", "You are a helpful assistant.\nBe brief."])
def test_pieces_join_into_what_the_whole_chat_gives(
    tokenizer: Tokenizer, system: str, turns: int, request: pytest.FixtureRequest
) -> None:
    """A benign chat tokenized piece by piece is the chat tokenized as a whole."""
    model = tokenizer._model
    kind = request.node.callspec.params["tokenizer"]
    source = {"qwen2": CHATML, "llama-bpe": LLAMA3}.get(kind)
    template = model.chat_template if kind in ("judge", "chat") else source
    if kind == "judge" and template is None:
        pytest.skip("the bundled judge has no chat format")
    bos = model.piece(model.bos, special=True).decode() if model.bos >= 0 else ""
    eos = model.piece(model.eos, special=True).decode() if model.eos >= 0 else ""
    chat = ChatFormat(template, bos=bos, eos=eos)
    talk = [
        "Write a story about my nurse Aïsha.",
        "Once upon a time, there was one.",
        "Go on: why?",
    ]
    messages = [Message.text("system", system)] if system else []
    messages += [
        Message.text("assistant" if i % 2 else "user", text) for i, text in enumerate(talk[:turns])
    ]
    segments = chat.segments(messages)
    whole = "".join(s.text for s in segments)
    for text in (system, *talk[:turns]):
        assert text in whole
    prompt = assemble(segments, tokenizer.encode, limit=10_000, bos=tokenizer.bos)
    expected = model.tokenize(whole.encode(), special=True)
    if tokenizer.bos is not None and expected[:1] != [tokenizer.bos]:
        expected = [tokenizer.bos, *expected]
    assert list(prompt.tokens) == expected


def test_llama_2_is_spelled_as_its_authors_do(tokenizer: Tokenizer) -> None:
    if not tokenizer._model.is_sentencepiece:
        pytest.skip("only SentencePiece vocabularies put a space before text")
    chat = ChatFormat(None, bos="<s>", eos="</s>")
    segments = chat.segments([Message.text("system", "Be kind."), Message.text("user", "Hello.")])
    prompt = assemble(segments, tokenizer.encode, limit=1000, bos=tokenizer.bos)
    # BOS, then encode("[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello. [/INST]") of the reference
    # code, which begins with the word piece "▁[".
    pieces = [tokenizer._model.piece(t, special=True) for t in prompt.tokens]
    assert pieces[:7] == [b"<s>", b" [", b"INST", b"]", b" <<", b"SY", b"S"]
    assert prompt.tokens.count(1) == 1
    assert pieces[-4:] == [b" [", b"/", b"INST", b"]"]


# -- tokens to text as they come --------------------------------------------------------------


def pushed(stream: TextStream, chunks: list[bytes]) -> list[str]:
    out = [stream.push(chunk) for chunk in chunks]
    return [*out, stream.push(b"", final=True)]


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(a % (len(data) + 1) for a in at)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def before_the_first_stop(text: str, stops: tuple[str, ...]) -> str:
    for end in range(len(text) + 1):
        begun = [len(text[:end]) - len(s) for s in stops if text[:end].endswith(s)]
        if begun:
            return text[: min(begun)]
    return text


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.text("ab</s>\né🙂", max_size=30).map(str.encode), st.binary(max_size=20)),
    st.lists(st.integers(0, 100), max_size=8),
    st.lists(st.text("ab</s>é", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_any_split_gives_the_text_before_the_first_stop(
    data: bytes, at: list[int], stops: tuple[str, ...]
) -> None:
    stream = TextStream(stops)
    pieces = pushed(stream, cut(data, at))
    expected = before_the_first_stop(data.decode("utf-8", "replace"), stops)
    assert "".join(pieces) == stream.text == expected
    # What was given out was never taken back: each state was a beginning of the end.
    assert stream.stopped == (expected != data.decode("utf-8", "replace"))


def test_what_may_begin_a_stop_is_held_back_and_no_more() -> None:
    stream = TextStream(("</end>",))
    assert stream.push(b"a</e") == "a"
    assert stream.push(b"x") == "</ex"
    assert stream.push("é".encode()[:1]) == ""
    assert stream.push("é".encode()[1:] + b"</end>b") == "é"
    assert stream.stopped
    assert stream.push(b"more") == ""
    assert stream.text == "a</exé"
