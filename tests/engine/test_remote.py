"""The HTTP core against a server that misbehaves, over a real socket."""

from __future__ import annotations

import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import pytest
from standin import (
    MODELS,
    StandIn,
    Step,
    chat,
    cut_short,
    error,
    hang,
    hang_up,
    json_reply,
    raw_reply,
    reset,
    slowly,
    stand_in,
    stream,
)

from evenhand.engine.pool import Call
from evenhand.engine.remote import RemoteAddress, RemoteServer, _Line
from evenhand.engine.reply import Reply
from evenhand.schemas.errors import (
    DeadlineExceeded,
    EvenhandError,
    InputTooLong,
    InvalidInput,
    QueueFull,
    RemoteError,
    RemoteRefused,
    RequestError,
    RetryableError,
    SettingsError,
    Unavailable,
)


@contextmanager
def server(
    *steps: Step, models: Step | None = None, **options: Any
) -> Iterator[tuple[StandIn, RemoteServer]]:
    with stand_in(*steps, models=models) as standin:
        remote = RemoteServer(standin.url, **{"backoff": 0.01, "timeout": 5.0, **options})
        try:
            yield standin, remote
        finally:
            remote.close()


def ask(
    remote: RemoteServer,
    on_text: Callable[[str], None] | None = None,
    deadline: float | None = None,
) -> Future[Reply]:
    body = {"model": "m", "messages": []}
    [future] = remote.submit(
        [lambda call: remote.complete(call, "/chat/completions", body, on_text=on_text)],
        deadline=deadline,
    )
    return future


@pytest.mark.parametrize(
    "first",
    [
        error(500),
        error(502),
        error(503),
        error(408),
        error(409),
        error(429),
        raw_reply(b"<html>Bad gateway</html>", 502),
        hang_up,
        cut_short,
    ],
    ids=["500", "502", "503", "408", "409", "429", "html", "hang_up", "cut_short"],
)
def test_what_may_pass_is_tried_again(first: Step) -> None:
    with server(first, chat("at last")) as (standin, remote):
        assert ask(remote).result(5).text == "at last"
        assert len(standin.requests) == 2


@pytest.mark.parametrize(
    ("step", "expected", "said"),
    [
        (error(400, "bad field"), RemoteRefused, "bad field"),
        (error(401, "who?"), RemoteRefused, "401"),
        (error(403, "not you"), RemoteRefused, "403"),
        (error(404, "no such model"), RemoteRefused, "no such model"),
        (error(422), RemoteRefused, "422"),
        (error(501), RemoteRefused, "501"),
        (raw_reply(b"", 302, Location="http://example.org"), RemoteRefused, "302"),
        (error(400, "This model's maximum context length is 10"), InputTooLong, "maximum"),
        (error(400, "x", "context_length_exceeded"), InputTooLong, "400"),
        (
            json_reply({"error": {"message": "m", "type": "exceed_context_size_error"}}, 400),
            InputTooLong,
            "400",
        ),
        (raw_reply(b'{"choices": [{"mess'), RemoteError, "not whole JSON"),
        (raw_reply(b"<html>Welcome</html>"), RemoteError, "not whole JSON"),
        (raw_reply(b""), RemoteError, "not whole JSON"),
        (json_reply({"choices": []}), RemoteError, "no choices"),
        (json_reply({}), RemoteError, "no choices"),
        (json_reply([]), RemoteError, "no choices"),
        (json_reply({"choices": [{}]}), RemoteError, "without a message"),
        (json_reply({"choices": [None]}), RemoteError, "no choices"),
        (json_reply({"error": {"message": "overloaded"}}), RemoteError, "overloaded"),
        (chat(7), RemoteError, "int for a text"),
    ],
)
def test_what_cannot_pass_is_said_at_once(
    step: Step, expected: type[EvenhandError], said: str
) -> None:
    with server(step) as (standin, remote):
        with pytest.raises(expected, match=said) as caught:
            ask(remote).result(5)
        assert caught.value.hint
        assert len(standin.requests) == 1


