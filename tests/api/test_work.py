"""How handlers wait for work that is slow to begin."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Any, cast

import pytest

from evenhand.api.metrics import Metrics
from evenhand.api.services import Services
from evenhand.api.work import Work
from evenhand.schemas.errors import DeadlineExceeded


def work_of(seconds: float) -> Work:
    return Work(cast(Services, None), Metrics(), time.monotonic() + seconds)


def test_the_deadline_ends_the_wait_for_a_slow_submission_and_its_work_is_dropped() -> None:
    go_on = threading.Event()
    submitted: Future[int] = Future()

    def slow() -> Future[int]:
        assert go_on.wait(30)
        return submitted

    async def main() -> None:
        try:
            with pytest.raises(DeadlineExceeded, match="before the work began"):
                await work_of(0.05).start("generate", slow)
            assert not submitted.cancelled()
        finally:
            go_on.set()
        async with asyncio.timeout(30):
            while not submitted.cancelled():
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_submission_in_time_is_tracked_and_its_errors_are_its_own() -> None:
    done: Future[int] = Future()
    done.set_result(3)

    def broken() -> Any:
        raise TimeoutError("its own")

    async def main() -> None:
        assert (await work_of(30).start("generate", lambda: done)).result() == 3
        with pytest.raises(TimeoutError, match="its own"):
            await work_of(30).start("generate", broken)

    asyncio.run(main())
