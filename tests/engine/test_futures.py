"""Futures: one step after another, with rescue and cancellation."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest

from evenhand.engine.futures import done, gather, reject, resolve, then


def fail(_: object) -> int:
    raise ValueError("step")


def test_a_step_after_a_result() -> None:
    assert then(done(2), lambda x: x + 1).result(1) == 3
    assert then(done(2), lambda x: done(x + 1)).result(1) == 3
    assert then(then(done(1), str), len).result(1) == 1


def test_errors_pass_through_or_are_rescued() -> None:
    broken: Future[int] = Future()
    reject(broken, KeyError("first"))
    with pytest.raises(KeyError):
        then(broken, str).result(1)
    with pytest.raises(ValueError, match="step"):
        then(done(1), fail).result(1)
    with pytest.raises(KeyError):
        then(done(1), lambda _: broken).result(1)
    for first, step in ((broken, fail), (done(1), fail), (done(1), lambda _: broken)):
        rescued = then(first, step, rescue=lambda error: -len(type(error).__name__))
        assert rescued.result(1) < 0


def test_an_error_in_the_rescue_is_not_lost() -> None:
    def rescue(_: BaseException) -> int:
        raise RuntimeError("rescue")

    with pytest.raises(RuntimeError, match="rescue"):
        then(done(1), fail, rescue=rescue).result(1)


def test_cancelling_reaches_the_part_under_way() -> None:
    first: Future[int] = Future()
    second: Future[int] = Future()
    outer = then(first, lambda _: second)
    assert outer.cancel()
    assert first.cancelled()
    first = Future()
    outer = then(first, lambda _: second)
    first.set_result(1)
    assert not outer.done()
    assert outer.cancel()
    assert second.cancelled()


def test_no_step_is_taken_after_cancelling() -> None:
    taken = []
    first: Future[int] = Future()
    first.set_running_or_notify_cancel()  # so that it cannot be cancelled itself
    outer = then(first, taken.append)
    assert outer.cancel()
    first.set_result(1)
    assert taken == []


def test_a_step_begun_while_cancelling_is_cancelled() -> None:
    first: Future[int] = Future()
    second: Future[int] = Future()
    entered, leave = threading.Event(), threading.Event()

    def step(_: int) -> Future[int]:
        entered.set()
        leave.wait(2)
        return second

    outer = then(first, step)
    thread = threading.Thread(target=first.set_result, args=(1,))
    thread.start()
    assert entered.wait(2)
    outer.cancel()
    leave.set()
    thread.join()
    assert second.cancelled()


def test_what_is_cancelled_inside_is_cancelled_outside() -> None:
    for inner_first in (True, False):
        first: Future[int] = Future()
        second: Future[int] = Future()
        outer = then(first, lambda _, second=second: second, rescue=lambda _: 0)
        if inner_first:
            first.cancel()
        else:
            first.set_result(1)
            second.cancel()
        assert outer.cancelled()
        with pytest.raises(CancelledError):
            outer.result(1)


def test_settling_twice_does_no_harm() -> None:
    future = done(1)
    resolve(future, 2)
    reject(future, ValueError())
    assert future.result() == 1
    cancelled: Future[int] = Future()
    cancelled.cancel()
    resolve(cancelled, 1)
    reject(cancelled, ValueError())
    assert cancelled.cancelled()


def test_gathering_keeps_the_order() -> None:
    parts: list[Future[list[int]]] = [Future() for _ in range(3)]
    whole = gather(parts)
    for i in (2, 0, 1):
        assert not whole.done()
        parts[i].set_result([i, i])
    assert whole.result(1) == [0, 0, 1, 1, 2, 2]


def test_one_failure_ends_the_gathering() -> None:
    parts: list[Future[list[int]]] = [Future() for _ in range(3)]
    whole = gather(parts)
    parts[1].set_exception(KeyError())
    assert isinstance(whole.exception(1), KeyError)
    assert parts[0].cancelled()
    assert parts[2].cancelled()
    parts = [Future() for _ in range(3)]
    gather(parts).cancel()
    assert all(p.cancelled() for p in parts)
