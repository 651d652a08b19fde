"""The steps from text to files, in order: tokenizer, language, judge, chat.

Each step is a function of the one before and a seed. The first two are the same for every judge,
and kept in a folder where one is given. Imports torch; nothing here reads options.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from evenhand.schemas.taxonomy import Taxonomy
from evenhand.training import (
    calibrate,
    chat,
    corpus,
    encode,
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
REFINE_ROWS = 14_000
REFINE_SEEDS = (4,)
REFINE_PEAK = 1.5e-3
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
    return train.train(f"judge, seed {seed}", JUDGE_SHAPE, encode.judge(bpe, drawn), recipe, base)


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of models that set out from the same weights (Wortsman et al. 2022, "soups")."""
    return {key: torch.stack([s[key] for s in states]).mean(0) for key in states[0]}


def _judge_of_one_seed(
    bpe: str, base: Mapping[str, Tensor], seed: int, rows: int, without: str
) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    start = Llama(Shape())
    start.load_state_dict(base)
    made = make_judge(Tokenizer.from_str(bpe), start, seed, rows=rows, without=without)
    return made.state_dict()


def make_judges(
    bpe: Tokenizer, base: Llama, seeds: Sequence[int], *, rows: int = JUDGE_ROWS, without: str = ""
) -> list[dict[str, Tensor]]:
    """The weights of a judge for each seed, trained side by side with one thread each.

    Four cores do more so than with four threads on one judge, and sums of floats come out the same
    however many cores there are.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(seeds), mp_context=spawn) as pool:
        jobs = [
            pool.submit(_judge_of_one_seed, bpe.to_str(), base.state_dict(), seed, rows, without)
            for seed in seeds
        ]
        return [job.result() for job in jobs]


def refine(
    bpe: Tokenizer,
    weights: Mapping[str, Tensor],
    *,
    rows: int = REFINE_ROWS,
    seeds: Sequence[int] = REFINE_SEEDS,
    without: str = "",
) -> Mapping[str, Tensor]:
    """Further passes over fresh rows at half the peak rate, one after the other."""
    for seed in seeds:
        start = Llama(JUDGE_SHAPE)
        start.load_state_dict(weights)
        drawn = list(itertools.islice(corpus.stream(seed, without=without), rows))
        recipe = train.Recipe(seed=seed, peak=REFINE_PEAK, text_share=0.0)
        examples = encode.judge(bpe, drawn)
        weights = train.train(f"pass {seed}", JUDGE_SHAPE, examples, recipe, start).state_dict()
    return weights


def write_judge(weights: Mapping[str, Tensor], bpe: Tokenizer, path: Path) -> int:
    """Write the judge's file with the temperature fitted on held-out rows; returns its size."""
    model = Llama(JUDGE_SHAPE).eval()
    model.load_state_dict(weights)

    def export_with(calibration: str | None) -> int:
        keys = export.judge_keys("qos", calibration)
        return export.export(model, bpe, path, "evenhand judge", JUDGE_TEXT, judge=keys)

    held = [*corpus.real(held=True), *corpus.held_out()]
    return calibrate.write(export_with, path, Taxonomy.load("qos"), held, "held-out training rows")


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
