"""Small helpers for `concurrent.futures.Future`: the one currency of work in evenhand.

Futures here stay *pending* until they are settled, so that `cancel()` works at any time; whoever
does the work looks at `cancelled()` between steps.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")


def resolve(future: Future[A], value: A) -> None:
    """Set the result, unless the future was cancelled or settled meanwhile."""
    with contextlib.suppress(InvalidStateError):
        future.set_result(value)


def reject(future: Future[A], error: BaseException) -> None:
    """Set the exception, unless the future was cancelled or settled meanwhile."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


def done(value: A) -> Future[A]:
    """A future that has its result already."""
    future: Future[A] = Future()
    future.set_result(value)
    return future


def then(
    first: Future[A],
    step: Callable[[A], B | Future[B]],
    *,
    rescue: Callable[[BaseException], B] | None = None,
) -> Future[B]:
    """A future for `step(result of first)`; `step` may itself return a future.

    An exception of either goes to `rescue`, whose value is then the result; without it, the
    exception is passed on. Cancelling the returned future cancels whichever part is under way.
    `step` runs on the thread that settles `first`: keep it short.
    """
    outer: Future[B] = Future()
    under_way: list[Future[Any]] = [first]

    def settle(error: BaseException) -> None:
        if rescue is None:
            reject(outer, error)
            return
        try:
            resolve(outer, rescue(error))
        except BaseException as exc:
            reject(outer, exc)

    def on_second(second: Future[B]) -> None:
        if second.cancelled():
            outer.cancel()
        elif (error := second.exception()) is not None:
            settle(error)
        else:
            resolve(outer, second.result())

    def on_first(finished: Future[A]) -> None:
        if finished.cancelled():
            outer.cancel()
            return
        if outer.cancelled():
            return
        if (error := finished.exception()) is not None:
            settle(error)
            return
        try:
            outcome = step(finished.result())
        except BaseException as exc:
            settle(exc)
            return
        if isinstance(outcome, Future):
            under_way[0] = outcome
            outcome.add_done_callback(on_second)
            if outer.cancelled():
                outcome.cancel()
        else:
            resolve(outer, outcome)

    def on_outer(finished: Future[B]) -> None:
        if finished.cancelled():
            under_way[0].cancel()

    first.add_done_callback(on_first)
    outer.add_done_callback(on_outer)
    return outer


def gather(parts: Sequence[Future[list[A]]]) -> Future[list[A]]:
    """A future for the parts' lists, joined in order; the first exception ends it.

    Cancelling it, or an exception in one part, cancels the other parts.
    """
    if len(parts) == 1:
        return parts[0]
    whole: Future[list[A]] = Future()
    lock = threading.Lock()
    missing = len(parts)

    def on_part(part: Future[list[A]]) -> None:
        nonlocal missing
        if part.cancelled():
            whole.cancel()
        elif (error := part.exception()) is not None:
            reject(whole, error)
            for other in parts:
                other.cancel()
        else:
            with lock:
                missing -= 1
                last = missing == 0
            if last:
                resolve(whole, [item for p in parts for item in p.result()])

    def on_whole(finished: Future[list[A]]) -> None:
        if finished.cancelled():
            for part in parts:
                part.cancel()

    whole.add_done_callback(on_whole)
    for part in parts:
        part.add_done_callback(on_part)
    return whole
