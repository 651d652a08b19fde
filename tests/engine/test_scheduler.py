"""The shared context: nothing is lost, nothing leaks, nobody waits for ever.

`engine` is a real engine on a tiny model. `hold` blocks its thread inside a callback, so that a
test can arrange the queue before the next step.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from real_engine import ANSWERS, GREEDY, SCHEMA, Open, hold, prompt_of

from evenhand.engine.engine import LlamaEngine
from evenhand.engine.native import MAX_SEQUENCES
from evenhand.engine.prompt import Prompt, Segment
from evenhand.engine.scheduler import MAX_PINS
from evenhand.engine.task import PrefixTask
from evenhand.schemas.errors import (
    ConstraintError,
    DeadlineExceeded,
    DecodeError,
    QueueFull,
    Unavailable,
)
from evenhand.schemas.generation import Sampling

TASKS = 80  # of the mixed test

pytestmark = pytest.mark.timeout(120)


def wait_for(futures: list[Future[Any]], seconds: float) -> None:
    """Wait until all are done; `concurrent.futures.wait` overlooks a plainly cancelled one."""
    until = time.monotonic() + seconds
    while not all(f.done() for f in futures):
        assert time.monotonic() < until, f"{sum(not f.done() for f in futures)} never came back"
        time.sleep(0.005)


def settle(engine: LlamaEngine) -> None:
    """Wait until the engine's thread has nothing to do."""
    until = time.monotonic() + 20
    while not engine._lanes[0].scheduler.idle:
        assert time.monotonic() < until, "the engine did not come to rest"
        time.sleep(0.002)
    time.sleep(0.01)


def assert_whole(engine: LlamaEngine) -> None:
    """At rest, every cell and sequence is free or held by an evaluated pin."""
    settle(engine)
    scheduler = engine._lanes[0].scheduler
    pins = [pin.task for pin in scheduler._pins.values()]
    assert all(pin.done for pin in pins)
    assert scheduler._cells + sum(pin.cells for pin in pins) == engine._lanes[0].context.n_ctx
    held = [i for pin in pins for i in pin.ids]
    assert sorted([*scheduler._ids, *held]) == list(range(MAX_SEQUENCES))
    assert not scheduler._running
    assert set(scheduler._shares) <= set(pins)
    users = sum(pin.users for pin in scheduler._pins.values())
    assert users == len(scheduler._shares)
    # What llama.cpp itself holds agrees with the books.
    import llama_cpp

    for i in range(MAX_SEQUENCES):
        last = llama_cpp.llama_memory_seq_pos_max(engine._lanes[0].context._memory, i)
        owner = next((pin for pin in pins if i in pin.ids), None)
        assert last == (-1 if owner is None else len(owner.tokens) - 1)


# -- the queue --------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_loses_nothing(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, queue=4)
    prompt = prompt_of(engine, "hello")
    with hold(engine):
        accepted = [engine.generate(prompt, GREEDY) for _ in range(4)]
        with pytest.raises(QueueFull) as caught:
            engine.generate(prompt, GREEDY)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        with pytest.raises(QueueFull):
            engine.score(prompt, ANSWERS, SCHEMA)
        assert engine.depth == 4
    assert {f.result(20)[0].text for f in accepted} == {accepted[0].result()[0].text}
    assert engine.generate(prompt, GREEDY).result(20)
    assert_whole(engine)


def test_a_request_in_groups_is_queued_whole_or_not_at_all(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, queue=4, n_ctx=256)
    prompt = prompt_of(engine, "hello")
    with hold(engine):
        engine.generate(prompt, GREEDY)
        with pytest.raises(QueueFull):
            engine.generate(prompt, Sampling(max_tokens=120, seed=1), n=9)
        assert engine.depth == 1
    # On an empty queue, one request may be larger than the queue.
    settle(engine)
    many = engine.generate(prompt, Sampling(max_tokens=120, seed=1), n=9).result(60)
    assert [c.seed for c in many] == list(range(1, 10))
    assert_whole(engine)


def test_work_is_admitted_in_order(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, max_sequences=1)
    order: list[int] = []
    with hold(engine):
        futures = []
        for i in range(12):
            future = engine.generate(prompt_of(engine, f"text {i}"), GREEDY)
            future.add_done_callback(lambda _f, i=i: order.append(i))
            futures.append(future)
    wait_for(futures, 30)
    assert order == list(range(12))


