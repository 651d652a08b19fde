"""Work that blocks on a socket: a bounded pool of threads whose calls can be interrupted.

The threads are the concurrency limit. A call ends early when its future is cancelled or its
deadline passes, also in the middle of a read: whatever it waits for is told to stop. Knows nothing
of HTTP.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from evenhand.engine.futures import reject, resolve
from evenhand.schemas.errors import DeadlineExceeded, QueueFull, Unavailable

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for the call any more."""


class Call:
    """One call under way: when it must be done, and how to interrupt it."""

    def __init__(self, deadline: float | None = None):
        self._deadline = deadline
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None

    @property
    def stopped(self) -> bool:
        """Whether nobody waits any more."""
        return self._stopped.is_set()

    def left(self) -> float | None:
        """Seconds until the deadline (at least a little), or None without one."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raise `Stopped` where nobody waits any more."""
        if self.stopped:
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Wait, and raise `Stopped` as soon as nobody waits any more."""
        if self._stopped.wait(seconds):
            raise Stopped

    @contextmanager
    def interrupted_by(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While inside, stopping the call runs `interrupt` (on the thread that stops it)."""
        with self._lock:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            # `stop` holds the lock while it interrupts, so it cannot hit what comes after.
            with self._lock:
                self._interrupt = None

    def stop(self) -> None:
        """Make the call end soon. Safe from any thread, and twice."""
        with self._lock:
            self._stopped.set()
            if self._interrupt is not None:
                self._interrupt()


class CallPool:
    """Runs calls on `threads` threads; at most `queue` more may wait."""

    def __init__(self, *, threads: int, queue: int, name: str):
        self._room = threads + queue
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()
        self._closed = False
        self._alarms: list[tuple[float, int, Future[Any]]] = []
        self._numbers = itertools.count()
        self._alarm_set = threading.Condition(self._lock)
        self._watcher: threading.Thread | None = None

    def submit(
        self, works: Sequence[Callable[[Call], T]], *, deadline: float | None = None
    ) -> list[Future[T]]:
        """Start all of `works` or none. Raises `QueueFull` or `Unavailable` at once."""
        pairs = [(work, Call(deadline), cast("Future[T]", Future())) for work in works]
        with self._lock:
            if self._closed:
                raise Unavailable("the remote client is closed", hint="Open a new one.")
            if len(self._open) + len(pairs) > self._room:
                raise QueueFull(
                    f"{len(self._open)} calls are under way or waiting, and {self._room} may be"
                )
            for _, _, future in pairs:
                self._open.add(future)
            if deadline is not None:
                self._watch(deadline, [future for _, _, future in pairs])
        for work, call, future in pairs:
            future.add_done_callback(self._on_done(call))
            self._threads.submit(self._run, work, call, future)
        return [future for _, _, future in pairs]

    def close(self, *, drain: bool = False) -> None:
        """Refuse new calls, and drop (or finish) those under way. Safe to call twice."""
        with self._lock:
            self._closed = True
            left = list(self._open)
            self._alarm_set.notify()
        if not drain:
            for future in left:
                reject(future, Unavailable("the remote client was closed", hint="Open a new one."))
        self._threads.shutdown(wait=True)

    def _run(self, work: Callable[[Call], T], call: Call, future: Future[T]) -> None:
        if future.done():  # cancelled or too late before its turn came
            return
        try:
            outcome = work(call)
        except Exception as exc:
            self._leave(future)
            reject(future, exc)
        else:
            # There is room again before anyone hears of the outcome and sends the next call.
            self._leave(future)
            resolve(future, outcome)

    def _on_done(self, call: Call) -> Callable[[Future[T]], None]:
        def done(future: Future[T]) -> None:
            self._leave(future)
            call.stop()

        return done

    def _leave(self, future: Future[T]) -> None:
        with self._lock:
            self._open.discard(future)

    # -- deadlines ----------------------------------------------------------------------------

    def _watch(self, deadline: float, futures: Sequence[Future[Any]]) -> None:
        for future in futures:
            heapq.heappush(self._alarms, (deadline, next(self._numbers), future))
        self._alarm_set.notify()
        if self._watcher is None:
            self._watcher = threading.Thread(
                target=self._ring, name="evenhand-deadlines", daemon=True
            )
            self._watcher.start()

    def _ring(self) -> None:
        while True:
            with self._lock:
                while self._alarms and self._alarms[0][2].done():
                    heapq.heappop(self._alarms)
                if self._closed and not self._open:
                    return
                wait = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if wait is None or wait > 0:
                    self._alarm_set.wait(wait)
                    continue
                _, _, future = heapq.heappop(self._alarms)
            reject(future, DeadlineExceeded("the deadline passed before the server had answered"))
