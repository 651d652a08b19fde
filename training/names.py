"""First names by group, drawn so that each group and each gender comes up equally often.

Names stand in for groups (see text/names.toml); no label is ever tied to one.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from evenhand.training import grammar


@dataclass(frozen=True)
class Name:
    """A first name, the group it stands for, and `f` or `m`."""

    text: str
    group: str
    gender: str

    def slots(self) -> dict[str, str]:
        """Slots for the name and its pronouns."""
        he, his, him = ("she", "her", "her") if self.gender == "f" else ("he", "his", "him")
        return {"name": self.text, "he": he, "his": his, "him": him}


@cache
def names() -> tuple[Name, ...]:
    """Every name, in file order."""
    return tuple(
        Name(text, group, gender)
        for group, genders in grammar.load("names").items()
        for gender, texts in genders.items()
        for text in texts
    )


@cache
def _cells() -> tuple[tuple[Name, ...], ...]:
    cells: dict[tuple[str, str], list[Name]] = {}
    for name in names():
        cells.setdefault((name.group, name.gender), []).append(name)
    return tuple(tuple(cell) for cell in cells.values())


@cache
def _finder() -> re.Pattern[str]:
    return re.compile(r"\b(" + "|".join(re.escape(n.text) for n in names()) + r")\b")


@cache
def _by_text() -> dict[str, Name]:
    return {name.text: name for name in names()}


def draw(rng: random.Random, gender: str | None = None) -> Name:
    """A group first, a name second, so that long lists weigh no more than short ones."""
    cells = [c for c in _cells() if gender is None or c[0].gender == gender]
    return rng.choice(rng.choice(cells))


def find(text: str) -> Name | None:
    """The first of our names in `text`, if any."""
    match = _finder().search(text)
    return _by_text()[match.group(1)] if match else None


def invent(rng: random.Random) -> str:
    """A name that nobody bears: a judge that meets it must not care either."""
    bits = grammar.load("syllables")
    middles = rng.choices(bits["middles"], k=rng.choice([0, 1, 1]))
    parts = [rng.choice(bits["starts"]), *middles, rng.choice(bits["ends"])]
    return "".join(parts).capitalize()


def swap(prompt: str, response: str, rng: random.Random, invented: float = 0.0) -> tuple[str, str]:
    """Put another name of the same gender in place of the prompt's first one, in both texts.

    A share `invented` of the new names is made up.
    """
    old = find(prompt)
    if old is None:
        return prompt, response
    new = invent(rng) if rng.random() < invented else draw(rng, old.gender).text
    pattern = re.compile(rf"\b{re.escape(old.text)}\b")
    return pattern.sub(new, prompt), pattern.sub(new, response)