def test_a_refused_key_is_the_callers_to_mend_and_not_shown() -> None:
    with (
        server(error(401, "Incorrect API key: sk-secret"), api_key="sk-secret") as (_, remote),
        pytest.raises(RemoteRefused) as caught,
    ):
        ask(remote).result(5)
    assert isinstance(caught.value, RequestError)
    assert "API key" in caught.value.hint
    assert "sk-secret" not in str(caught.value)


def test_the_key_is_sent_and_kept_out_of_names() -> None:
    with stand_in() as standin:
        url = standin.url.replace("http://", "http://user:pass@")
        remote = RemoteServer(url, "m", api_key="sk-x")
        ask(remote).result(5)
        remote.close()
        assert "Bearer sk-x" in standin.headers[0].values()
        assert "pass" not in remote.name
        assert "pass" not in str(remote.identity())


def test_attempts_are_bounded_and_grow_apart() -> None:
    with server(error(500, "still down"), attempts=4, backoff=0.04) as (standin, remote):
        with pytest.raises(RemoteError, match="still down") as caught:
            ask(remote).result(10)
        assert caught.value.status == 500
        assert len(standin.requests) == 4
        gaps = [b - a for a, b in zip(standin.times, standin.times[1:], strict=False)]
        for gap, whole in zip(gaps, (0.04, 0.08, 0.16), strict=True):
            assert gap >= whole / 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry_After": "0.3"},
        {"retry_after_ms": "300"},
        {"Retry_After": email.utils.formatdate(time.time() + 3600)},
    ],
)
def test_retry_after_is_honoured(headers: dict[str, str]) -> None:
    with server(error(429, **headers), chat("ok")) as (standin, remote):
        future = ask(remote)
        if "GMT" in str(headers) or "-0000" in str(headers):  # an hour: longer than is waited for
            with pytest.raises(RemoteError) as caught:
                future.result(5)
            assert (caught.value.retry_after or 0) > 3000
            return
        assert future.result(5).text == "ok"
        assert standin.times[1] - standin.times[0] >= 0.29


@pytest.mark.parametrize("value", ["nonsense", "-5", "nan", ""])
def test_a_senseless_retry_after_does_no_harm(value: str) -> None:
    with server(error(429, Retry_After=value), chat("ok")) as (_, remote):
        assert ask(remote).result(5).text == "ok"


def test_silence_ends_in_an_error_and_is_not_repeated() -> None:
    with server(hang, timeout=0.2) as (standin, remote):
        with pytest.raises(RemoteError, match=r"silent for 0\.2 seconds"):
            ask(remote).result(5)
        assert len(standin.requests) == 1


def test_a_deadline_passes_in_mid_read_and_cuts_the_connection() -> None:
    with server(hang) as (standin, remote):
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            ask(remote, deadline=started + 0.2).result(5)
        assert time.monotonic() - started < 1.0
        assert standin.lost.wait(2)


def test_a_deadline_passes_while_waiting_for_a_thread() -> None:
    with server(hang, parallel=1) as (_, remote):
        first = ask(remote)
        with pytest.raises(DeadlineExceeded):
            ask(remote, deadline=time.monotonic() + 0.1).result(2)
        first.cancel()


def test_no_pause_is_begun_that_would_outlast_the_deadline() -> None:
    with server(error(429, "busy", Retry_After="30")) as (_, remote):
        started = time.monotonic()
        with pytest.raises(RetryableError):
            ask(remote, deadline=started + 5).result(2)


def test_cancelling_cuts_the_connection_and_frees_the_thread() -> None:
    with server(hang, chat("next"), parallel=1) as (standin, remote):
        future = ask(remote)
        while not standin.requests:
            time.sleep(0.005)
        assert future.cancel()
        assert standin.lost.wait(2)
        assert ask(remote).result(2).text == "next"
        with pytest.raises(CancelledError):
            future.result()


def test_a_call_stopped_while_it_connects_is_cut_as_soon_as_it_has() -> None:
    """The socket is not there yet when the call is stopped, so nothing can be cut then."""

    class Stream:
        def get_extra_info(self, _: str) -> socket.socket:
            return ours

    ours, theirs = socket.socketpair()
    theirs.settimeout(1)
    line, call = _Line(ssl.create_default_context()), Call()
    call.stop()
    line.tracer(call)("connection.connect_tcp.complete", {"return_value": Stream()})
    assert theirs.recv(1) == b""
    for end in (ours, theirs):
        end.close()
    line.client.close()


