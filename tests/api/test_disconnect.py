"""Over a real socket: a gone client cancels its work; shutting down finishes what runs."""

from __future__ import annotations

import json
import signal
import socket
import threading
from typing import Any

import httpx
import pytest
from sse_starlette.sse import AppStatus

BODY = {"prompt": "a", "response": "b"}
ASK, SAY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CHAT = {"model": "evenhand-generator", "messages": [ASK]}


def send(service: Any, path: str, body: Any) -> socket.socket:
    """Send a request and leave the socket open, the reply unread."""
    url = httpx.URL(service.url)
    data = json.dumps(body).encode()
    connection = socket.create_connection((url.host, url.port), timeout=5)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize(
    ("path", "body", "under_way"),
    [
        ("/v1/judge", BODY, 1),
        # A batch takes half of the queue at most.
        ("/v1/judge/batch", {"items": [{**BODY, "id": i} for i in range(20)]}, 4),
        ("/v1/generate", {"prompt": "a", "n": 2}, 1),
        ("/v1/respond", {"prompt": "a"}, 1),
        ("/v1/generate", {"prompt": "a", "stream": True}, 1),
        ("/v1/respond", {"prompt": "a", "stream": True}, 1),
        ("/v1/chat/completions", CHAT, 1),
        ("/v1/chat/completions", {**CHAT, "stream": True}, 1),
        ("/v1/chat/completions", {**CHAT, "model": "evenhand-judge", "messages": [ASK, SAY]}, 1),
    ],
)
def test_a_client_that_goes_away_cancels_its_work(
    start_server: Any, gate: Any, wait_until: Any, path: str, body: Any, under_way: int
) -> None:
    service = start_server({"fail": gate, "queue": 8}, queue=8, verdict_cache=0)
    engines = service.fakes.opened.values()
    with send(service, path, body):
        assert gate.reached.wait(5)
        # What is being submitted while the client goes is dropped only once it is submitted.
        wait_until(lambda: sum(len(e.futures) for e in engines) == under_way)
    wait_until(lambda: all(f.cancelled() for e in engines for f in e.futures))
    wait_until(lambda: service.pending("judge") == service.pending("generate") == 0)
    gate.open()
    # The engines are free for others, and what was cancelled is never evaluated.
    assert service.post("/v1/judge", BODY).status_code == 200
    assert sum(len(e.calls) for e in engines) <= 2


def test_a_client_that_goes_away_while_judging_cancels_the_judge(
    start_server: Any, gate: Any, wait_until: Any
) -> None:
    def fail(text: str) -> None:
        if "You label" in text:
            gate(text)

    for stream in (False, True):
        service = start_server({"fail": fail}, verdict_cache=0)
        with send(service, "/v1/respond", {"prompt": "a", "n": 3, "stream": stream}):
            wait_until(lambda s=service: len(s.fakes.judge.futures) == 3)
        wait_until(lambda s=service: all(f.cancelled() for f in s.fakes.judge.futures))
        assert service.fakes.generator.futures[0].done()


def test_it_is_counted_as_499(start_server: Any, gate: Any, wait_until: Any) -> None:
    service = start_server({"fail": gate})
    with send(service, "/v1/judge", BODY):
        assert gate.reached.wait(5)
    labels = {"method": "POST", "route": "/v1/judge", "status": "499"}
    value = service.metrics.registry.get_sample_value
    wait_until(lambda: value("evenhand_requests_total", labels) == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_shutting_down_finishes_what_runs_and_refuses_the_rest(
    start_server: Any, gate: Any, wait_until: Any, monkeypatch: Any, stream: bool
) -> None:
    service = start_server({"fail": gate})
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(service.post("/v1/respond", {"prompt": "a", "stream": stream}))

    thread = threading.Thread(target=ask)
    thread.start()
    assert gate.reached.wait(5)
    # What a signal calls; sse-starlette has put its own hook before it, for the whole process.
    monkeypatch.setattr(AppStatus, "should_exit", False)
    service.server.handle_exit(signal.SIGTERM, None)

    def refused() -> bool:
        try:
            with httpx.Client(base_url=service.url, timeout=1) as other:
                return other.get("/healthz").status_code == 503
        except httpx.TransportError:
            return True

    wait_until(refused)
    # Longer than the half second at which sse-starlette looks for a server that shuts down.
    thread.join(1.0)
    assert thread.is_alive()
    gate.open()
    thread.join(5)
    assert replies[0].status_code == 200
    if stream:
        assert "event: done" in replies[0].text
    else:
        assert replies[0].json()["results"][0]["verdict"]["status"] == "judged"
    wait_until(lambda: service.services.state()[0] == "closed")


def test_a_connection_kept_alive_is_refused_after_close(start: Any) -> None:
    service = start()
    service.services.close()
    reply = service.post("/v1/judge", BODY)
    assert reply.status_code == 503
    assert reply.json()["detail"] == "the service is shutting down"
    assert "retry-after" in reply.headers
    assert service.http.get("/readyz").status_code == 503


def test_work_that_an_engine_drops_is_503(start: Any, gate: Any, wait_until: Any) -> None:
    service = start({"fail": gate})
    replies: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda i=i: replies.append(service.post("/v1/generate", {"prompt": str(i)}))
        )
        for i in range(2)
    ]
    threads[0].start()
    assert gate.reached.wait(5)
    threads[1].start()
    wait_until(lambda: len(service.fakes.generator.futures) == 2)
    closing = threading.Thread(target=lambda: service.fakes.generator.close(drain=False))
    closing.start()
    wait_until(lambda: service.fakes.generator._dropping)
    gate.open()
    for thread in (*threads, closing):
        thread.join(5)
    assert sorted(r.status_code for r in replies) == [200, 503]
