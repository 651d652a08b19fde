"""The client: five lines, the library's own types and errors, retries that lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from evenhand.api import client as client_module
from evenhand.api.client import Client
from evenhand.schemas import errors
from evenhand.schemas.requests import DoneEvent, Item, ResultEvent, TokenEvent
from evenhand.schemas.verdict import Status


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client would have made."""
    taken: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", taken.append)
    return taken


def canned(*replies: httpx.Response | Exception, **options: Any) -> Client:
    """A client of a server that gives these replies, the last one for ever."""
    left = list(replies)

    def handle(request: httpx.Request) -> httpx.Response:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return Client("http://service", transport=httpx.MockTransport(handle), **options)


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"type": "x", "title": "x", "status": status, "detail": "d", "code": code, "hint": "h"}
    headers = {"content-type": "application/problem+json", **headers}
    return httpx.Response(status, json=body, headers=headers)


def test_every_verb(start_server: Any) -> None:
    service = start_server({"pick": lambda _: "refusal"})
    with Client(service.url) as client:
        assert client.ready()
        client.wait_ready(1)
        assert len(client.generate("a", n=2, seed=1, temperature=0.5, system="s")) == 2
        verdict = client.judge("a", "b", reason=True)
        assert (verdict.label, verdict.status) == ("refusal", Status.JUDGED)
        assert verdict.reason
        results = client.respond("a", n=2, taxonomy="qos")
        assert [r.verdict.label for r in results] == ["refusal"] * 2
        assert [t.name for t in client.taxonomies()] == ["qos", "xstest"]
        assert client.taxonomy("qos").taxonomy.labels == verdict.labels
        assert [m.role for m in client.models()] == ["generator", "judge"]


def test_judge_many_streams_in_order_and_in_batches(start_server: Any) -> None:
    service = start_server({"pick": lambda t: "refusal" if "No." in t else "helpful_answer"})
    drawn = 0

    def items() -> Iterator[Any]:
        nonlocal drawn
        for i in range(25):
            drawn += 1
            yield [Item(prompt="a", response="No.", id=i), {"prompt": "a", "response": "Yes."},
                   ("a", "No."), {"prompt": "a"}][i % 4]  # fmt: skip

    with Client(service.url) as client:
        verdicts = client.judge_many(items(), batch=10)
        first = next(verdicts)
        assert drawn == 10, "no more than a batch is held"
        labels = [first.label, *(v.label for v in verdicts)]
    expected = ["refusal", "helpful_answer", "refusal", None]
    assert labels == [expected[i % 4] for i in range(25)]


@pytest.mark.parametrize("batch", [0, 1_001])
def test_judge_many_refuses_a_batch_of_another_size(batch: int) -> None:
    with pytest.raises(errors.InvalidInput, match="batch"):
        next(canned(httpx.Response(200)).judge_many([("a", "b")], batch=batch))


def test_stream_yields_events(start_server: Any) -> None:
    text = "one\u2028two three"
    service = start_server({"reply": lambda *_: text})
    with Client(service.url) as client:
        events = list(client.stream("a", n=2))
        tokens = [e for e in events if isinstance(e, TokenEvent)]
        results = [e for e in events if isinstance(e, ResultEvent)]
        assert "".join(t.text for t in tokens if t.index == 1) == text
        assert [r.generation.text for r in results] == [text] * 2
        assert all(r.verdict is not None and r.verdict.label for r in results)
        assert events[-1] == DoneEvent(results=2)
        plain = list(client.stream("a", judge=False))
        assert all(e.verdict is None for e in plain if isinstance(e, ResultEvent))


def test_closing_a_stream_cancels_the_work(start_server: Any, gate: Any, wait_until: Any) -> None:
    def fail(text: str) -> None:
        if "You label" in text:
            gate(text)

    service = start_server({"fail": fail})
    with Client(service.url) as client:
        events = client.stream("a")
        assert isinstance(next(events), TokenEvent)
        assert gate.reached.wait(5)
        events.close()  # type: ignore[attr-defined]
        wait_until(lambda: all(f.cancelled() for f in service.fakes.judge.futures))


def test_an_error_in_a_stream_is_raised(start_server: Any) -> None:
    def fail(_text: str) -> None:
        raise errors.RemoteError("the other server is down")

    with (
        Client(start_server({"fail": fail}).url) as client,
        pytest.raises(errors.RemoteError, match="the other server is down"),
    ):
        list(client.stream("a"))


def test_a_stream_that_breaks_off_is_an_error() -> None:
    half = httpx.Response(200, text='event: token\ndata: {"index": 0, "text": "a"}\n\n: ping\n\n')
    events = canned(half).stream("a")
    assert next(events) == TokenEvent(index=0, text="a")
    with pytest.raises(errors.RemoteError, match="broke off"):
        next(events)