def test_cancelling_ends_a_pause_between_attempts() -> None:
    with server(error(429, Retry_After="20"), chat("next"), parallel=1) as (standin, remote):
        future = ask(remote)
        while not standin.requests:
            time.sleep(0.005)
        time.sleep(0.05)
        future.cancel()
        assert ask(remote).result(2).text == "next"


def test_parallel_is_a_limit_and_the_queue_is_bounded() -> None:
    with server(slowly(0.1, chat("ok")), parallel=2, queue=2) as (standin, remote):
        futures = [ask(remote) for _ in range(4)]
        with pytest.raises(QueueFull):
            ask(remote)
        assert all(f.result(5).text == "ok" for f in futures)
        assert standin.most_at_once == 2
        assert ask(remote).result(5).text == "ok"  # there is room again


def test_room_is_free_as_soon_as_a_result_is_known() -> None:
    with server(chat("ok"), parallel=1, queue=0) as (_, remote):
        for _i in range(20):
            assert ask(remote).result(5).text == "ok"


def test_many_are_let_in_together_or_not_at_all() -> None:
    with server(slowly(0.1, chat("ok")), parallel=1, queue=1) as (standin, remote):
        works = [lambda call: remote.complete(call, "/chat/completions", {"messages": []})] * 3
        with pytest.raises(QueueFull):
            remote.submit(works)
        assert standin.requests == []


def test_closing_drops_what_is_under_way_and_refuses_more() -> None:
    with stand_in(hang) as standin:
        remote = RemoteServer(standin.url, backoff=0)
        future = ask(remote)
        while not standin.requests:
            time.sleep(0.005)
        remote.close()
        remote.close()
        with pytest.raises(Unavailable):
            future.result(1)
        with pytest.raises(Unavailable):
            ask(remote)


# -- streaming ---------------------------------------------------------------------------------


def test_a_stream_is_handed_out_piece_by_piece() -> None:
    # U+2028 and NEL end lines for str.splitlines, and may stand inside JSON.
    pieces = ["a\u2028b", "", "\u0085é", "😀"]
    got: list[str] = []
    with server(stream(pieces)) as (standin, remote):
        reply = ask(remote, got.append).result(5)
    assert got == ["a\u2028b", "\u0085é", "😀"]
    assert reply.text == "".join(got)
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("stop", 7, 3)
    assert standin.requests[0]["stream"] is True


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (stream(["half"], then=hang_up), "broke off|cannot be reached"),
        (stream(["half"], then=slowly(0.1, reset)), "broke off: .* cannot be reached"),
        (stream(["half"], finish=None, done=False), "broke off"),
        (
            stream(
                ["half"], then=lambda h, _: h.wfile.write(b'data: {"error": "oom"}\n\n') and None
            ),
            "oom",
        ),
        (
            stream(["half"], then=lambda h, _: h.wfile.write(b'error: {"code": 500}\n\n') and None),
            "500",
        ),
        (stream(["half"], then=lambda h, _: h.wfile.write(b"data: {tr\n\n") and None), "JSON"),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer_and_not_begun_again(step: Step, said: str) -> None:
    got: list[str] = []
    with server(step) as (standin, remote):
        with pytest.raises(RemoteError, match=said):
            ask(remote, got.append).result(5)
        assert got == ["half"]
        assert len(standin.requests) == 1


def test_a_stream_that_never_began_is_tried_again() -> None:
    got: list[str] = []
    with server(error(503), hang_up, stream(["ok"])) as (standin, remote):
        assert ask(remote, got.append).result(5).text == "ok"
    assert got == ["ok"]
    assert len(standin.requests) == 3


def test_cancelling_a_stream_hangs_up() -> None:
    begun = threading.Event()
    with server(stream(["half"], then=hang)) as (standin, remote):
        future = ask(remote, lambda _: begun.set())
        assert begun.wait(2)
        future.cancel()
        assert standin.lost.wait(2)


