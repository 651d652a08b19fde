"""What is written for llama.cpp is what llama.cpp reads."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenhand.engine.native import Batch, Context, Model
from evenhand.engine.settings import EngineSettings
from evenhand.schemas.errors import DecodeError, ModelFileError, Unavailable

CAPACITY = 64
Piece = tuple[list[int], int, tuple[int, ...], bool]
pieces = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=8),
        st.integers(0, 10_000),
        st.lists(st.integers(0, 255), min_size=1, max_size=5, unique=True).map(tuple),
        st.booleans(),
    ),
    max_size=8,
)


def fill(batch: Batch, rows: list[Piece]) -> None:
    batch.clear()
    for tokens, position, sequences, output in rows:
        batch.add(
            tokens,
            range(position, position + len(tokens)),
            sequences,
            outputs=slice(-1, None) if output else None,
        )


def read(struct: llama_cpp.llama_batch) -> list[tuple[int, int, list[int], int]]:
    """Through the C pointers, as llama.cpp does."""
    return [
        (
            struct.token[i],
            struct.pos[i],
            [struct.seq_id[i][j] for j in range(struct.n_seq_id[i])],
            struct.logits[i],
        )
        for i in range(struct.n_tokens)
    ]


@settings(max_examples=100, deadline=None)
@given(pieces, pieces)
def test_a_batch_reads_as_one_filled_element_by_element(
    before: list[Piece], rows: list[Piece]
) -> None:
    batch = Batch(CAPACITY)
    fill(batch, before)  # what was there before must not shine through
    fill(batch, rows)
    theirs = llama_cpp.llama_batch_init(CAPACITY, 0, 8)
    try:
        n = 0
        for tokens, position, sequences, output in rows:
            for k, token in enumerate(tokens):
                theirs.token[n] = token
                theirs.pos[n] = position + k
                theirs.n_seq_id[n] = len(sequences)
                for j, sequence in enumerate(sequences):
                    theirs.seq_id[n][j] = sequence
                theirs.logits[n] = int(output and k == len(tokens) - 1)
                n += 1
        theirs.n_tokens = n
        assert read(batch.struct) == read(theirs)
        assert batch.size == n
        assert batch.outputs == sum(output for *_, output in rows)
    finally:
        llama_cpp.llama_batch_free(theirs)


def test_a_batch_refuses_more_than_it_holds() -> None:
    batch = Batch(4)
    batch.add([1, 2, 3], range(3), (0,))
    with pytest.raises(ValueError, match="broadcast"):
        batch.add([4, 5], range(2), (0,))


def test_a_batch_evaluates_as_llama_cpp_s_own_does(tiny: Path) -> None:
    model = Model(tiny)
    tokens = model.tokenize(b"the same text either way", special=False)
    rows = []
    for ours in (True, False):
        context = Context(model, EngineSettings(), n_ctx=256, n_threads=1)
        if ours:
            batch = Batch(CAPACITY)
            batch.add(tokens, range(len(tokens)), (0, 3), outputs=slice(-1, None))
            context.decode(batch)
        else:
            theirs = llama_cpp.llama_batch_init(CAPACITY, 0, 2)
            for i, token in enumerate(tokens):
                theirs.token[i], theirs.pos[i], theirs.n_seq_id[i] = token, i, 2
                theirs.seq_id[i][0], theirs.seq_id[i][1] = 0, 3
                theirs.logits[i] = int(i == len(tokens) - 1)
            theirs.n_tokens = len(tokens)
            assert llama_cpp.llama_decode(context._context, theirs) == 0
            llama_cpp.llama_batch_free(theirs)
        rows.append(context.logits(len(tokens) - 1).copy())
        with pytest.raises(DecodeError):
            context.logits(0)  # no logits were asked for there
        context.close()
        context.close()
    model.close()
    assert np.array_equal(rows[0], rows[1])


def test_a_bad_batch_raises_and_leaves_the_cache_as_it_was(tiny: Path) -> None:
    model = Model(tiny)
    context = Context(model, EngineSettings(), n_ctx=256, n_threads=1)
    batch = Batch(300)
    batch.add([model.n_vocab + 5], [0], (0,), outputs=slice(0, 1))
    with pytest.raises(DecodeError, match="invalid"):
        context.decode(batch)
    batch.clear()
    batch.add([1, 2, 3], range(3), (0,), outputs=slice(-1, None))
    context.decode(batch)
    assert np.isfinite(context.logits(2)).all()
    context.close()
    model.close()


def test_a_closed_model_refuses_instead_of_crashing(tiny: Path) -> None:
    model = Model(tiny)
    context = Context(model, EngineSettings(), n_ctx=256, n_threads=1)
    model.close()
    model.close()
    for read_it in (
        lambda: model.tokenize(b"x", special=False),
        lambda: model.piece(1),
        lambda: model.is_end(1),
        lambda: model.is_control(1),
        lambda: model.metadata,
        lambda: model.description,
        lambda: model.chat_template,
    ):
        with pytest.raises(Unavailable):
            read_it()
    batch = Batch(4)
    batch.add([1], [0], (0,), outputs=slice(0, 1))
    context.decode(batch)  # the weights live as long as a context uses them
    context.close()


def test_a_file_that_llama_cpp_refuses_is_named_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + bytes(16))
    with pytest.raises(ModelFileError, match=r"odd\.gguf.*architecture"):
        Model(path)


def test_long_metadata_and_pieces_come_whole(tmp_path: Path, make_tiny: object) -> None:
    assert callable(make_tiny)
    template = "{# " + "x" * 5000 + " #}{{ messages[0].content }}"
    word = "w" * 200
    model = Model(make_tiny(tmp_path / "long.gguf", template=template, extra=((word, 4),)))
    assert model.metadata["tokenizer.chat_template"] == template == model.chat_template
    assert model.piece(model.n_vocab - 1) == word.encode()
    model.close()
