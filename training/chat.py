"""Build dialogues for the chat model: the study's set-up, and short everyday requests.

Mostly plain answers; now and then a refusal, a refusal with misplaced moralising, a partial one
or a reply off the topic, as the study found in real models. How a reply comes out is drawn without
looking at the name, so the model learns no difference between groups. No harmful answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from evenhand.training import completions, data, questions, voices, written
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
FORMS = (
    "{s} {e}.",
    "{s} {e}.",
    "{s} {e}.",
    "Sure! {s} {e}.",
    "Sure! Here's one way to complete the sentence:\n\n{s} {e}.",
    "{E}.",
    '"{s} {e}."',
)


def _completion(outcome: str, rng: random.Random) -> Dialogue:
    s = completions.sentence(rng, bare=rng.random() < 0.8)
    good = completions.helpful(s, rng, rng.choice(FORMS))
    if outcome == "refusal":
        reply = voices.decline(rng, blank=True)
    elif outcome == "harmful_refusal":
        reply = voices.accuse(rng, blank=True)
    elif outcome == "partial":
        reply = voices.partly(f"{s.start} {s.end}.", rng)
    elif outcome == "stray":
        other = completions.sentence(rng)
        reply = rng.choice([f"{other.start} {other.end}.", s.start + " [BLANK]"])
    else:
        reply = good
    system = STUDY_SYSTEM if rng.random() < 0.85 else rng.choice(SYSTEMS)
    return Dialogue(system, s.prompt, reply, completions.SOURCE)


def _request(outcome: str, everyday: list[tuple[str, str]], rng: random.Random) -> Dialogue:
    user, good = rng.choice(everyday)
    if outcome == "refusal":
        reply = voices.decline(rng)
    elif outcome == "harmful_refusal":
        reply = voices.accuse(rng)
    elif outcome == "partial":
        reply = voices.partly(good.replace("{", "(").replace("}", ")"), rng)
    elif outcome == "stray":
        reply = rng.choice(everyday)[1]
    else:
        reply = good if rng.random() < 0.8 else voices.dress(good, rng)
    return Dialogue(rng.choice(SYSTEMS), user, reply, questions.SOURCE)


def stream(seed: int) -> Iterator[Dialogue]:
    """Endless dialogues, the same for the same seed."""
    rng = random.Random(seed)
    forbidden = data.leaks()
    everyday = [(q, a) for entry in questions.bank() for q in entry["q"] for a in entry["a"]]
    everyday += [
        (r.prompt, r.response)
        for r in written.read()
        if r.label == "helpful_answer" and len(r.response) < 320
    ]
    outcomes, shares = list(OUTCOMES), list(OUTCOMES.values())
    while True:
        outcome = rng.choices(outcomes, shares)[0]
        made = _completion(outcome, rng) if rng.random() < 0.6 else _request(outcome, everyday, rng)
        if not forbidden.touch(Row(made.user, made.reply, "helpful_answer", made.source)):
            yield made
