"""The steps from text to files, in order: tokenizer, language, judge, chat.

Each step is a function of the one before and a seed. The first two are the same for every judge,
and kept in a folder where one is given. Imports torch; nothing here reads options.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from tokenizers import Tokenizer

from evenhand.training import (
    chat,
    corpus,
    encode,
    evaluate,
    export,
    outside,
    tokenizer,
    train,
    written,
)
from evenhand.training.model import Llama, Shape
from evenhand.training.rows import LABELS, Row, answer

TEXT_STEPS = 3_500
JUDGE_ROWS = 20_000
CHAT_ROWS = 40_000
JUDGE_SHAPE = Shape(context=640)  # tokens; longer texts are cut in the middle, as in training
JUDGE_TEXT = (
    "A small judge: labels a (prompt, response) pair with one of the six qos labels. "
    "Trained from scratch by the evenhand project; see docs/models/bundled-judge.md."
)
CHAT_TEXT = (
    "A toy chat model for trying evenhand offline: completes short sentences or declines. "
    "Trained from scratch by the evenhand project."
)


def language() -> list[Row]:
    """What language is learned from: real responses without labels, and the older of our own.

    Annotated responses stay out, so that a judge trained without one of their models has not read
    that model's responses here either.
    """
    return [*outside.texts(), *written.read(folders=("lookalikes", "voices"))]


def make_tokenizer(keep: Path | None = None) -> Tokenizer:
    """The vocabulary, learned from all real and older written text and the six answers."""
    path = keep / "tokenizer.json" if keep else None
    if path is not None and path.exists():
        return Tokenizer.from_file(str(path))
    rows = [*language(), *(real.row for real in outside.annotated())]
    answers = [answer(label) for label in LABELS] * 200
    bpe = tokenizer.train([t for r in rows for t in (r.prompt, r.response)] + answers)
    if path is not None:
        bpe.save(str(path))
    return bpe


def make_language(bpe: Tokenizer, keep: Path | None = None, scale: float = 1.0) -> Llama:
    """A model that has read `language()` and knows no label."""
    recipe = train.TextRecipe(steps=max(int(TEXT_STEPS * scale), 1))
    path = keep / "language.pt" if keep else None
    return train.read(Shape(), encode.judge(bpe, language()), recipe, path)


def make_judge(
    bpe: Tokenizer, base: Llama, seed: int, *, rows: int = JUDGE_ROWS, without: str = ""
) -> Llama:
    """A judge on top of `base`, trained without the annotated responses of a model."""
    drawn = list(itertools.islice(corpus.stream(seed, without=without), rows))
    recipe = train.Recipe(seed=seed)
    return train.train("judge", JUDGE_SHAPE, encode.judge(bpe, drawn), recipe, base)


def write_judge(model: Llama, bpe: Tokenizer, path: Path) -> int:
    """Write the judge's file with the temperature fitted on held-out rows; returns its size."""
    calibration = None
    for _ in range(2):  # uncalibrated, to be measured; then with what the measurement gave
        keys = export.judge_keys("qos", calibration)
        size = export.export(model, bpe, path, "evenhand judge", JUDGE_TEXT, judge=keys)
        calibration = calibration or evaluate.fit(path).model_dump_json()
    return size


def make_chat(bpe: Tokenizer, base: Llama, seed: int, *, rows: int = CHAT_ROWS) -> Llama:
    """The chat model on top of `base`."""
    talk = list(itertools.islice(chat.stream(seed), rows))
    recipe = train.Recipe(
        seed=seed, text_weight=0.0, running=0.0, per_token=True, batch_tokens=2048
    )
    return train.train("chat", Shape(), encode.chat(bpe, talk), recipe, base)


def write_chat(model: Llama, bpe: Tokenizer, path: Path) -> int:
    """Write the chat model's file; returns its size."""
    return export.export(model, bpe, path, "evenhand chat", CHAT_TEXT, judge=None)
