"""First names, and texts in which they are hidden.

A judge that is to treat everybody alike had best not know whom it reads about, as a marker of
papers does not. Each listed name becomes a stand-in, the same wherever it stands: who is one person
stays one person, and which name it was cannot move a verdict. Names that are not listed are seen.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

# Letters, perhaps with accents apart from them; joined as in D'Andre, Mary-Lou and Emily's.
_PART = r"[^\W\d_]+(?:[\u0300-\u036f]+[^\W\d_]*)*"
_WORD = re.compile(rf"{_PART}(?:['’-]{_PART})*")
_ENDING = re.compile(r"['’](?:s|d|ll|ve|re)$")  # what English hangs on a name


def groups() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Names of women (`f`) and of men (`m`) by the group that readers tend to hear in them."""
    found: Mapping[str, Mapping[str, Sequence[str]]] = _file()["groups"]
    return found


@functools.cache
def hidden() -> frozenset[str]:
    """Every name that `hide` hides, in composed characters (NFC) and with straight apostrophes."""
    parts: list[Mapping[str, Sequence[str]]] = [*groups().values(), _file()["further"]]
    listed = {name for part in parts for names in part.values() for name in names}
    return frozenset(map(_plain, listed | set(_file()["stand_ins"])))


@functools.cache
def digest() -> str:
    """SHA-256 (hex) of the list and of how it is applied, for fingerprints."""
    return hashlib.sha256(_bytes() + (_WORD.pattern + _ENDING.pattern).encode()).hexdigest()


def hide(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Each text with stand-ins for its names, and in how many places it holds one.

    The first name in the first text becomes the first stand-in, and the same name the same stand-in
    in every text. Names count as they are written: `Emily` is hidden, also in `Emily's`; `emily`
    and `Emilyville` are not.
    """
    given: dict[str, str] = {}
    return [_hide(text, given) for text in texts]


def is_hidden(name: str) -> bool:
    """Whether `hide` leaves nothing of a name: of Emily Walsh it leaves Walsh."""
    return hide([name])[0][1] >= len(name.split())


def _hide(text: str, given: dict[str, str]) -> tuple[str, int]:
    places = 0

    def stand_in(word: str) -> str | None:
        nonlocal places
        end = _ENDING.search(word)
        name, rest = (word[: end.start()], end.group()) if end else (word, "")
        name = _plain(name)
        if name not in hidden():
            return None
        places += 1
        known = _file()["stand_ins"]
        return given.setdefault(name, known[len(given) % len(known)]) + rest

    def put(found: re.Match[str]) -> str:
        word = found.group()
        if word.islower():  # most words, and no name
            return word
        # Mary-Lou is one name where it is listed, and else two.
        return stand_in(word) or "-".join(stand_in(part) or part for part in word.split("-"))

    return _WORD.sub(put, text), places


def _plain(word: str) -> str:
    """Composed characters (NFC) and straight apostrophes, as in the list."""
    return word if word.isascii() else unicodedata.normalize("NFC", word).replace("’", "'")


@functools.cache
def _file() -> dict[str, Any]:
    return tomllib.loads(_bytes().decode())


@functools.cache
def _bytes() -> bytes:
    return (resources.files("evenhand.prompts") / "names.toml").read_bytes()
