"""A stand-in for an OpenAI-compatible server, over a real socket, that misbehaves when told to.

Each POST takes the next scripted step, or the last one again when they run out. A step is a
function of the handler and the request's JSON; the makers below cover what servers do.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Callable[["Handler", dict[str, Any]], None]
MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "me", "created": 1}]}


@dataclass
class StandIn:
    """The server's address, its script, and what it was asked."""

    url: str = ""
    steps: list[Step] = field(default_factory=list)
    models: Step | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lost: threading.Event = field(default_factory=threading.Event)  # a client hung up on us
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    most_at_once: int = 0
    at_once: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    standin: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        (self.standin.models or json_reply(MODELS))(self, {})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not raw:  # the client hung up in mid-request
            self.close_connection = True
            return
        body = json.loads(raw)
        with self.standin.lock:
            self.standin.requests.append(body)
            self.standin.paths.append(self.path)
            self.standin.headers.append(dict(self.headers))
            self.standin.times.append(time.monotonic())
            steps = self.standin.steps
            step = steps.pop(0) if len(steps) > 1 else steps[0]
            self.standin.at_once += 1
            self.standin.most_at_once = max(self.standin.most_at_once, self.standin.at_once)
        try:
            step(self, body)
        except ConnectionError:  # the client hung up on the answer
            self.close_connection = True
        finally:
            with self.standin.lock:
                self.standin.at_once -= 1

    def send_bytes(self, status: int, raw: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@contextmanager
def stand_in(*steps: Step, models: Step | None = None) -> Iterator[StandIn]:
    standin = StandIn(steps=list(steps) or [chat("hello")], models=models)
    handler = type("H", (Handler,), {"standin": standin})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    standin.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        standin.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


# -- steps ----------------------------------------------------------------------------------------


def json_reply(data: object, status: int = 200, **headers: str) -> Step:
    def step(handler: Handler, _: dict[str, Any]) -> None:
        handler.send_bytes(
            status, json.dumps(data).encode(), Content_Type="application/json", **headers
        )

    return step


def raw_reply(raw: bytes, status: int = 200, **headers: str) -> Step:
    return lambda handler, _: handler.send_bytes(status, raw, **headers)


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Step:
    return json_reply({"error": {"message": message, "code": code}}, status, **headers)


def completion(content: object, finish: str | None = "stop", **choice: object) -> dict[str, object]:
    return {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": finish,
                **choice,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def chat(content: object, finish: str | None = "stop", **choice: object) -> Step:
    return json_reply(completion(content, finish, **choice))


def hang(handler: Handler, _: dict[str, Any]) -> None:
    """Say nothing until the client hangs up or the test ends."""
    handler.connection.settimeout(0.02)
    while not handler.standin.stopping.is_set():
        try:
            if handler.connection.recv(1) == b"":
                handler.standin.lost.set()
                break
        except TimeoutError:
            continue
        except OSError:
            handler.standin.lost.set()
            break
    handler.close_connection = True


def hang_up(handler: Handler, _: dict[str, Any]) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.rfile.close()  # it holds the socket open as well
    handler.connection.close()


def reset(handler: Handler, _: dict[str, Any]) -> None:
    """End the connection with a reset, which no client can take for an end."""
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hang_up(handler, {})


def cut_short(handler: Handler, _: dict[str, Any]) -> None:
    """Promise more bytes than are sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def slowly(seconds: float, then: Step) -> Step:
    def step(handler: Handler, body: dict[str, Any]) -> None:
        handler.standin.stopping.wait(seconds)
        then(handler, body)

    return step


def stream(
    pieces: Iterable[str],
    *,
    finish: str | None = "stop",
    done: bool = True,
    usage: bool = True,
    then: Step | None = None,
) -> Step:
    """Server-sent events, one per piece; `then` takes over before the end."""

    def step(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()

        def send(data: object) -> None:
            handler.wfile.write(f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())
            handler.wfile.flush()

        handler.wfile.write(b": a comment\r\n\r\n")
        raw = "messages" not in body
        for piece in pieces:
            send({"choices": [{"text": piece} if raw else {"delta": {"content": piece}}]})
        if then is not None:
            then(handler, body)
            return
        if finish is not None:
            send({"choices": [{"delta": {}, "finish_reason": finish}]})
        if usage:
            send({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")
        handler.close_connection = True

    return step