def test_problems_become_the_librarys_errors(start_server: Any, gate: Any) -> None:
    service = start_server({"fail": gate}, api_keys=("a-key-of-length",))
    with (
        Client(service.url) as stranger,
        pytest.raises(errors.Unauthorized, match="API key is missing") as caught,
    ):
        stranger.judge("a", "b")
    assert caught.value.hint
    with Client(service.url, api_key="a-key-of-length", timeout=0.2) as client:
        with pytest.raises(errors.NotFound, match="no taxonomy called 'nope'") as missing:
            client.judge("a", "b", taxonomy="nope")
        assert "qos" in missing.value.hint
        with pytest.raises(errors.InvalidInput, match=r"body\.n: "):
            client.generate("a", n=0)
        with pytest.raises(errors.InvalidInput, match=r"body\.prompt"):
            client.judge(1, "b")  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidInput, match="cannot be written as JSON"):
            client.generate("a", temperature=float("nan"))
        with pytest.raises(errors.DeadlineExceeded):
            client.judge("a", "b")


def test_half_a_surrogate_pair_can_be_sent(start_server: Any) -> None:
    with Client(start_server().url) as client:
        assert client.judge("\ud800", "b").status is Status.JUDGED


def test_retries_wait_as_long_as_they_are_told_with_jitter(naps: list[float]) -> None:
    full = problem(429, "queue_full", **{"retry-after": "3"})
    client = canned(full, full, httpx.Response(200, json={"object": "list", "data": []}))
    assert client.models() == []
    assert len(naps) == 2
    assert all(3.0 <= nap <= 4.5 for nap in naps)
    assert naps[0] != naps[1]


def test_retries_are_bounded_and_the_last_error_is_raised(naps: list[float]) -> None:
    with pytest.raises(errors.QueueFull) as caught:
        canned(problem(429, "queue_full", **{"retry-after": "7"}), retries=3).models()
    assert len(naps) == 3
    assert caught.value.retry_after == 7
    assert caught.value.hint == "h"
    naps.clear()
    with pytest.raises(errors.Unavailable):
        canned(problem(503, "unavailable", **{"retry-after": "1000"}), retries=9).models()
    assert max(naps) <= 45


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(504, "deadline_exceeded"), errors.DeadlineExceeded),
        (problem(502, "remote_error"), errors.RemoteError),
        (problem(500, "internal_error"), errors.InternalError),
        (problem(422, "input_too_long"), errors.InputTooLong),
        (httpx.Response(502, text="<html>bad gateway</html>"), errors.RemoteError),
        (httpx.Response(404, text="no"), errors.RequestError),
        (httpx.Response(200, text="hello"), errors.RemoteError),
        (httpx.Response(200, json={"data": 1}), errors.RemoteError),
        (httpx.ReadTimeout("slow"), errors.DeadlineExceeded),
        (httpx.ReadError("broken"), errors.RemoteError),
    ],
)
def test_what_a_retry_would_not_mend_is_raised_at_once(
    naps: list[float], reply: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        canned(reply).models()
    assert naps == []


def test_a_proxys_503_is_tried_again(naps: list[float]) -> None:
    ok = httpx.Response(200, json={"object": "list", "data": []})
    assert canned(httpx.Response(503, text="busy"), ok).models() == []
    assert len(naps) == 1


def test_a_service_that_is_not_there(naps: list[float]) -> None:
    with pytest.raises(errors.Unavailable, match="cannot reach") as caught:
        canned(httpx.ConnectError("refused"), retries=2).models()
    assert "evenhand serve" in caught.value.hint
    assert len(naps) == 2


def test_wait_ready_waits_and_tells_the_reason(start: Any) -> None:
    with canned(problem(503, "unavailable"), problem(503, "unavailable"),
                httpx.Response(200, json={"status": "ready"})) as client:  # fmt: skip
        client.wait_ready(5)
    with canned(problem(503, "unavailable")) as client:
        assert not client.ready()
        with pytest.raises(errors.Unavailable, match="d"):
            client.wait_ready(0.1)


def test_two_hundred_requests_through_a_queue_of_32_lose_nothing(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_server({"queue": 32, "delay": 0.001}, queue=32, verdict_cache=0)
    refused = 0
    lock = threading.Lock()
    pause = client_module._pause

    def watched(error: Any, attempt: int) -> float:
        nonlocal refused
        with lock:
            refused += 1
        assert isinstance(error, errors.QueueFull)
        return pause(error, attempt) / 5  # the test has less patience than the service asks for

    monkeypatch.setattr(client_module, "_pause", watched)
    barrier = threading.Barrier(200)

    with Client(service.url, retries=20) as client:

        def ask(i: int) -> tuple[int, str]:
            barrier.wait(10)
            return i, client.judge("a", f"response {i}").status

        with ThreadPoolExecutor(200) as pool:
            statuses = dict(pool.map(ask, range(200)))
    assert statuses == dict.fromkeys(range(200), "judged")
    seen = [text for _, text in service.fakes.judge.calls]
    assert all(sum(f"response {i}\n" in text for text in seen) == 1 for i in range(200))
    assert refused > 0, "the queue was never full"
    assert service.pending("judge") == 0
