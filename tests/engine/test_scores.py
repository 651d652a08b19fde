"""Scores of whole answers are the model's own, however they were batched.

The reference scores each answer alone, token by token, through plain `llama_cpp.Llama`, and shares
no code with the engine but the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from real_engine import ANSWERS, SCHEMA, Open

from evenhand.engine.base import Scores
from evenhand.engine.constraint import build_trie
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.prompt import Prompt, Segment
from evenhand.engine.task import log_softmax_at
from evenhand.judge.llm import Judge
from evenhand.schemas.errors import ConstraintError, DecodeError, InputTooLong
from evenhand.schemas.generation import Sampling
from evenhand.schemas.verdict import Status

PREFIX = "You label how a response serves its author. The labels follow. " * 4
# Sums whose last bit depends on the batch's shape tip an activation over to the next of Q8_0's 127
# steps now and then. In the bundled judge that moves unlikely answers by up to 0.3% (measured; in
# F32 the same texts agree to 4e-4), and likely ones, whose logarithms are small, by a thousandth.
TIPPED = 5e-3
NEARLY_SURE = 1e-3


def one_at_a_time(
    path: Path, prompt: Sequence[int], answers: Sequence[Sequence[int]], *, flash: bool
) -> list[float]:
    """log P(answer | prompt, the beginning of all answers), each answer evaluated alone."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=2048, n_batch=512, n_threads=2, logits_all=True, flash_attn=flash,
        verbose=False,
    )  # fmt: skip
    shared = 0
    while len({a[shared] for a in answers}) == 1:
        shared += 1
    found = []
    for answer in answers:
        llama.reset()
        llama.eval([*prompt, *answer])
        rows = llama.scores[: len(prompt) + len(answer)].astype(np.float64)
        total = 0.0
        for i in range(shared, len(answer)):
            row = rows[len(prompt) + i - 1]
            top = row.max()
            total += row[answer[i]] - top - math.log(np.exp(row - top).sum())
        found.append(total)
    llama.close()
    return found


def text_of(engine: LlamaEngine, tokens: int) -> str:
    words = "The quick brown fox writes a story about my nurse and does not stop. " * 200
    return engine.decode(engine._tokenizer.encode(words)[:tokens])


def assert_probabilities(scores: Scores) -> None:
    assert all(p <= 0 for p in scores.log_probs)
    assert sum(math.exp(p) for p in scores.log_probs) <= 1 + 1e-6


@pytest.mark.peer
@pytest.mark.parametrize(
    ("flash", "n_batch", "n_ubatch", "lengths"),
    [
        # A few tokens, within n_ubatch, beyond it, beyond n_batch (evaluated in chunks). In batches
        # of fewer than four tokens llama.cpp rounds activations otherwise: about 1e-3 there.
        (False, 256, 64, (5, 40, 150, 600)),
        # On a CPU, llama.cpp's flash attention takes another kernel for fewer than 64 tokens, whose
        # 16-bit sums move log-probabilities by some 1e-2; here every chunk takes the same one.
        (True, 2048, 512, (150, 300)),
    ],
)
def test_scores_equal_those_of_each_answer_alone(
    any_path: Path,
    open_engine: Open,
    flash: bool,
    n_batch: int,
    n_ubatch: int,
    lengths: tuple[int, ...],
) -> None:
    engine = open_engine(any_path, flash_attention=flash, n_batch=n_batch, n_ubatch=n_ubatch)
    answers = [engine._tokenizer.encode(a) for a in ANSWERS]
    context = engine.info.context
    for length in lengths:
        body = text_of(engine, length)
        for prefix in ("", PREFIX * 2 if flash else PREFIX):
            segments = [Segment(prefix, constant=True), Segment(body)]
            if sum(len(engine._tokenizer.encode(s.text)) for s in segments) + 40 > context:
                continue
            prompt = engine.encode(segments)
            assert (prompt.prefix > 16) == bool(prefix)
            expected = one_at_a_time(any_path, prompt.tokens, answers, flash=flash)
            for _ in range(2):  # the second time on the pinned prefix
                scores = engine.score(prompt, ANSWERS, SCHEMA).result(60)
                assert scores.log_probs == pytest.approx(expected, rel=TIPPED, abs=NEARLY_SURE)
                assert_probabilities(scores)
                assert scores.prompt_tokens == len(prompt)


@pytest.mark.peer
def test_scores_do_not_depend_on_the_company(any_path: Path, open_engine: Open) -> None:
    engine = open_engine(any_path, score_parallel=4, flash_attention=False)
    answers = [engine._tokenizer.encode(a) for a in ANSWERS]
    prompts = [
        engine.encode([Segment(PREFIX, constant=True), Segment(f"item {i} " * (i + 1))])
        for i in range(6)
    ]
    expected = [one_at_a_time(any_path, p.tokens, answers, flash=False) for p in prompts]
    talk = engine.encode([Segment("Tell me")])
    company = [
        engine.generate(talk, Sampling(max_tokens=60, seed=i, temperature=1), n=4) for i in range(4)
    ]
    futures = [engine.score(p, ANSWERS, SCHEMA) for p in prompts * 3]
    company += [engine.generate(talk, Sampling(max_tokens=30, seed=9), n=8)]
    for i, future in enumerate(futures):
        scores = future.result(60)
        assert scores.log_probs == pytest.approx(
            expected[i % len(prompts)], rel=TIPPED, abs=NEARLY_SURE
        )
        assert_probabilities(scores)
    for other in company:
        assert other.result(60)


