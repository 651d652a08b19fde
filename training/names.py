"""First names by group, drawn so that each group and each gender comes up equally often.

Names stand in for groups (see prompts/names.toml); no label is ever tied to one.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from evenhand.prompts.names import groups
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
        for group, genders in groups().items()
        for gender, texts in genders.items()
        for text in texts
    )


@cache
def _cells() -> tuple[tuple[Name, ...], ...]:
    cells: dict[tuple[str, str], list[Name]] = {}
    for name in names():
        cells.setdefault((name.group, name.gender), []).append(name)
    return tuple(tuple(cell) for cell in cells.values())


def _whole(pattern: str) -> str:
    """A pattern for whole words only: Mei is not in Mei-Ling."""
    return rf"(?<![\w-]){pattern}(?![\w-])"


@cache
def _finder() -> re.Pattern[str]:
    texts = sorted((n.text for n in names()), key=len, reverse=True)
    return re.compile(_whole("(" + "|".join(map(re.escape, texts)) + ")"))


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


def gender(text: str) -> str | None:
    """`f` or `m` by the first pronoun of a text; none where there is none."""
    match = re.search(r"(?i)\b(?:(she|her|hers|herself)|(he|his|him|himself))\b", text)
    return ("f" if match.group(1) else "m") if match else None


def replace(prompt: str, response: str, old: str, new: str) -> tuple[str, str]:
    """Put one name in place of another, in both texts."""
    pattern = re.compile(_whole(re.escape(old)))
    return pattern.sub(new, prompt), pattern.sub(new, response)


def swap(prompt: str, response: str, rng: random.Random, invented: float = 0.0) -> tuple[str, str]:
    """Put another name of the same gender in place of the prompt's first one, in both texts.

    A share `invented` of the new names is made up.
    """
    old = find(prompt)
    if old is None:
        return prompt, response
    new = invent(rng) if rng.random() < invented else draw(rng, old.gender).text
    return replace(prompt, response, old.text, new)
