"""An OpenAI-compatible server, as generators and judges see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import httpx

from evenhand.schemas.errors import InvalidInput

REMOTE_SCHEME = "remote:"


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """Where a remote model is: the base URL of the API and the model's name there."""

    base_url: str
    model: str | None = None

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read `remote:http://HOST:PORT/v1#MODEL`. Raises `InvalidInput`."""
        text, _, model = spec.removeprefix(REMOTE_SCHEME).partition("#")
        hint = "Write remote:http://HOST:PORT/v1#MODEL."
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as exc:
            raise InvalidInput(f"{text!r} is not a URL: {exc}", hint=hint) from exc
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidInput(f"{text!r} is not an http(s) URL", hint=hint)
        return cls(text.rstrip("/"), model or None)
