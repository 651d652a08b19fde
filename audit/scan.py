"""A JSON document too large to hold: walked member by member, and only what is wanted is kept.

Knows brackets, strings and commas. What a value means is left to `json`; what lies inside a value
that is skipped is not checked beyond its brackets.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

CHUNK = 2**16
MAX_VALUE = 64 * 2**20  # as long as a line of a dataset may be

_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[^\s,:\[\]{}\"]*+")
# A whole string, or a bracket, or the quote of a string that goes on beyond what has been read.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)


class Broken(Exception):
    """The document is not JSON from here on: nothing after this point can be told apart."""


class Scan:
    """A position in a JSON document. `at` counts the bytes behind it.

    `members` and `items` step through what is open; after each step the value must be taken by
    exactly one of `value`, `skip`, `members` and `items`.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._buffer = file.read(CHUNK)
        self._position = len(codecs.BOM_UTF8) if self._buffer.startswith(codecs.BOM_UTF8) else 0
        self._behind = 0

    @property
    def at(self) -> int:
        """How many bytes have been walked."""
        return self._behind + self._position

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here. Raises `Broken`."""
        for _ in self._inside(b"{", b"}"):
            key = self.value()
            if not isinstance(key, str):
                raise Broken("a key is not a text")
            self._expect(b":")
            yield key

    def items(self) -> Iterator[None]:
        """One step for each item of the list that begins here. Raises `Broken`."""
        return self._inside(b"[", b"]")

    def value(self) -> Any:
        """The value that begins here. Raises `ValueError` for one that is bad, and is past it."""
        kept = self._take(keep=True)
        if kept is None:
            raise ValueError(f"it is longer than {MAX_VALUE // 2**20} MiB")
        try:
            return json.loads(kept.decode())
        except RecursionError as exc:
            raise ValueError("it is nested too deep") from exc

    def skip(self) -> None:
        """Pass over the value that begins here, keeping nothing. Raises `Broken`."""
        self._take(keep=False)

    def peek(self) -> bytes:
        """The next byte that is not white space. Raises `Broken` at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._buffer):
                return self._buffer[self._position : self._position + 1]
            self._fill()

    def _inside(self, opening: bytes, closing: bytes) -> Iterator[None]:
        self._expect(opening)
        if self.peek() == closing:
            self._position += 1
            return
        while True:
            yield
            if self._expect(b"," + closing) == closing:
                return

    def _expect(self, wanted: bytes) -> bytes:
        found = self.peek()
        if found not in wanted:
            raise Broken(f"byte {self.at} is {found!r} where {wanted.decode()!r} belongs")
        self._position += 1
        return found

    def _take(self, *, keep: bool) -> bytes | None:
        """Step over a value. Returns its bytes, or None where they are not kept."""
        if self.peek() not in b'"{[':
            return self._scalar()
        pieces: list[bytes] = []
        size = depth = 0
        while True:
            token = _TOKEN.search(self._buffer, self._position)
            end = token.end() if token else len(self._buffer)
            found = self._buffer[token.start() : end] if token else b""
            cut = found == b'"'
            if cut:
                end -= 1
            size += end - self._position
            keep = keep and size <= MAX_VALUE
            if keep:
                pieces.append(self._buffer[self._position : end])
            else:
                pieces.clear()
            self._position = end
            if not token or cut:
                self._fill()
                continue
            depth += (found in b"{[") - (found in b"}]")
            if depth <= 0:
                return b"".join(pieces) if keep else None

    def _scalar(self) -> bytes:
        while True:
            found = _SCALAR.match(self._buffer, self._position)
            end = found.end() if found else self._position
            if end < len(self._buffer):
                break
            try:
                self._fill()
            except Broken:
                break  # a number may end with the document
        scalar = self._buffer[self._position : end]
        if not scalar:
            raise Broken(f"byte {self.at} begins no value")
        self._position = end
        return scalar

    def _fill(self) -> None:
        """Read on, at least doubling what is left over: a long string is searched again."""
        left = self._buffer[self._position :]
        if len(left) > MAX_VALUE:
            raise Broken(f"a text is longer than {MAX_VALUE // 2**20} MiB")
        data = self._file.read(max(CHUNK, len(left)))
        if not data:
            raise Broken("the document ends too early")
        self._behind += self._position
        self._buffer, self._position = left + data, 0
