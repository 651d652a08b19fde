"""Harmful answers, requests that are bad in earnest, and harmless talk about the same groups.

Nothing made here reaches the chat model. Text comes from text/harms.toml.
"""

from __future__ import annotations

import random

from evenhand.training import voices
from evenhand.training.grammar import capital, expand, load, sentence
from evenhand.training.names import Name, draw
from evenhand.training.rows import Row

SOURCE = "grammar: harms"


def _slots(name: Name) -> dict[str, str | list[str]]:
    return {**load("harms")["slots"], **name.slots()}


def complete(start: str, end: str, name: Name, rng: random.Random) -> str:
    """A sentence completed with a crime or a stereotype, whatever group the name stands for."""
    slots = _slots(name)
    text = rng.choice(load("harms")["answers"]["complete"])
    text = text.replace("{slur}", rng.choice(load("harms")["slots"]["slur_end"]))
    return sentence(expand(text, slots | {"S": start, "end": end}, rng))


def contempt(rng: random.Random) -> str:
    """A stereotype of a group, an insult, or a violent piece of advice."""
    answers = load("harms")["answers"]
    kind = rng.choices(["group", "insult", "threat"], [6, 2, 2])[0]
    return sentence(expand(rng.choice(answers[kind]), _slots(draw(rng)), rng))


def bad_request(label: str, rng: random.Random) -> Row:
    """A request that harms, answered eagerly, declined, or declined with something safe given."""
    case = rng.choice(load("harms")["bad"])
    slots = _slots(draw(rng))
    # One drawing of each slot, so that request and answer speak of the same people.
    fixed = slots | {k: rng.choice(list(slots[k])) for k in ("people", "bad", "vice", "person")}
    prompt = expand(rng.choice(case["q"]), fixed, rng)
    why = expand(rng.choice(case["why"]), fixed, rng)
    if label == "harmful_answer":
        fixed["bad2"], fixed["vice2"] = slots["bad"], slots["vice"]
        text = expand(rng.choice(case["yes"]), fixed, rng)
        if rng.random() < 0.15:
            text = contempt(rng)
    elif label == "partial_refusal":
        text = voices.decline_because(why, rng) if rng.random() < 0.6 else voices.decline(rng)
        bridge = expand("{bridge}", load("voices")["slots"], rng) if rng.random() < 0.7 else ""
        text = f"{text} {bridge}{expand(rng.choice(case['safe']), fixed, rng)}"
    elif label == "refusal":
        # Declining what is harmful is a plain refusal, even where it names the harm.
        kind = rng.random()
        text = (
            voices.decline_because(why, rng)
            if kind < 0.45
            else voices.decline(rng)
            if kind < 0.65
            else voices.accuse(rng)
        )
    else:
        raise ValueError(f"no bad request is answered with {label}")
    return Row(prompt, text, label, SOURCE)


def misplaced_reason(rng: random.Random) -> str:
    """A refusal that fits a bad request; under a harmless one it attributes harm to it."""
    case = rng.choice(load("harms")["bad"])
    slots = _slots(draw(rng))
    return voices.decline_because(expand(rng.choice(case["why"]), slots, rng), rng)


def fair(rng: random.Random) -> Row:
    """A question about a group, answered fairly."""
    case = rng.choice(load("harms")["fair"])
    slots = _slots(draw(rng))
    people = rng.choice(list(slots["people"]))
    fixed = slots | {
        "people": people,
        "vice": rng.choice(list(slots["vice"])),
        "people2": slots["people"],
    }
    prompt = expand(rng.choice(case["q"]), fixed, rng)
    return Row(
        prompt,
        voices.dress(sentence(expand(rng.choice(case["a"]), fixed, rng)), rng),
        "helpful_answer",
        SOURCE,
    )


def unfair(rng: random.Random) -> Row:
    """The same questions about a group, or about one person, answered with contempt."""
    case = rng.choice(load("harms")["fair"])
    name = draw(rng)
    slots = _slots(name)
    people = rng.choice(list(slots["people"]))
    fixed = slots | {"people": people}
    people_asks = list(case["q"])
    person_asks = [person["q"] for person in load("harms")["person"]]
    asks = people_asks if rng.random() < 0.6 else person_asks
    prompt = expand(rng.choice(asks), fixed, rng)
    text = expand(rng.choice(load("harms")["answers"]["group"]), fixed, rng)
    return Row(capital(prompt), sentence(text), "harmful_answer", SOURCE)


def person_question(rng: random.Random) -> Row:
    """A question about one person, answered without harm: the counterpart of `unfair`."""
    name = draw(rng)
    case = rng.choice(load("harms")["person"])
    ask, reply = case["q"], case["a"]
    slots = name.slots()
    return Row(
        expand(ask, slots, rng), sentence(expand(reply, slots, rng)), "helpful_answer", SOURCE
    )
