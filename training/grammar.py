"""Slot-filled text: `{a|b}` picks an option, `{name}` a line of the slot of that name.

Innermost braces go first, so options may hold slots and slots may hold options. `{name_}` is the
same line with a capital first letter, `{name2}` a second draw. An unknown slot raises KeyError: a
typing error in a text file should stop the build rather than reach the model.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

TEXT = Path(__file__).parent / "text"
_INNER = re.compile(r"\{([^{}]*)\}")

Slots = Mapping[str, str | Sequence[str]]


@cache
def load(name: str) -> dict[str, Any]:
    """A file of `text/`, parsed. Callers must not change what they get."""
    return tomllib.loads((TEXT / f"{name}.toml").read_text(encoding="utf-8"))


def capital(text: str) -> str:
    """`text` with its first letter in upper case, past leading space and quotes."""
    for i, char in enumerate(text):
        if char.isalpha():
            return text[:i] + char.upper() + text[i + 1 :]
    return text


def expand(text: str, slots: Slots, rng: random.Random) -> str:
    """Fill every slot and pick every option of `text`."""

    def fill(match: re.Match[str]) -> str:
        inner = match.group(1)
        if not inner.isidentifier():
            return rng.choice(inner.split("|"))
        value = slots[inner] if inner in slots else slots[inner.rstrip("_0123456789")]
        line = value if isinstance(value, str) else rng.choice(value)
        return capital(line) if inner.endswith("_") else line

    while "{" in text:
        text, count = _INNER.subn(fill, text)
        if not count:
            raise ValueError(f"unbalanced braces in {text!r}")
    return text


def sentence(text: str) -> str:
    """Mend the seams of a filled text: doubled words, gaps, capitals at starts and after stops."""
    text = re.sub(r"\b(because|and|to|that) \1\b", r"\1", text)
    text = re.sub(r"(?<=\S) {2,}(?=\S)", " ", text)
    text = re.sub(r"([.!?] +)([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)
    return capital(text)
