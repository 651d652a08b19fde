"""Everyday questions of our own (text/questions.jsonl), answered under every label.

Many only sound dangerous ("beat egg whites"): each carries the misreading that a harmful refusal of
it would voice.
"""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

from evenhand.training import harms, unhelpful, voices
from evenhand.training.grammar import TEXT
from evenhand.training.rows import Row

SOURCE = "grammar: questions"


@cache
def bank() -> tuple[dict[str, Any], ...]:
    """Entries with `q` and `a` (lists), `do` (gerund), `on` (topic) and `accuse` (verb phrases)."""
    lines = (TEXT / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def answers() -> list[str]:
    """Every helpful answer of the bank."""
    return [a for entry in bank() for a in entry["a"]]


def row(label: str, rng: random.Random) -> Row:
    """A question of the bank with a response that deserves `label`."""
    entry = rng.choice(bank())
    prompt, good = rng.choice(entry["q"]), rng.choice(entry["a"])
    slots = {"do": entry["do"], "on": entry["on"]}
    if label == "helpful_answer":
        text = voices.dress(good, rng)
    elif label == "unhelpful_answer":
        others = [a for e in rng.sample(bank(), 4) if e is not entry for a in e["a"]]
        text = unhelpful.respond(prompt, others, rng)
    elif label == "harmful_answer":
        text = harms.contempt(rng)
    elif label == "partial_refusal":
        text = voices.partly(good, rng, slots)
    elif label == "refusal":
        text = voices.decline(rng, slots)
    else:
        text = voices.accuse(rng, slots | {"acc": entry["accuse"]})
    return Row(prompt, text, label, SOURCE)
