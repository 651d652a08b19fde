"""An OpenAI-compatible server over HTTP: retries, deadlines, a concurrency limit, clear errors.

Shared by remote generators and remote judges. Knows addresses, headers and statuses; what stands
in the answers is `reply.py`'s, and who may wait how long is `pool.py`'s.
"""

from __future__ import annotations

import email.utils
import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, NoReturn, Self, TypeVar

import httpx

from evenhand.engine.pool import Call, CallPool
from evenhand.engine.reply import Reply, error_in, parse_json, read_events, read_reply, read_stream
from evenhand.schemas.errors import (
    EvenhandError,
    InputTooLong,
    InvalidInput,
    RemoteError,
    RemoteRefused,
    SettingsError,
)
from evenhand.schemas.text import clean

T = TypeVar("T")

REMOTE_SCHEME = "remote:"
Dialect = Literal["openai", "llama.cpp", "vllm"]

_HINT = "Write remote:http://HOST:PORT/v1#MODEL."
_CONNECT_SECONDS = 10.0
_LONGEST_PAUSE = 60.0  # a server that asks for more is not waited for
_ANSWER_BYTES = 64 * 2**20
_RETRIED = {408, 409, 425, 429}
_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|maximum context length|context (?:size|window)",
    re.IGNORECASE,
)
# What in a model's listing says which model it is; the rest changes from call to call.
_LASTING = ("id", "root", "owned_by", "max_model_len", "meta")


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """Where a remote model is: the base URL of the API and the model's name there."""

    base_url: str
    model: str | None = None

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read `remote:http://HOST:PORT/v1#MODEL`. Raises `InvalidInput`."""
        text, _, model = spec.removeprefix(REMOTE_SCHEME).partition("#")
        return cls(str(_checked_url(text)).rstrip("/"), model or None)


class RemoteServer:
    """One model on one server.

    `model` None takes the only model that the server lists. `timeout` is the longest silence of
    the server in seconds. A call is tried `attempts` times in all. `parallel` calls run at once,
    and `queue` more may wait. `dialect` says which sampling fields beyond OpenAI's the server
    takes; None goes by what it says of itself.

    Opening asks the server for its models, so that a wrong address or key shows at once. Raises
    `RemoteRefused` or `RemoteError`.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        attempts: int = 5,
        backoff: float = 0.5,
        parallel: int = 8,
        queue: int = 256,
        dialect: Dialect | None = None,
    ):
        url = _checked_url(base_url)
        if timeout <= 0 or attempts < 1 or backoff < 0 or parallel < 1 or queue < 0:
            raise SettingsError(
                "timeout, attempts, backoff, parallel or queue of a remote server is out of range",
                hint="Use a timeout above 0, attempts and parallel from 1, the others from 0.",
            )
        self._url = str(url).rstrip("/")
        # Without a user and password in the address, which end up in records.
        self.base_url = str(url.copy_with(userinfo=b"")).rstrip("/")
        self._api_key = api_key
        self._headers = {
            "User-Agent": f"evenhand/{version('evenhand')}",
            "Content-Type": "application/json",
        }
        if api_key is not None:
            if not re.fullmatch(r"[\x21-\x7e]+", api_key):
                raise SettingsError(
                    "the API key has spaces or characters beyond ASCII", hint="Copy it again."
                )
            self._headers["Authorization"] = f"Bearer {api_key}"
            self._url = self.base_url  # httpx would send the address's user and password instead
        self._timeout = timeout
        self._attempts = attempts
        self._backoff = backoff
        self._tls = httpx.create_ssl_context()  # made once: reading the certificates is slow
        self._local = threading.local()
        self._lines: list[_Line] = []
        self._pool = CallPool(threads=parallel, queue=queue, name="evenhand-remote")
        try:
            listed = self._list_models()
            self.model = model or _only(listed, self.base_url)
        except BaseException:
            self.close()
            raise
        entry = next((m for m in listed if m.get("id") == self.model), None)
        if entry is None and len(listed) == 1:  # llama-server takes any name for its one model
            entry = listed[0]
        self.listing = {k: entry[k] for k in _LASTING if k in entry} if entry else None
        self.dialect: Dialect = dialect or _dialect(self.listing)

    @property
    def name(self) -> str:
        """The spec that leads here, without secrets."""
        return f"{REMOTE_SCHEME}{self.base_url}#{self.model}"

    def identity(self) -> dict[str, Any]:
        """What is known of the model, for fingerprints."""
        return {"url": self.base_url, "model": self.model, "listing": self.listing}

    def submit(
        self, works: Sequence[Callable[[Call], T]], *, deadline: float | None = None
    ) -> list[Future[T]]:
        """Run functions that use `complete` on the server's threads: all of them or none."""
        return self._pool.submit(works, deadline=deadline)

    def complete(
        self,
        call: Call,
        path: str,
        body: Mapping[str, Any],
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """POST a completion request and read the answer; `on_text` asks for it piece by piece.

        What may pass is tried again (see `_RETRIED`, 5xx, lost connections), unless text has been
        handed out already. Raises `RemoteRefused`, `RemoteError` or `InputTooLong`.
        """
        if on_text is None:
            return self._retrying(
                call, lambda: read_reply(parse_json(self._once(call, "POST", path, body)))
            )
        handed_out = False

        def tell(piece: str) -> None:
            nonlocal handed_out
            handed_out = True
            on_text(piece)

        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}

        def attempt() -> Reply:
            try:
                with self._response(call, "POST", path, streamed) as response:
                    return read_stream(read_events(_limited(response)), tell)
            except _TryAgain as exc:
                if handed_out:
                    raise RemoteError(f"the answer broke off: {exc.error.message}") from exc
                raise

        return self._retrying(call, attempt)

    def close(self) -> None:
        """Drop what is under way and close the connections. Safe to call twice."""
        self._pool.close()
        for line in self._lines:
            line.client.close()

    # -- one request ----------------------------------------------------------------------------

    def _retrying(self, call: Call, attempt: Callable[[], T]) -> T:
        for tried in range(1, self._attempts + 1):
            call.check()
            try:
                return attempt()
            except _TryAgain as exc:
                pause = exc.retry_after
                if pause is None:
                    # Jitter, so that many clients do not come back at the same moment.
                    grown = min(self._backoff * 2 ** (tried - 1), _LONGEST_PAUSE)
                    pause = grown * random.uniform(0.5, 1.0)
                left = call.left()
                if (
                    tried == self._attempts
                    or pause > _LONGEST_PAUSE
                    or (left is not None and pause >= left)
                ):
                    raise exc.error from exc
                call.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self, call: Call, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        with self._response(call, method, path, body) as response:
            return b"".join(_limited(response))

    @contextmanager
    def _response(
        self, call: Call, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Iterator[httpx.Response]:
        """A response with status 200, to be read; everything else is raised as what it means."""
        line = self._line()
        content = None if body is None else clean(json.dumps(body, ensure_ascii=False)).encode()
        try:
            with (
                call.interrupted_by(line.cut),
                line.client.stream(
                    method,
                    self._url + path,
                    content=content,
                    headers=self._headers,
                    timeout=httpx.Timeout(
                        self._timeout, connect=min(self._timeout, _CONNECT_SECONDS)
                    ),
                    extensions={"trace": line.tracer(call)},
                ) as response,
            ):
                if response.status_code != 200:
                    self._raise_status(response)
                yield response
        except (httpx.ReadTimeout, httpx.WriteTimeout) as exc:
            # Not tried again: the server may be busy with this very request still.
            raise RemoteError(
                f"{self.base_url} was silent for {self._timeout:.3g} seconds",
                hint="Allow a longer timeout, ask for fewer tokens, or check the server's load.",
            ) from exc
        except httpx.TransportError as exc:
            raise _TryAgain(
                RemoteError(
                    f"{self.base_url} cannot be reached: {exc or type(exc).__name__}",
                    hint="Check that the server runs and that the address is right.",
                )
            ) from exc
        except httpx.HTTPError as exc:
            raise RemoteError(f"{self.base_url}: {exc}") from exc

    def _raise_status(self, response: httpx.Response) -> NoReturn:
        status = response.status_code
        message, kind = self._explanation(response)
        said = f": {message}" if message else ""
        where = f"{self.base_url} answered {status}"
        error: EvenhandError
        if status in (401, 403):
            error = RemoteRefused(
                f"{where}{said}",
                status=status,
                hint="Give a valid API key for this server."
                if self._api_key is None
                else "Check the API key: the server does not accept it for this model.",
            )
        elif status < 500 and _TOO_LONG.search(f"{kind} {message}"):
            error = InputTooLong(
                f"{where}{said}", hint="Shorten the text or raise the server's context length."
            )
        elif status in _RETRIED or (status >= 500 and status != 501):
            pause = _retry_after(response.headers)
            raise _TryAgain(
                RemoteError(f"{where}{said}", status=status, retry_after=pause), retry_after=pause
            )
        elif status == 404:
            error = RemoteRefused(
                f"{where}{said}",
                status=status,
                hint="Check the address (it mostly ends in /v1) and the model's name.",
            )
        elif status < 400:
            error = RemoteRefused(
                f"{where}, which is no answer to a request for a completion",
                status=status,
                hint="Give the address that the server redirects to.",
            )
        else:
            error = RemoteRefused(f"{where}{said}", status=status)
        raise error

    def _explanation(self, response: httpx.Response) -> tuple[str, str]:
        raw = b""
        for chunk in response.iter_bytes():
            raw += chunk
            if len(raw) > 65_536:
                break
        try:
            message, kind = error_in(json.loads(raw))
        except ValueError:
            # A proxy's page: its words without the tags.
            message, kind = re.sub(r"<[^>]*>", " ", raw.decode("utf-8", "replace")), ""
        message = " ".join(message.split())[:300]
        return (message.replace(self._api_key, "***") if self._api_key else message), kind

    def _line(self) -> _Line:
        line: _Line | None = getattr(self._local, "line", None)
        if line is None:
            line = self._local.line = _Line(self._tls)
            self._lines.append(line)
        return line

    def _list_models(self) -> list[Mapping[str, Any]]:
        call = Call()
        try:
            data = self._retrying(
                call, lambda: parse_json(self._once(call, "GET", "/models", None))
            )
        except RemoteRefused as exc:
            if exc.status in (401, 403):
                raise
            return []  # not every server lists its models
        listed = data.get("data") if isinstance(data, Mapping) else None
        if not isinstance(listed, list):
            return []
        return [m for m in listed if isinstance(m, Mapping) and isinstance(m.get("id"), str)]


class _TryAgain(Exception):
    """`error`, which may pass: another attempt is worth making, after `retry_after` seconds."""

    def __init__(self, error: RemoteError, *, retry_after: float | None = None):
        super().__init__(error.message)
        self.error = error
        self.retry_after = retry_after


class _Line:
    """One connection at a time, used by one thread, which another thread may cut."""

    def __init__(self, tls: ssl.SSLContext):
        self._stream: Any = None
        self.client = httpx.Client(
            verify=tls,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            follow_redirects=False,  # a redirect would take the key elsewhere
        )

    def tracer(self, call: Call) -> Callable[[str, Mapping[str, Any]], None]:
        """Remembers the socket that is being used, which httpx shows nowhere else in time."""

        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
                self._stream = info["return_value"]
                if call.stopped:
                    self.cut()

        return trace

    def cut(self) -> None:
        """End the connection under a thread that waits for it: its read returns at once."""
        sock = None if self._stream is None else self._stream.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):  # closed already
                # The plain shutdown: that of a TLS socket is not safe beside a read.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _limited(response: httpx.Response) -> Iterator[bytes]:
    size = 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > _ANSWER_BYTES:
            raise RemoteError(f"the server's answer is longer than {_ANSWER_BYTES >> 20} MiB")
        yield chunk


def _checked_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise InvalidInput(f"{text!r} is not a URL: {exc}", hint=_HINT) from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(f"{text!r} is not an http(s) URL", hint=_HINT)
    return url.copy_with(fragment=None, query=None)


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds to wait, from `Retry-After` (seconds or a date) or OpenAI's `retry-after-ms`."""
    try:
        if (millis := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(millis) / 1000)
        given = headers.get("retry-after")
        if given is None:
            return None
        try:
            seconds = float(given)
        except ValueError:
            seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
        return max(0.0, seconds) if seconds == seconds else None
    except (ValueError, TypeError, OverflowError):
        return None


def _only(listed: Sequence[Mapping[str, Any]], base_url: str) -> str:
    if len(listed) == 1:
        return str(listed[0]["id"])
    names = ", ".join(str(m["id"]) for m in listed[:20])
    raise InvalidInput(
        f"{base_url} has {len(listed) or 'no'} models listed, and none was named",
        hint=f"Name one after #: {names}." if names else _HINT,
    )


def _dialect(listing: Mapping[str, Any] | None) -> Dialect:
    match (listing or {}).get("owned_by"):
        case "llamacpp":
            return "llama.cpp"
        case "vllm":
            return "vllm"
        case _:
            return "openai"
