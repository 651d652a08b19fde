"""How async handlers run work that engines do on their own threads.

Knows futures, deadlines, full queues and clients that go away. It does not know routes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from evenhand.api.errors import public_verdict
from evenhand.api.metrics import CLIENT_GONE, Metrics
from evenhand.api.services import Services
from evenhand.judge.base import BaseJudge
from evenhand.schemas.errors import DeadlineExceeded, QueueFull, Unavailable
from evenhand.schemas.verdict import Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """What handlers need: the services, the counters, and `deadline` (of `time.monotonic()`)."""

    services: Services
    metrics: Metrics
    deadline: float

    async def start(self, kind: str, submit: Callable[[], Future[T]]) -> Future[T]:
        """Submit on a helper thread: tokenizing a long text or compiling a schema takes a while.

        Raises what `submit` raises, and `DeadlineExceeded`. Whoever is cancelled or too late here
        drops the work as soon as it is submitted.
        """
        task = asyncio.ensure_future(asyncio.to_thread(submit))
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                future = await asyncio.shield(task)
        except TimeoutError:
            if not task.done():
                task.add_done_callback(_drop)
                raise DeadlineExceeded("the deadline passed before the work began") from None
            future = task.result()  # came at the last moment; or its own TimeoutError
        except asyncio.CancelledError:
            task.add_done_callback(_drop)
            raise
        return self.metrics.track(kind, future)

    async def start_when_room(self, kind: str, submit: Callable[[], Future[T]]) -> Future[T]:
        """Submit, and wait for room in the queue until the deadline."""
        pause = 0.005
        while True:
            try:
                return await self.start(kind, submit)
            except QueueFull as exc:
                if time.monotonic() + pause > self.deadline:
                    raise DeadlineExceeded(
                        "the queue was full until the deadline passed",
                        hint="Send fewer items at once, or allow more time.",
                    ) from exc
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 0.25)

    async def result(self, future: Future[T]) -> T:
        """Wait for a future until the deadline. Cancelling the wait cancels the work."""
        waiter = asyncio.wrap_future(future)
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()  # came at the last moment; or its own TimeoutError
            raise DeadlineExceeded("the deadline passed before the work was done") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Unavailable("the service dropped the work: it is shutting down") from None

    async def verdict(self, judge: BaseJudge, prompt: str, response: str, reason: bool) -> Verdict:
        """Judge one response; whatever goes wrong becomes a verdict, too."""

        def submit() -> Future[Verdict]:
            return judge.submit(prompt, response, reason=reason, deadline=self.deadline)

        try:
            verdict = await self.result(await self.start_when_room("judge", submit))
        except Exception as exc:
            verdict = judge.failed(exc)
        return self.public(verdict)

    def public(self, verdict: Verdict) -> Verdict:
        """Count a verdict and keep a defect's message in the log."""
        self.metrics.saw(verdict)
        return public_verdict(verdict)


async def attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` for as long as the client is there; when it goes, cancel the work."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HTTPException(CLIENT_GONE, "the client went away")  # counted; nobody reads it
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _drop(task: asyncio.Future[Future[T]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().cancel()
