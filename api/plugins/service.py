"""A judge that is an evenhand service: a `BaseJudge` over the client.

Knows how the service's verdicts and errors become a judge's. It knows no host and opens no model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from evenhand.api.client import Client
from evenhand.judge.base import QUEUE_PAUSE, BaseJudge
from evenhand.schemas.errors import (
    DeadlineExceeded,
    EvenhandError,
    InternalError,
    InvalidInput,
    QueueFull,
    Unavailable,
)
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.requests import BATCH_LIMIT, Item
from evenhand.schemas.verdict import Verdict

PARALLEL = 16  # requests under way at once; more would only wait in the service's queue
BATCH = 256


class ServiceJudge(BaseJudge):
    """Label responses with the judge of a running service, by its address.

    `taxonomy` is a name that the service knows; left out, its default one. The service is asked for
    it at once, so this raises what `Client` raises. `timeout` is in seconds, for one verdict with
    all waiting for room in the service's queue; `judge_many` gives up where none of the verdicts it
    waits for has come in that time. Verdicts carry the fingerprint that the service
    gave them; the judge's own is that of the last one.

        with ServiceJudge("http://127.0.0.1:8000") as judge:
            verdict = judge.judge("A prompt", "A response")
    """

    def __init__(
        self,
        url: str,
        taxonomy: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        retries: int = 3,
    ):
        self._client = Client(url, api_key=api_key, timeout=timeout, retries=retries)
        self._timeout = timeout
        try:
            default = next(card.name for card in self._client.taxonomies() if card.default)
            found = self._client.taxonomy(taxonomy or default).taxonomy
            cards = [card for card in self._client.models() if card.role == "judge"]
        except BaseException:
            self._client.close()
            raise
        super().__init__(url, found)
        self._fingerprint = fingerprint_of(service=url, taxonomy=found.digest_text())
        # The first card is that of the model itself, and speaks of the default taxonomy alone.
        if cards and cards[0].fingerprint is not None:
            self.name, self.model_sha256 = cards[0].name or url, cards[0].sha256
            if found.name == default:
                self._fingerprint = cards[0].fingerprint
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="evenhand-client")
        self._closed = False

    @property
    def fingerprint(self) -> str:
        """The service's, as it last told it."""
        return self._fingerprint

    def submit(
        self, prompt: str, response: str, *, reason: bool = False, deadline: float | None = None
    ) -> Future[Verdict]:
        """See `BaseJudge.submit`. A full queue of the service is waited out until the deadline."""
        if self._closed:
            raise Unavailable("the judge is closed", hint="Open another one.")
        last = time.monotonic() + self._timeout if deadline is None else deadline
        return self._pool.submit(self._ask, prompt, response, reason, last)

    def judge_many(
        self,
        items: Iterable[Item | tuple[str, str]],
        *,
        reason: bool = False,
        in_flight: int = BATCH,
    ) -> Iterator[Verdict]:
        """See `BaseJudge.judge_many`: `in_flight` items (1,000 at most) go in one request.

        What the service had no time for is asked for again, for as long as each request brings a
        verdict. A request that fails as a whole gives each of its items an error verdict.
        """
        if not 1 <= in_flight <= BATCH_LIMIT:
            raise InvalidInput(f"in_flight is {in_flight}", hint=f"Give 1 to {BATCH_LIMIT}.")
        stream = iter(items)
        while chunk := list(islice(stream, in_flight)):
            yield from self._ask_all(chunk, reason)

    def close(self) -> None:
        """Drop what waits and close the connections. Safe to call twice."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ask_all(self, chunk: Sequence[Item | tuple[str, str]], reason: bool) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        left = list(range(len(chunk)))
        while True:
            try:
                asked = self._client.judge_many(
                    [chunk[i] for i in left],
                    taxonomy=self.taxonomy.name,
                    reason=reason,
                    batch=len(left),
                )
                found |= zip(left, asked, strict=True)
            except EvenhandError as exc:
                found |= {i: self.failed(exc) for i in left}
                break
            self._fingerprint = found[left[-1]].fingerprint
            late = [i for i in left if _is_late(found[i])]
            if not late or len(late) == len(left):
                break
            left = late
        return [found[i] for i in range(len(chunk))]

    def _ask(self, prompt: str, response: str, reason: bool, deadline: float) -> Verdict:
        started = time.monotonic()
        try:
            while True:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded("there was no verdict by the deadline")
                try:
                    verdict = self._client.judge(
                        prompt, response, taxonomy=self.taxonomy.name, reason=reason
                    )
                    self._fingerprint = verdict.fingerprint  # the service may have been restarted
                    return verdict
                except QueueFull as exc:
                    time.sleep(exc.retry_after or QUEUE_PAUSE)
        except EvenhandError as exc:
            return self.failed(exc, seconds=time.monotonic() - started)
        except Exception as exc:
            return self.failed(InternalError(f"{type(exc).__name__}: {exc}"))


def _is_late(verdict: Verdict) -> bool:
    return verdict.failure is not None and verdict.failure.code == DeadlineExceeded.code
