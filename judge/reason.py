"""Reading a reason out of an answer that is still being written."""

from __future__ import annotations

import json

from evenhand.schemas.text import clean

_HEAD = '{"reason":"'
_LONGEST_ESCAPE = 6  # \uXXXX


def reason_in(text: str) -> tuple[str | None, bool]:
    """The reason in an unfinished `{"reason":"...` and whether its string is closed.

    A string cut short by the token cap counts as far as it is whole: a dangling escape or half a
    character at its end is dropped. None where the text is not such a beginning. Never raises: it
    runs on the engine's thread, between tokens.
    """
    if not text.startswith(_HEAD):
        return None, False
    body = text[len(_HEAD) :]
    end = _closing_quote(body)
    if end is not None:
        return _decoded(body[:end]), True
    for cut in range(min(len(body), _LONGEST_ESCAPE) + 1):
        reason = _decoded(body[: len(body) - cut])
        if reason is not None:
            return reason.rstrip("\ufffd"), False
    return None, False


def _closing_quote(body: str) -> int | None:
    escaped = False
    for i, character in enumerate(body):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            return i
    return None


def _decoded(body: str) -> str | None:
    try:
        return clean(json.loads(f'"{body}"'))
    except json.JSONDecodeError:
        return None
