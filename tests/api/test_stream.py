"""Server-sent events: tokens as they come, results, `done`; or one `error`."""

from __future__ import annotations

import json
from typing import Any

import pytest

Events = list[tuple[str, Any]]


def events_in(text: str) -> Events:
    found = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def streamed(service: Any, path: str, **body: Any) -> Events:
    reply = service.post(path, {"prompt": "a", "stream": True, **body})
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    return events_in(reply.text)


def test_respond_streams_tokens_then_results_then_done(start: Any) -> None:
    service = start({"reply": lambda _, seed: f"sample number {seed}", "pick": lambda _: "refusal"})
    events = streamed(service, "/v1/respond", n=2, seed=0)
    names = [name for name, _ in events]
    assert names == ["token"] * 6 + ["result"] * 2 + ["done"]
    for index in (0, 1):
        pieces = [data["text"] for name, data in events if name == "token"
                  and data["index"] == index]  # fmt: skip
        result = events[6 + index][1]
        assert "".join(pieces) == result["generation"]["text"] == f"sample number {index}"
        assert result["index"] == index
        assert result["verdict"]["label"] == "refusal"
    assert events[-1][1] == {"results": 2}


def test_generate_streams_without_verdicts(service: Any) -> None:
    events = streamed(service, "/v1/generate")
    assert [name for name, _ in events[-2:]] == ["result", "done"]
    assert set(events[-2][1]) == {"index", "generation"}


def test_a_stream_says_the_same_as_a_reply(service: Any) -> None:
    body = {"prompt": "a", "n": 3, "seed": 9}
    whole = service.post("/v1/respond", body).json()["results"]
    events = streamed(service, "/v1/respond", n=3, seed=9)
    results = [data for name, data in events if name == "result"]
    for one, other in zip(whole, results, strict=True):
        assert one["generation"]["text"] == other["generation"]["text"]
        assert one["verdict"]["probabilities"] == other["verdict"]["probabilities"]


def test_lines_are_ascii_so_that_no_client_splits_them(start: Any) -> None:
    text = "one\u2028two\u0085three\x1cfour\r\nfive"
    service = start({"reply": lambda *_: text})
    reply = service.post("/v1/generate", {"prompt": "a", "stream": True})
    assert reply.content.isascii()
    results = [data for name, data in events_in(reply.text) if name == "result"]
    assert results[0]["generation"]["text"] == text


def test_a_failure_in_the_middle_is_an_error_event(start: Any) -> None:
    def fail(_text: str) -> None:
        raise ZeroDivisionError("/secret/path")

    events = streamed(start({"fail": fail}), "/v1/respond")
    ((name, data),) = events
    assert name == "error"
    assert (data["code"], data["status"]) == ("internal_error", 500)
    assert "secret" not in str(data)


def test_a_deadline_in_the_middle_is_an_error_event(start_server: Any, gate: Any) -> None:
    service = start_server({"fail": gate})
    reply = service.post(
        "/v1/generate", {"prompt": "a", "stream": True}, headers={"x-request-timeout": "0.1"}
    )
    ((name, data),) = events_in(reply.text)
    assert (name, data["code"], data["status"]) == ("error", "deadline_exceeded", 504)
    assert service.fakes.generator.futures[0].cancelled()


def test_a_judge_that_fails_leaves_the_stream_whole(start: Any) -> None:
    def fail(text: str) -> None:
        if "You label" in text:
            raise ZeroDivisionError

    events = streamed(start({"fail": fail}), "/v1/respond")
    assert [name for name, _ in events[-2:]] == ["result", "done"]
    assert events[-2][1]["verdict"]["status"] == "error"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "a", "n": 0}, 422),
        ({"prompt": "a", "taxonomy": "nope"}, 404),
        ({"prompt": "a" * 2_000, "max_tokens": 1}, 422),
    ],
)
def test_what_is_wrong_with_the_request_is_told_by_the_status(
    start: Any, body: Any, status: int
) -> None:
    reply = start({"context": 1_000}).post("/v1/respond", {**body, "stream": True})
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