def test_submitting_from_many_threads(engine: LlamaEngine) -> None:
    expected = {
        i: engine.generate(prompt_of(engine, f"thread {i}"), GREEDY).result(20)[0].tokens
        for i in range(16)
    }
    item = prompt_of(engine, "a text of more than a few tokens")
    scores = engine.score(item, ANSWERS, SCHEMA).result(20)
    wrong: list[Any] = []
    gate = threading.Barrier(16)

    def work(i: int) -> None:
        gate.wait()
        for _ in range(4):
            got = engine.generate(prompt_of(engine, f"thread {i}"), GREEDY).result(60)[0].tokens
            if got[:1] != expected[i][:1]:
                wrong.append((i, got, expected[i]))
            again = engine.score(item, ANSWERS, SCHEMA).result(60)
            if again.log_probs != pytest.approx(scores.log_probs, abs=1e-3):
                wrong.append((i, again, scores))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads)
    assert wrong == []
    assert_whole(engine)


# -- deadlines and cancelling -----------------------------------------------------------------


def test_a_deadline_that_passes_in_the_queue(engine: LlamaEngine) -> None:
    with hold(engine):
        late = engine.generate(prompt_of(engine, "late"), GREEDY, deadline=time.monotonic() + 0.05)
        late_score = engine.score(
            prompt_of(engine, "late"), ANSWERS, SCHEMA, deadline=time.monotonic() + 0.05
        )
        time.sleep(0.1)
    for future in (late, late_score):
        with pytest.raises(DeadlineExceeded):
            future.result(20)
    assert_whole(engine)


def test_a_deadline_that_passes_while_running(engine: LlamaEngine) -> None:
    future = engine.generate(
        prompt_of(engine, "slow"),
        Sampling(max_tokens=1000, seed=1),
        n=2,
        on_text=lambda _i, _t: time.sleep(0.02),
        deadline=time.monotonic() + 0.2,
    )
    with pytest.raises(DeadlineExceeded):
        future.result(20)
    assert_whole(engine)


def test_cancelling_frees_what_waits_and_what_runs(engine: LlamaEngine) -> None:
    prompt = prompt_of(engine, "cancel me", prefix="a constant beginning of some length, ")
    with hold(engine):
        written: list[int] = []
        waiting = [
            engine.generate(prompt, GREEDY, n=3, on_text=lambda _i, _t: written.append(-1))
            for _ in range(5)
        ]
        assert all(f.cancel() for f in waiting)
    started = threading.Event()

    def slowly(i: int, _piece: str) -> None:
        written.append(i)
        started.set()
        time.sleep(0.002)

    running = engine.generate(
        prompt,
        Sampling(max_tokens=900, seed=1),
        n=4,
        on_text=slowly,
    )
    assert started.wait(20)
    assert running.cancel()
    so_far = len(written)
    assert_whole(engine)
    assert -1 not in written
    assert len(written) <= so_far + 8  # two steps more at most
    with pytest.raises(CancelledError):
        running.result(0)
    assert engine.generate(prompt, GREEDY).result(20)


def test_cancelling_a_request_in_groups_cancels_each(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, n_ctx=256)
    with hold(engine):
        whole = engine.generate(prompt_of(engine, "x"), Sampling(max_tokens=200, seed=1), n=6)
        assert engine.depth >= 6
        assert whole.cancel()
    assert_whole(engine)


