"""The thread that owns a context. It knows how to sleep, wake and stop, and not what it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Calls `step()` as long as it has something to do, and sleeps until woken otherwise.

    `step` returns whether there was work and must not raise; `end` runs last, on the same thread.
    """

    def __init__(self, step: Callable[[], bool], end: Callable[[], None], *, name: str):
        self._step = step
        self._end = end
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is new work."""
        self._wake.set()

    @property
    def runs_here(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Finish what there is, then end. Does not wait; safe to call twice."""
        self._closing = True
        self._wake.set()

    def join(self) -> None:
        """Wait for the end, from another thread."""
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            closing = self._closing  # read before the last steps: what came before it is done
            while self._step():
                pass
            if closing:
                break
            self._wake.wait()
        self._end()
