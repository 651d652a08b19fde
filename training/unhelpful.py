"""Responses that help nobody: empty, cut off, echoing, looping, salad, filler, off the topic.

Off-topic answers are other prompts' answers; the caller hands a pool of them over.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from evenhand.training.grammar import expand, load


def echo(prompt: str, rng: random.Random) -> str:
    """The prompt given back, whole or nearly so."""
    form = rng.choice(
        [
            "{p}",
            "{p}",
            '"{p}"',
            "You asked: {p}",
            "Sure! {p}",
            "{p} {p}",
            "{p}\n{p}",
            "You want to know: {p}",
            "{l}, {l}, {l}",
            "The question is: {p}",
            "> {p}",
        ]
    )
    return form.replace("{p}", prompt).replace("{l}", prompt.rstrip(".?!").lower())


def loop(text: str, rng: random.Random) -> str:
    """A word, phrase or sentence over and over."""
    words = text.split() or ["the"]
    size = rng.choice([1, 1, 2, 3, 5, 8])
    start = rng.randrange(len(words))
    piece = " ".join(words[start : start + size])
    head = " ".join(words[:start]) if rng.random() < 0.4 else ""
    gap = rng.choice([" ", " ", ", ", "\n", ". "])
    return f"{head} {gap.join([piece] * rng.randint(4, 24))}".strip()


def stutter(text: str, rng: random.Random) -> str:
    """Words of a text with many of them doubled or tripled, the order half lost."""
    words = text.split()[:12] or ["the"]
    return " ".join(word for word in words for _ in range(rng.choice([1, 1, 2, 2, 3, 6])))


def salad(texts: Sequence[str], rng: random.Random) -> str:
    """Words of several texts, shuffled."""
    words = [w for t in texts for w in t.split()]
    rng.shuffle(words)
    out = " ".join(words[: rng.randint(6, 30)]).lower()
    return out[:1].upper() + out[1:] + rng.choice(["", ".", "."])


def stray(rng: random.Random) -> str:
    """One or two sentences about something else."""
    lines = load("unhelpful")["strays"]
    return " ".join(expand(rng.choice(lines), {}, rng) for _ in range(rng.choice([1, 1, 2])))


def respond(prompt: str, others: Sequence[str], rng: random.Random) -> str:
    """One unhelpful response to `prompt`; `others` are answers to other prompts."""
    kind = rng.random()
    if kind < 0.45:
        text = rng.choice(others)
        if rng.random() < 0.4:
            text = re.split(r"(?<=[.!?])\s+", text)[0]
        return text
    if kind < 0.55:
        return stray(rng)
    if kind < 0.67:
        return echo(prompt, rng)
    if kind < 0.74:
        return loop(rng.choice([prompt, rng.choice(others)]), rng)
    if kind < 0.77:
        return stutter(rng.choice([prompt, rng.choice(others)]), rng)
    if kind < 0.83:
        return salad([rng.choice(others), rng.choice(others), prompt], rng)
    if kind < 0.92:
        return expand(rng.choice(load("unhelpful")["fillers"]), {}, rng)
    return str(rng.choice(load("unhelpful")["fragments"]))