# -- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "a long constant beginning, twice: " * 2])
def test_a_failed_decode_fails_what_runs_and_no_more(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    engine = open_engine(tiny)
    prompt = prompt_of(engine, "hello", prefix)
    before = engine.generate(prompt, GREEDY).result(20)[0].tokens
    decode = engine._lanes[0].context.decode
    failures = iter([DecodeError("made up")])

    def broken(batch: Any) -> None:
        for error in failures:
            raise error
        decode(batch)

    with hold(engine):
        futures: list[Future[Any]] = [engine.generate(prompt, GREEDY, n=2)]
        futures.append(engine.score(prompt, ANSWERS, SCHEMA))
        monkeypatch.setattr(engine._lanes[0].context, "decode", broken)
    for future in futures:
        with pytest.raises(DecodeError, match="made up"):
            future.result(20)
    assert engine.generate(prompt, GREEDY).result(20)[0].tokens == before
    assert_whole(engine)


@pytest.mark.parametrize("prefix", ["", "a long constant beginning, twice: " * 2])
def test_a_context_that_always_fails_leaves_nobody_waiting(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    engine = open_engine(tiny)

    def broken(_batch: Any) -> None:
        raise DecodeError("made up")

    with hold(engine):
        monkeypatch.setattr(engine._lanes[0].context, "decode", broken)
        futures = [engine.generate(prompt_of(engine, f"{i}", prefix), GREEDY) for i in range(20)]
        futures += [
            engine.generate(prompt_of(engine, "y", f"{prefix} {i}"), GREEDY) for i in range(9)
        ]
    for future in futures:
        with pytest.raises(DecodeError):
            future.result(20)
    settle(engine)


@pytest.mark.parametrize("where", ["_admit", "_prefix", "_drop_stale"])
def test_a_failure_in_scheduling_reaches_whoever_waits(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    engine = open_engine(tiny)
    prompt = prompt_of(engine, "hello", "a constant beginning of some length, ")

    def broken(*_args: Any) -> None:
        raise ZeroDivisionError("made up")

    with hold(engine):
        futures = [engine.generate(prompt, GREEDY) for _ in range(5)]
        monkeypatch.setattr(engine._lanes[0].scheduler, where, broken)
    for future in futures:
        with pytest.raises(ZeroDivisionError):
            future.result(20)
    settle(engine)
    monkeypatch.undo()
    assert engine.generate(prompt, GREEDY).result(20)
    assert_whole(engine)


def test_a_failing_copy_loses_no_task(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tiny)
    prompt = prompt_of(engine, "hello", "a constant beginning of some length, ")
    engine.generate(prompt, GREEDY).result(20)  # pins the prefix

    def broken(*_args: Any) -> None:
        raise ZeroDivisionError("made up")

    with hold(engine):
        other = engine.generate(
            prompt_of(engine, "x", "another beginning, not known yet: "), GREEDY
        )
        future = engine.generate(prompt, GREEDY)
        monkeypatch.setattr(engine._lanes[0].context, "copy", broken)
    with pytest.raises(ZeroDivisionError):
        future.result(20)
    monkeypatch.undo()
    with contextlib.suppress(ZeroDivisionError):
        other.result(20)
    assert_whole(engine)


@pytest.mark.parametrize("callback", ["on_text", "until"])
def test_a_failing_callback_ends_its_own_task_alone(engine: LlamaEngine, callback: str) -> None:
    def broken(*_args: Any) -> bool:
        raise KeyError("made up")

    prompt = prompt_of(engine, "hello")
    sampling = Sampling(max_tokens=20, seed=1)
    with hold(engine):
        innocent = engine.generate(prompt, sampling)
        guilty = engine.generate(prompt, sampling, **{callback: broken})  # type: ignore[arg-type]
        other = engine.score(prompt, ANSWERS, SCHEMA)
    with pytest.raises(KeyError):
        guilty.result(20)
    assert len(innocent.result(20)[0].tokens) > 0
    assert len(other.result(20).log_probs) == 6
    assert_whole(engine)


# -- closing ----------------------------------------------------------------------------------


def test_closing_finishes_what_is_queued(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny)
    prompt = prompt_of(engine, "hello")
    futures: list[Future[Any]] = [engine.generate(prompt, GREEDY, n=3) for _ in range(10)]
    futures += [engine.score(prompt, ANSWERS, SCHEMA) for _ in range(10)]
    engine.close(drain=True)
    assert all(f.done() for f in futures)
    assert all(f.exception() is None for f in futures)
    engine.close(drain=True)
    engine.close(drain=False)


def test_closing_without_draining_fails_the_rest(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny)
    prompt = prompt_of(engine, "hello")
    with hold(engine):
        futures = [engine.generate(prompt, GREEDY) for _ in range(10)]
        closing = threading.Thread(target=engine.close, kwargs={"drain": False})
        closing.start()
        time.sleep(0.05)
    closing.join(20)
    assert not closing.is_alive()
    for future in futures:
        with pytest.raises(Unavailable):
            future.result(0)


def test_a_closed_engine_says_so(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny)
    prompt = prompt_of(engine, "hello")
    engine.close()
    attempts: list[Callable[[], Any]] = [
        lambda: engine.generate(prompt, GREEDY),
        lambda: engine.generate(prompt, GREEDY, schema={"type": "boolean"}),
        lambda: engine.score(prompt, ANSWERS, SCHEMA),
        lambda: engine.encode([Segment("hello")]),
        lambda: engine.decode([1]),
        lambda: engine.chat([]),
    ]
    for attempt in attempts:
        with pytest.raises(Unavailable):
            attempt()
    assert engine.info.context == 1024


def test_closing_from_a_callback_does_not_wait_for_itself(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny)
    future = engine.generate(prompt_of(engine, "hello"), GREEDY)
    future.add_done_callback(lambda _f: engine.close())
    assert future.result(20)
    engine.close()


def test_closing_while_others_submit_settles_every_future(open_engine: Open, tiny: Path) -> None:
    for _ in range(8):
        engine = open_engine(tiny, n_ctx=512)
        prompt = prompt_of(engine, "hello")
        accepted: list[Future[Any]] = []

        def work(
            engine: LlamaEngine = engine, prompt: Prompt = prompt, accepted: Any = accepted
        ) -> None:
            with contextlib.suppress(Unavailable):
                while True:
                    engine.encode([Segment("some text to encode " * 10)])
                    with contextlib.suppress(QueueFull):
                        accepted.append(engine.generate(prompt, GREEDY))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        while not accepted:
            time.sleep(0.002)
        engine.close(drain=True)
        for t in threads:
            t.join(20)
        assert accepted
        assert all(f.done() and f.exception() is None for f in accepted)


def count_tokens(
    engine: LlamaEngine, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Note the size of every batch that is evaluated from now on."""
    decode = engine._lanes[0].context.decode

    def noting(batch: Any) -> None:
        evaluated.append(batch.size)
        decode(batch)

    monkeypatch.setattr(engine._lanes[0].context, "decode", noting)


# -- pins -------------------------------------------------------------------------------------


def test_a_constant_prefix_is_evaluated_once(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[int] = []
    count_tokens(engine, evaluated, monkeypatch)
    prefix = "This long beginning is the same for everyone who asks." * 4
    for i in range(5):
        engine.score(prompt_of(engine, f"item {i}", prefix), ANSWERS, SCHEMA).result(20)
    length = prompt_of(engine, "", prefix).prefix
    assert length > 150
    assert sum(size >= length for size in evaluated) == 1
    assert_whole(engine)


def test_pins_give_way_when_cells_are_short(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, n_ctx=512)
    for i in range(20):
        prefix = f"{i} " + "x" * 200
        assert engine.generate(prompt_of(engine, "go", prefix), GREEDY).result(20)
        assert_whole(engine)
        assert 1 <= len(engine._lanes[0].scheduler._pins) <= 2


def test_there_are_never_more_pins_than_allowed(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny, n_ctx=4096)
    for i in range(3 * MAX_PINS):
        engine.generate(prompt_of(engine, "go", f"{i} and a beginning"), GREEDY).result(20)
        assert len(engine._lanes[0].scheduler._pins) <= MAX_PINS
    assert_whole(engine)


def test_pins_that_grow_out_of_one_another_never_block(open_engine: Open, tiny: Path) -> None:
    """A conversation of many turns pins each turn on top of the last one."""
    engine = open_engine(tiny, n_ctx=2048)
    prefix = ""
    for i in range(2 * MAX_PINS):
        prefix += f"turn {i}: " + "y" * 40
        prompt = prompt_of(engine, "?", prefix)
        assert engine.generate(prompt, GREEDY).result(20)
        # Room is made for the newest turn, which the next one will want.
        assert prompt.tokens[: prompt.prefix] in engine._lanes[0].scheduler._pins
    assert_whole(engine)


def test_neighbours_share_what_they_have_in_common(
    open_engine: Open, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tiny)
    evaluated: list[int] = []
    common = "not marked as constant, and yet the same in each of these prompts " * 3
    with hold(engine):
        count_tokens(engine, evaluated, monkeypatch)
        futures = [engine.generate(prompt_of(engine, f"{common}{i}"), GREEDY) for i in range(8)]
    wait_for(futures, 30)
    assert sum(evaluated) < 3 * len(common)  # 8 times as many without sharing
    assert_whole(engine)


# -- room -------------------------------------------------------------------------------------


def test_answers_that_could_never_get_their_sequences_are_refused(engine: LlamaEngine) -> None:
    labels = [f"label {i}" for i in range(MAX_SEQUENCES)]
    answers = [f'{{"label":"{label}"}}' for label in labels]
    schema = {
        "type": "object", "properties": {"label": {"enum": labels}}, "required": ["label"]
    }  # fmt: skip
    with pytest.raises(ConstraintError, match="answers"):
        engine.score(prompt_of(engine, "x"), answers, schema)


def test_as_many_answers_as_are_allowed_can_be_scored(open_engine: Open, tiny: Path) -> None:
    engine = open_engine(tiny)
    for i in range(MAX_PINS):  # every pin takes a sequence
        engine.generate(prompt_of(engine, "go", f"{i} and a beginning"), GREEDY).result(20)
    labels = [chr(0x100 + i) for i in range(MAX_SEQUENCES - MAX_PINS)]
    answers = [f'{{"label":"{label}"}}' for label in labels]
    schema = {
        "type": "object", "properties": {"label": {"enum": labels}}, "required": ["label"]
    }  # fmt: skip
    try:
        future = engine.score(prompt_of(engine, "x", "yet another beginning"), answers, schema)
    except ConstraintError as refused:
        pytest.skip(f"this vocabulary needs too many nodes: {refused}")
    assert len(future.result(20).log_probs) == len(labels)
    assert_whole(engine)


def test_a_large_trie_is_scored_while_others_generate(open_engine: Open, tiny: Path) -> None:
    """128 sequences leave no room for a trie of 170 nodes; it takes its turn all the same."""
    engine = open_engine(tiny, n_batch=256, n_ctx=8192, max_sequences=128)
    labels = [f"{chr(97 + i % 26)}{i:05}" for i in range(50)]
    answers = [f'{{"label":"{label}"}}' for label in labels]
    schema = {
        "type": "object", "properties": {"label": {"enum": labels}}, "required": ["label"]
    }  # fmt: skip
    assert 170 <= len(engine._trie(tuple(answers), schema).nodes) < 256
    running = threading.Event()
    company = engine.generate(
        prompt_of(engine, "talk"),
        Sampling(max_tokens=55, seed=1),
        n=128,
        on_text=lambda _i, _t: running.set(),
    )
    assert running.wait(20)
    finished_first: list[bool] = []
    score = engine.score(prompt_of(engine, "x"), answers, schema)
    score.add_done_callback(lambda _f: finished_first.append(company.done()))
    assert len(score.result(20).log_probs) == 50
    assert len(company.result(20)) == 128
    assert finished_first == [False]
    assert_whole(engine)


@pytest.mark.parametrize(("n_ctx", "seed"), [(256, 1), (512, 2)])
def test_mixed_work_in_a_small_context_neither_stops_nor_leaks(
    open_engine: Open, tiny: Path, n_ctx: int, seed: int
) -> None:
    """Tasks of all kinds and sizes, with many prefixes, some cancelled, some late."""
    rng = random.Random(seed)
    engine = open_engine(tiny, n_ctx=n_ctx, n_batch=256, queue=1000, score_parallel=3)
    limit = engine.info.context
    futures: list[Future[Any]] = []
    for i in range(TASKS):
        prefix = f"{rng.choice('abcdef')}" * rng.choice([0, 5, 20, 60, 100])
        if rng.random() < 0.3:
            prefix += rng.choice("xyz") * rng.choice([20, 70])
        text = rng.choice("pqr") * rng.randint(1, max(1, limit - len(prefix) - 90))
        prompt = prompt_of(engine, text, prefix)
        deadline = time.monotonic() + rng.uniform(0, 2) if rng.random() < 0.1 else None
        if rng.random() < 0.4 and len(prompt) + 90 < limit:
            futures.append(engine.score(prompt, ANSWERS, SCHEMA, deadline=deadline))
        else:
            sampling = Sampling(max_tokens=rng.choice([1, 3, 20, 200]), seed=i)
            futures.append(
                engine.generate(prompt, sampling, n=rng.choice([1, 1, 2, 7]), deadline=deadline)
            )
        if rng.random() < 0.05:
            rng.choice(futures).cancel()
        if rng.random() < 0.05:
            time.sleep(0.01)
    wait_for(futures, 100)
    errors = [f.exception() for f in futures if not f.cancelled()]
    assert {type(e) for e in errors if e is not None} <= {DeadlineExceeded}
    assert sum(e is None for e in errors) > TASKS // 2
    assert_whole(engine)


def test_a_prefix_that_nobody_waits_for_any_more_is_no_harm(engine: LlamaEngine) -> None:
    with hold(engine):
        future = engine.generate(
            prompt_of(engine, "x", "a beginning that only this one has"), GREEDY
        )
        future.cancel()
    assert_whole(engine)
    assert all(
        isinstance(pin.task, PrefixTask) for pin in engine._lanes[0].scheduler._pins.values()
    )
