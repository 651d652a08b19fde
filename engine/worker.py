"""The thread that owns a context. It knows how to sleep, wake and stop, and not what it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Calls `step()` as long as it has something to do, and sleeps until woken otherwise.

    `step` returns whether there was work and must not raise; `stop` runs last, on the same thread.
    """

    def __init__(self, step: Callable[[], bool], stop: Callable[[], None], *, name: str):
        self._step = step
        self._stop = stop
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is new work."""
        self._wake.set()

    def close(self) -> None:
        """Finish what there is, then stop. Waits; safe to call twice and from any thread."""
        self._closing = True
        self._wake.set()
        if threading.current_thread() is not self._thread:
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
        self._stop()