def test_text_as_long_as_the_context_allows_and_one_more(engine: LlamaEngine) -> None:
    trie = engine._trie(tuple(ANSWERS), SCHEMA)
    room = engine.info.context - trie.tokens
    fits = Prompt(tuple(engine.encode([Segment("x" * 2000)], reserve=-2000).tokens[:room]))
    assert len(fits) == room
    assert_probabilities(engine.score(fits, ANSWERS, SCHEMA).result(60))
    with pytest.raises(InputTooLong):
        engine.score(Prompt((*fits.tokens, 65)), ANSWERS, SCHEMA)


# -- greedy and exact ---------------------------------------------------------------------------


def test_the_exact_best_answer_can_differ_from_the_greedy_one(
    tmp_path: Path, make_tiny: Callable[..., Path], open_engine: Open
) -> None:
    """Greedy decoding commits to a likely first token that leads to unlikely answers."""
    engine = open_engine(make_tiny(tmp_path / "flat.gguf", seed=5, sharpness=0.7))
    tokenizer = engine._tokenizer
    trie = engine._trie(tuple(ANSWERS), SCHEMA)
    assert trie.steps
    different = 0
    with Judge(engine, mass_floor=0.0, template=_plain(tmp_path)) as judge:
        for i in range(40):
            verdict = judge.judge(f"prompt {i}", f"response {i}")
            assert verdict.status is Status.JUDGED
            assert verdict.probabilities is not None
            assert verdict.label == max(
                verdict.probabilities, key=verdict.probabilities.__getitem__
            )
            noted = [n for n in verdict.notes if n.startswith("greedy_path_differs:")]
            if noted:
                different += 1
                greedy = noted[0].split(":")[1]
                assert greedy != verdict.label
                assert verdict.probabilities[greedy] <= verdict.probabilities[verdict.label]
    assert tokenizer.pieces
    assert different > 0, "the test has lost its point: choose another seed"


def _plain(folder: Path) -> Any:
    from evenhand.prompts import load

    path = folder / "plain.j2"
    path.write_text(
        '{% set format = "raw" %}{% block text %}{{ prompt }} {{ response }} => {% endblock %}'
    )
    return load("judge", path)


def test_greedy_is_the_likeliest_child_at_each_node(engine: LlamaEngine) -> None:
    """Walk the trie by hand, one decode for each token."""
    trie = engine._trie(tuple(ANSWERS), SCHEMA)
    encoded = [tuple(engine._tokenizer.encode(a)) for a in ANSWERS]
    for i in range(5):
        prompt = engine.encode([Segment(f"greedy {i}")])
        path = list(trie.head)
        while tuple(path) not in encoded:
            allowed = sorted({e[len(path)] for e in encoded if e[: len(path)] == tuple(path)})
            if len(allowed) == 1:
                path += allowed
                continue
            # Two-answer tries whose paths end here give the log-probability of each child.
            longer = Prompt((*prompt.tokens, *path))
            found = _next(engine, longer, allowed)
            path.append(max(allowed, key=found.__getitem__))
        assert encoded[engine.score(prompt, ANSWERS, SCHEMA).result(20).greedy] == tuple(path)


def _next(engine: LlamaEngine, prompt: Prompt, tokens: list[int]) -> dict[int, float]:
    from concurrent.futures import Future

    from evenhand.engine.task import ScoreTask

    future: Future[Scores] = Future()
    engine._submit([ScoreTask(prompt, build_trie([(t,) for t in tokens]), future, None)])
    return dict(zip(tokens, future.result(20).log_probs, strict=True))


# -- numbers that are none ----------------------------------------------------------------------


def test_log_softmax_against_a_plain_one() -> None:
    rng = np.random.default_rng(0)
    row = (rng.standard_normal(5000) * 8).astype(np.float32)
    wide = row.astype(np.float64)
    expected = wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()
    got = log_softmax_at(row, [0, 17, int(row.argmax())])
    assert got == pytest.approx([expected[0], expected[17], expected.max()], abs=1e-5)
    assert max(got) <= 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_raise(bad: float) -> None:
    row = np.zeros(10, np.float32)
    row[3] = bad
    with pytest.raises(DecodeError, match="not numbers"):
        log_softmax_at(row, [1])
    with pytest.raises(DecodeError):
        log_softmax_at(np.full(10, -np.inf, np.float32), [1])


def test_a_model_that_gives_nan_fails_its_task_and_not_the_engine(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = engine.encode([Segment("hello")])
    before = engine.score(prompt, ANSWERS, SCHEMA).result(20)
    logits = engine._lanes[0].context.logits

    def poisoned(index: int) -> Any:
        row = logits(index)
        row[7] = np.nan
        return row

    monkeypatch.setattr(engine._lanes[0].context, "logits", poisoned)
    with pytest.raises(DecodeError, match="not numbers"):
        engine.score(prompt, ANSWERS, SCHEMA).result(20)
    with pytest.raises(DecodeError, match="not numbers"):
        engine.generate(prompt, Sampling(max_tokens=3, seed=1)).result(20)
    monkeypatch.undo()
    assert engine.score(prompt, ANSWERS, SCHEMA).result(20).log_probs == pytest.approx(
        before.log_probs, abs=1e-4
    )


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (['{"label":"refusal"}', '{"label":"nonsense"}'], "nonsense"),
        (['{"label":"refusal"}', '{"label": "complete"}'], "does not accept"),
        (['{"label":"refusal"}', "refusal"], "does not accept"),
        (['{"label":"refusal"}', '{"label":"refusal"'], "does not accept"),
        (['{"label":"refusal"}', '{"label":"refusal"}'], "beginning of another"),
        (['{"label":"refusal"}'], "at least two"),
        ([], "at least two"),
    ],
)
def test_answers_outside_the_grammar_are_refused(
    engine: LlamaEngine, answers: list[str], said: str
) -> None:
    with pytest.raises(ConstraintError, match=said):
        engine.score(engine.encode([Segment("x")]), answers, SCHEMA)
