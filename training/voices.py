"""Replies that decline, in part or in whole, and the openers and closers around answers.

Text comes from text/voices.toml. Which label a reply deserves depends on the prompt too, and that
is for the callers to know: `accuse` under a prompt that is bad in earnest is a plain refusal.
"""

from __future__ import annotations

import random
import re

from evenhand.training.grammar import Slots, capital, expand, load, sentence

_LOWERABLE = {
    "The",
    "A",
    "An",
    "It",
    "You",
    "Use",
    "In",
    "Yes",
    "No",
    "There",
    "They",
    "Some",
    "Most",
    "Put",
    "Take",
    "Try",
    "Keep",
}


def _slots(extra: Slots | None) -> dict[str, str | list[str]]:
    slots: dict[str, str | list[str]] = dict(load("voices")["slots"])
    slots |= {"do": ["doing this", "this", "doing that"], "on": ["this topic", "this subject"]}
    slots |= {k: v if isinstance(v, str) else list(v) for k, v in (extra or {}).items()}
    return slots


def _pick(key: str, rng: random.Random) -> str:
    lines: list[str] = load("voices")["slots"][key]
    return rng.choice(lines)


def _finish(text: str, slots: Slots, rng: random.Random) -> str:
    return sentence(re.sub(r"\.{2}(?!\.)", ".", expand(text, slots, rng)))


def decline(rng: random.Random, extra: Slots | None = None, blank: bool = False) -> str:
    """A refusal that attributes no harm to the request. `blank`: it was a sentence to complete."""
    serve = "{fill}" if blank and rng.random() < 0.6 else "{serve}"
    core = f"{{sorry}}{{cannot}} {serve}{{why}}."
    text = rng.choice([core, core, core, "{cant_noun}", "{sorry}" + core, "{cant_noun} " + core])
    text = text.replace("{sorry}{sorry}", "{sorry}")
    if rng.random() < 0.6:
        text += "{tail}"
    return _finish(text, _slots(extra), rng)


def accuse(rng: random.Random, extra: Slots | None = None, blank: bool = False) -> str:
    """A refusal whose stated reason attributes harm, crime, hate or a stereotype."""
    slots = _slots(extra)
    if rng.random() < 0.25:
        text = _pick("accuse_alone", rng)
    else:
        serve = "{fill}" if blank and rng.random() < 0.5 else "{serve}"
        key = "accusation_own" if "acc" in slots and rng.random() < 0.6 else "accusation"
        text = f"{{sorry}}{{cannot}} {serve}" + _pick(key, rng)
    while rng.random() < 0.25:
        more = _pick("accusation", rng)
        if more.startswith(". "):
            text += more[1:]
    return _finish(text + "{harm_tail}", slots, rng)


def decline_because(why: str, rng: random.Random, extra: Slots | None = None) -> str:
    """A refusal with a given reason."""
    joint = rng.choice([" because {w}.", ", since {w}.", ", as {w}.", ". {w_}.", ": {w}."])
    text = "{sorry}{cannot} {serve}" + joint + rng.choice(["", "", "{tail}", "{harm_tail}"])
    return _finish(text, _slots(extra) | {"w": why}, rng)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text.strip())


def partly(helpful: str, rng: random.Random, extra: Slots | None = None) -> str:
    """Unwillingness voiced, and some of what was asked given."""
    slots = _slots(extra)
    parts = _sentences(helpful)
    if len(parts) > 2 and rng.random() < 0.5:
        helpful = " ".join(parts[: rng.randint(1, len(parts) - 1)])
    if rng.random() < 0.15:
        return _finish(
            capital(helpful).replace("{", "").replace("}", "") + " {give_then_stop}", slots, rng
        )
    hedge = "{sorry}" + rng.choice(["{hedge}.", "{hedge}.", "{hedge}.", "{cannot} {serve}{why}."])
    if rng.random() < 0.2:
        hedge = "{sorry}{cannot} {serve}" + _pick("accusation", rng)
    if rng.random() < 0.15:
        hedge += rng.choice(["{tail}", "{harm_tail}"])
    gap = rng.choice([" ", " ", " ", "\n\n"])
    bridge = expand("{bridge}", slots, rng) if rng.random() < 0.85 else ""
    # After a colon or a full stop the answer keeps its capital; after "Instead, " it may lose it.
    body = helpful
    if bridge.endswith(", ") and body.split(" ")[0] in _LOWERABLE:
        body = body[:1].lower() + body[1:]
    return _finish(hedge, slots, rng) + gap + bridge + body


def dress(helpful: str, rng: random.Random) -> str:
    """A helpful answer with an opener before it or a closer after it, now and then."""
    openers, closers = load("voices")["openers"]["helpful"], load("voices")["openers"]["closers"]
    opener, closer = (expand(rng.choice(lines), {}, rng) for lines in (openers, closers))
    return f"{opener}{helpful}{closer}"
