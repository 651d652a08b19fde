"""Build dialogues for the chat model: the study's set-up, and short everyday requests.

Mostly plain answers; now and then a refusal, a refusal with misplaced moralising, a partial one
or a reply off the topic, as the study found in real models. How a reply comes out is drawn without
looking at the name, so the model learns no difference between groups. No harmful answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from evenhand.training import completions, corpus, names, questions, unhelpful, voices, written
from evenhand.training.grammar import capital, load
from evenhand.training.rows import Dialogue, Row

STUDY_SYSTEM = "You are a helpful assistant. Complete the [BLANK]"
SYSTEMS = (
    "",
    "You are a helpful assistant.",
    "You are a helpful, respectful and honest assistant.",
)
# Outcome -> share of the dialogues.
OUTCOMES = {
    "answer": 0.74,
    "refusal": 0.10,
    "harmful_refusal": 0.05,
    "partial": 0.06,
    "stray": 0.05,
}


def _completion(outcome: str, rng: random.Random) -> Dialogue:
    s = completions.sentence(rng, bare=rng.random() < 0.8)
    good = completions.helpful(s, rng, rng.choice(load("chat")["forms"]))
    if outcome == "refusal":
        reply = voices.decline(rng, blank=True)
    elif outcome == "harmful_refusal":
        reply = voices.accuse(rng, blank=True)
    elif outcome == "partial":
        reply = voices.partly(good, rng)
    elif outcome == "stray":
        other = completions.sentence(rng)
        strays = [unhelpful.stray(rng) for _ in range(2)]
        reply = rng.choice([capital(other.end) + ".", "[BLANK]", *strays])
    else:
        reply = good
    system = STUDY_SYSTEM if rng.random() < 0.85 else rng.choice(SYSTEMS)
    return Dialogue(system, s.prompt, reply, completions.SOURCE)


LABEL_OF = {
    "answer": "helpful_answer",
    "refusal": "refusal",
    "harmful_refusal": "harmful_refusal",
    "partial": "partial_refusal",
    "stray": "unhelpful_answer",
}


def _natural(outcome: str, rows: dict[str, list[Row]], rng: random.Random) -> Dialogue:
    """A sentence to complete as a hand wrote it with its reply, under any name."""
    row = rng.choice(rows[LABEL_OF[outcome]])
    user, reply = names.swap(row.prompt, row.response, rng)
    system = rng.choice((STUDY_SYSTEM, *SYSTEMS))
    return Dialogue(system, user, reply, written.SOURCE)


def _request(
    outcome: str, known: list[tuple[str, str]], unknown: list[Row], rng: random.Random
) -> Dialogue:
    """A question of the bank or a greeting, answered, or one it cannot know, owned up to."""
    user, good = rng.choice(known)
    source = questions.SOURCE
    if rng.random() < 0.35:
        row = rng.choice(unknown)
        user, good, source = row.prompt, rng.choice(load("chat")["unknown"]), written.SOURCE
    if outcome == "refusal":
        reply = voices.decline(rng)
    elif outcome == "harmful_refusal" and source == questions.SOURCE:
        reply = voices.accuse(rng)
    else:
        reply = good
    return Dialogue(rng.choice(SYSTEMS), user, reply, source)


def stream(seed: int) -> Iterator[Dialogue]:
    """Endless dialogues, the same for the same seed."""
    rng = random.Random(seed)
    forbidden = corpus.leaks()
    known = [(q, a) for e in questions.bank() for q in e["q"] for a in e["a"] if len(a) < 240]
    greetings = [(q, a) for e in load("chat")["small"] for q in e["q"] for a in e["a"]]
    known += greetings
    unknown = [r for r in written.read() if not written.BLANK.search(r.prompt)]
    natural = {
        label: [
            r
            for r in written.read()
            if r.label == label and written.BLANK.search(r.prompt) and names.find(r.prompt)
        ]
        for label in LABEL_OF.values()
    }
    outcomes, shares = list(OUTCOMES), list(OUTCOMES.values())
    while True:
        outcome = rng.choices(outcomes, shares)[0]
        kind = rng.random()
        if kind < 0.5:
            made = _completion(outcome, rng)
        elif kind < 0.75:
            made = _natural(outcome, natural, rng)
        else:
            made = _request(outcome, known, unknown, rng)
        if not forbidden.touch(Row(made.user, made.reply, "helpful_answer", made.source)):
            yield made
