"""Several contexts side by side: the same results, nobody held up, nothing lost at the end."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from real_engine import ANSWERS, GREEDY, SCHEMA, Open, hold, prompt_of

from evenhand.engine import engine as engine_module
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.native import Context
from evenhand.engine.prompt import Prompt, Segment
from evenhand.schemas.errors import DecodeError, QueueFull, Unavailable
from evenhand.schemas.generation import Sampling

pytestmark = pytest.mark.timeout(120)


def results(engine: LlamaEngine, order: int) -> dict[tuple[str, int], Any]:
    """Scores and samples of the same 48 requests, sent in some order."""
    beginnings = [
        "",
        "what prompts of this kind begin with: " * 2,
        "another beginning, longer: " * 3,
    ]
    jobs = [(kind, i) for i in range(24) for kind in ("score", "generate")]
    random.Random(order).shuffle(jobs)
    futures: dict[tuple[str, int], Future[Any]] = {}
    for kind, i in jobs:
        prompt = prompt_of(engine, f"number {i} " * (1 + i % 7), beginnings[i % 3])
        if kind == "score":
            futures[kind, i] = engine.score(prompt, ANSWERS, SCHEMA)
        else:
            sampling = Sampling(temperature=0.9, max_tokens=12, seed=i)
            futures[kind, i] = engine.generate(prompt, sampling, n=1 + i % 3)
    done = {job: future.result(60) for job, future in futures.items()}
    return {
        job: found.log_probs if job[0] == "score" else [c.tokens for c in found]
        for job, found in done.items()
    }


@pytest.mark.parametrize("path", ["tiny", "judge_path", "chat_path"])
def test_a_small_model_repeats_itself_to_the_last_bit(
    open_engine: Open, request: pytest.FixtureRequest, path: str
) -> None:
    """Whatever came before, whatever waits, and however many threads there are."""
    file = request.getfixturevalue(path)
    first, *others = [
        results(open_engine(file, contexts=None, n_threads=n, n_ctx=8192), order=n)
        for n in (1, 2, 3)
    ]
    for other in others:
        assert other == first


def test_several_contexts_give_what_one_gives(open_engine: Open, tiny: Path) -> None:
    """But for rounding, which depends on what shares a batch where requests do (decision 011)."""
    one, several = [results(open_engine(tiny, contexts=n), order=0) for n in (1, 3)]
    for (kind, i), found in one.items():
        if kind == "score":
            assert several[kind, i] == pytest.approx(found, rel=2e-3)
        else:
            assert len(several[kind, i]) == len(found)


@pytest.mark.parametrize(
    ("settings", "lanes", "cells"),
    [
        ({"n_threads": 4, "n_ctx": 4096}, 4, 1024),
        ({"n_threads": 1, "n_ctx": 4096}, 1, 4096),
        ({"n_threads": 4, "n_ctx": 2048}, 2, 1024),  # the model reads 1,024, and so must each
        ({"n_threads": 4, "n_ctx": 2000}, 1, 2000),
        ({"n_threads": 4, "n_ctx": 256}, 1, 256),
        ({"n_threads": 64, "n_ctx": 32768}, 16, 2048),
        ({"n_threads": 2, "n_ctx": 4096, "contexts": 3}, 3, 1365),
        ({"n_threads": 4, "n_ctx": 4096, "score_parallel": 2}, 4, 1024),
    ],
)
def test_a_small_model_has_one_for_every_thread(
    open_engine: Open, tiny: Path, settings: dict[str, int], lanes: int, cells: int
) -> None:
    engine = open_engine(tiny, **{"contexts": None, **settings})
    assert len(engine._lanes) == lanes
    alone = "contexts" not in settings and "score_parallel" not in settings
    assert all(lane.scheduler._alone == alone for lane in engine._lanes)
    # llama.cpp rounds the size up.
    assert all(cells <= lane.context.n_ctx < cells + 256 for lane in engine._lanes)
    assert engine.info.context == min(1024, engine._lanes[0].context.n_ctx)


def test_a_larger_model_has_one(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_SMALL", 0)
    assert len(open_engine(tiny, contexts=None, n_threads=4)._lanes) == 1


def test_work_goes_where_least_is_to_do(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, contexts=3)
    with hold(engine, 2):
        for i in range(5):
            assert engine.generate(prompt_of(engine, f"{i}"), GREEDY).result(20)
            assert engine.score(prompt_of(engine, f"{i}"), ANSWERS, SCHEMA).result(20)


def test_the_queue_is_bounded_over_all(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, contexts=2, queue=8)
    prompt = prompt_of(engine, "x")
    waiting: list[Future[Any]] = []
    with hold(engine, 2):
        for _ in range(8):
            waiting.append(engine.score(prompt, ANSWERS, SCHEMA))
        assert engine.depth == 8
        with pytest.raises(QueueFull):
            engine.score(prompt, ANSWERS, SCHEMA)
    for future in waiting:
        future.result(20)


def test_a_request_in_groups_is_spread_and_queued_whole_or_not_at_all(
    open_engine: Open, tiny: Path
) -> None:
    # Two sequences at once in either, so that four samples are two groups.
    engine = open_engine(tiny, contexts=2, queue=4, max_sequences=4)
    prompt = prompt_of(engine, "x")
    with hold(engine, 2):
        both = engine.generate(prompt, GREEDY, n=4)
        assert [lane.scheduler.depth for lane in engine._lanes] == [1, 1]
        one = engine.generate(prompt, GREEDY, n=2)
        with pytest.raises(QueueFull):
            engine.generate(prompt, GREEDY, n=4)  # there is room for one group, and not for two
    assert len(both.result(20)) == 4
    assert len(one.result(20)) == 2
    # What was taken back holds nothing.
    assert engine.score(prompt, ANSWERS, SCHEMA).result(20)
    assert engine.depth == 0


def test_what_fails_in_one_leaves_the_others_alone(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tiny, contexts=2)

    def broken(_batch: Any) -> None:
        raise DecodeError("made up")

    prompt = prompt_of(engine, "x")
    with hold(engine, 2):
        futures = [engine.score(prompt, ANSWERS, SCHEMA) for _ in range(10)]
        monkeypatch.setattr(engine._lanes[0].context, "decode", broken)
    failed = [isinstance(f.exception(20), DecodeError) for f in futures]
    assert failed.count(True) == 5
    monkeypatch.undo()
    assert engine.score(prompt, ANSWERS, SCHEMA).result(20)


def test_closing_finishes_what_is_queued_everywhere(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, contexts=3)
    futures = [engine.generate(prompt_of(engine, f"{i}"), GREEDY) for i in range(30)]
    engine.close()
    assert all(f.result(0) for f in futures)
    with pytest.raises(Unavailable):
        engine.generate(Prompt((1, 2, 3)), GREEDY)
    with pytest.raises(Unavailable):
        engine.encode([Segment("the model is freed")])


def test_closing_without_draining_leaves_nobody_waiting(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, contexts=3)
    with hold(engine, 3):
        futures = [engine.score(prompt_of(engine, f"{i}"), ANSWERS, SCHEMA) for i in range(12)]
        for lane in engine._lanes:
            lane.stop(drain=False)
    engine.close(drain=False)
    assert all(isinstance(f.exception(20), Unavailable) for f in futures)


def test_callbacks_of_two_lanes_may_both_close(open_engine: Open, tiny: Path) -> None:
    """Neither waits for the other, whose thread would wait for it."""
    engine = open_engine(tiny, contexts=2)
    both = threading.Barrier(2)

    def on_text(_i: int, _piece: str) -> None:
        if not both.broken and both.n_waiting < 2:
            both.wait(20)
            both.abort()
        engine.close()

    prompt = prompt_of(engine, "hello")
    futures = [engine.generate(prompt, GREEDY, on_text=on_text) for _ in range(2)]
    for future in futures:
        future.exception(30)
    engine.close()
    assert all(future.done() for future in futures)


def test_a_context_that_cannot_be_made_frees_those_that_were(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, closed = [], []
    init, close = Context.__init__, Context.close

    def third_fails(self: Context, *args: Any, **options: Any) -> None:
        if len(made) == 2:
            raise DecodeError("no memory")
        init(self, *args, **options)
        made.append(self)

    def counted(self: Context) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Context, "__init__", third_fails)
    monkeypatch.setattr(Context, "close", counted)
    with pytest.raises(DecodeError, match="no memory"):
        open_engine(tiny, contexts=3)
    assert closed == made
    assert len(made) == 2
