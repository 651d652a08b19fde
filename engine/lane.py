"""One context at work: what is queued for it, the batch under way, and the thread that owns both.

Knows tasks and their turn. It does not know prompts, schemas or which other lanes there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from evenhand.engine.native import Batch, Context, Model
from evenhand.engine.scheduler import Scheduler
from evenhand.engine.settings import EngineSettings
from evenhand.engine.task import Task
from evenhand.engine.worker import Worker
from evenhand.schemas.errors import Unavailable


class Lane:
    """A context with its own queue and thread. What it is given is its share of the engine's.

    `alone`: it works on one task at a time (see `Scheduler`).
    `ended` is called on the lane's thread when it has done its last work. Raises `DecodeError`
    where llama.cpp cannot make the context.
    """

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        ended: Callable[[], None],
        *,
        n_ctx: int,
        n_threads: int,
        alone: bool,
        name: str,
    ):
        self.context = Context(model, settings, n_ctx=n_ctx, n_threads=n_threads)
        self.scheduler = Scheduler(
            self.context,
            queue=settings.queue,
            max_sequences=settings.max_sequences,
            score_parallel=settings.score_parallel or 1,
            alone=alone,
        )
        self._batch = Batch(self.context.n_batch)
        self._ended = ended
        self._drop = False
        self._worker = Worker(self._step_safely, self._free, name=name)

    @property
    def runs_here(self) -> bool:
        """Whether the caller is on this lane's thread."""
        return self._worker.runs_here

    def submit(self, tasks: Sequence[Task], *, admitted: bool = False) -> None:
        """Queue tasks, all or none. Raises `QueueFull` or `Unavailable`."""
        self.scheduler.submit(tasks, admitted=admitted)
        self._worker.wake()

    def stop(self, *, drain: bool) -> None:
        """Refuse new work, and end once the rest is done, or dropped without `drain`."""
        self.scheduler.shut()
        self._drop = self._drop or not drain
        self._worker.stop()

    def join(self) -> None:
        """Wait for the end. Not on a lane's own thread."""
        self._worker.join()

    # -- the loop, on the owner's thread ---------------------------------------------------------

    def step(self) -> bool:
        """Schedule, decode, collect. Returns whether anything ran."""
        started = time.monotonic()
        tasks = self.scheduler.schedule(self._batch)
        if not tasks:
            return False
        self.context.decode(self._batch)
        for task in tasks:
            try:
                task.collect(self.context)
            except Exception as exc:  # a caller's callback may raise anything
                self.scheduler.fail(task, exc)
            else:
                if task.done:
                    self.scheduler.finish(task, time.monotonic() - started)
        return True

    def _step_safely(self) -> bool:
        """A step whose failure reaches everyone who waits, and never kills the thread."""
        try:
            if self._drop:
                raise Unavailable("the engine was closed before the work was done")
            return self.step()
        except Exception as exc:
            self.scheduler.fail_all(exc, waiting=self._drop)
            return not self.scheduler.idle

    def _free(self) -> None:
        self.scheduler.end()
        self.context.close()
        self._ended()