def test_an_error_of_the_listener_is_passed_on() -> None:
    def listen(_: str) -> None:
        raise RuntimeError("listener")

    with (
        server(stream(["x"])) as (_, remote),
        pytest.raises(RuntimeError, match="listener"),
    ):
        ask(remote, listen).result(5)


# -- opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listing", "dialect"),
    [
        ({"id": "m", "owned_by": "llamacpp", "meta": {"n_params": 5}}, "llama.cpp"),
        ({"id": "m", "owned_by": "vllm", "root": "org/m"}, "vllm"),
        ({"id": "m", "owned_by": "openai"}, "openai"),
        ({"id": "m"}, "openai"),
    ],
)
def test_the_server_says_what_it_is(listing: dict[str, Any], dialect: str) -> None:
    listed = {"data": [{**listing, "created": 123, "permission": [{"id": "random"}]}]}
    with server(models=json_reply(listed)) as (_, remote):
        assert remote.model == "m"
        assert remote.dialect == dialect
        assert remote.listing == listing  # nothing that changes from call to call


@pytest.mark.parametrize(
    "models", [error(404), error(405), json_reply({"data": "?"}), json_reply([1]), error(501)]
)
def test_a_server_without_a_listing_works_with_a_named_model(models: Step) -> None:
    with server(models=models, model="named") as (_, remote):
        assert remote.listing is None
        assert ask(remote).result(5).text == "hello"
    with stand_in(models=models) as standin, pytest.raises(InvalidInput, match="no models"):
        RemoteServer(standin.url)


def test_of_several_models_one_must_be_named() -> None:
    two = {"data": [*MODELS["data"], {"id": "n"}]}  # type: ignore[misc]
    with stand_in(models=json_reply(two)) as standin:
        with pytest.raises(InvalidInput, match="2 models") as caught:
            RemoteServer(standin.url)
        assert "m, n" in caught.value.hint


def test_a_wrong_key_or_address_shows_when_opening() -> None:
    with (
        stand_in(models=error(401)) as standin,
        pytest.raises(RemoteRefused, match="401"),
    ):
        RemoteServer(standin.url, "m")
    with (
        stand_in(models=raw_reply(b"<html>hi</html>")) as standin,
        pytest.raises(RemoteError, match="not whole JSON"),
    ):
        RemoteServer(standin.url, "m")
    with pytest.raises(RemoteError, match="cannot be reached"):
        RemoteServer("http://127.0.0.1:9/v1", "m", attempts=2, backoff=0.01)


@pytest.mark.parametrize("key", ["", "a b", "a\nX-Evil: 1", "schlüssel"])
def test_a_key_that_cannot_be_a_header_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match="API key"):
        RemoteServer("http://127.0.0.1:9/v1", "m", api_key=key)


@pytest.mark.parametrize(
    ("spec", "base_url", "model"),
    [
        ("remote:http://h:1/v1#m", "http://h:1/v1", "m"),
        ("remote:http://h:1/v1/#a/b:c#d", "http://h:1/v1", "a/b:c#d"),
        ("remote:https://h", "https://h", None),
        ("remote:https://h/v1#", "https://h/v1", None),
    ],
)
def test_addresses(spec: str, base_url: str, model: str | None) -> None:
    assert RemoteAddress.parse(spec) == RemoteAddress(base_url, model)


@pytest.mark.parametrize("spec", ["remote:", "remote:h:1", "remote:ftp://h/v1#m", "remote:http://"])
def test_broken_addresses(spec: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        RemoteAddress.parse(spec)
    assert "remote:http://HOST:PORT/v1#MODEL" in caught.value.hint


def test_half_a_character_does_not_stop_a_request() -> None:
    with server() as (standin, remote):
        body = {"messages": [{"role": "user", "content": "a\ud800b\x00"}]}
        [future] = remote.submit([lambda call: remote.complete(call, "/chat/completions", body)])
        future.result(5)
        assert standin.requests[0]["messages"][0]["content"] == "a\ufffdb\x00"
