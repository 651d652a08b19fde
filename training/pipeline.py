"""The steps from text to files, in order: tokenizer, language, judge, chat.

Each step is a function of the one before and a seed. The first two are the same for every judge,
and kept in a folder where one is given. Imports torch; nothing here reads options.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

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
from evenhand.training.rows import LABELS, Row, answer, answer_parts

TEXT_STEPS = 3_500
JUDGE_ROWS = 24_000
ROUNDS = (  # peak rate, weight of the difference between twins, and seeds of each
    (1.5e-3, 0.0, (4, 5, 6, 7)),
    (1.5e-3, 0.0, (20, 21, 22, 23)),
    (1e-3, 0.0, (30, 31, 32, 33)),
    (1e-3, 0.0, (40, 41, 42, 43)),
    (1e-3, 2.0, (50, 51, 52, 53)),
    (1e-3, 8.0, (60, 61, 62, 63)),
)
ROUND_ROWS = 9_000
AT_ONCE = 4  # judges trained side by side
BATCH = 2048  # tokens; on few cores smaller batches teach more in the same time
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

Weights = Mapping[str, Tensor]
Kept = TypeVar("Kept")


def language() -> list[Row]:
    """What language is learned from: real responses without labels, and the older of our own.

    Annotated responses stay out, so that a judge trained without one of their models has not read
    that model's responses here either.
    """
    return [*outside.texts(), *written.read(folders=("lookalikes", "voices"))]


def make_tokenizer(keep: Path | None = None) -> Tokenizer:
    """The vocabulary, learned from all real and older written text, and the six answers' tokens.

    Their pieces are learned too, for answers of other taxonomies (distill.py).
    """
    path = keep / "tokenizer.json" if keep else None
    if path is not None and path.exists():
        return Tokenizer.from_file(str(path))
    rows = [*language(), *(real.row for real in outside.annotated())]
    answers = [answer(label) for label in LABELS] * 200
    texts = [t for r in rows for t in (r.prompt, r.response)] + answers
    bpe = tokenizer.train(texts, answer_parts())
    if path is not None:
        bpe.save(str(path))
    return bpe


def kept(folder: Path | None, name: str, make: Callable[[], Kept]) -> Kept:
    """What `make` returns, read from `folder` where it was made before, or else written there."""
    path = folder / f"{name}.pt" if folder else None
    if path is not None and path.exists():
        made: Kept = torch.load(path)
        return made
    made = make()
    if path is not None:
        part = path.with_suffix(".part")  # a run that is killed here leaves no half file behind
        torch.save(made, part)
        part.replace(path)
    return made


def make_language(bpe: Tokenizer, keep: Path | None = None, scale: float = 1.0) -> Llama:
    """A model that has read `language()` and knows no label."""
    recipe = train.TextRecipe(steps=max(int(TEXT_STEPS * scale), 1))

    def read() -> Weights:
        return train.read(Shape(), encode.judge(bpe, language()), recipe).state_dict()

    model = Llama(Shape())
    model.load_state_dict(kept(keep, f"language-{recipe.steps}", read))
    return model


def average(states: Sequence[Weights]) -> Weights:
    """The mean of models that set out from the same weights (Wortsman et al. 2022, "soups")."""
    return {key: torch.stack([s[key] for s in states]).mean(0) for key in states[0]}


def _judge_of_one_seed(
    bpe: str, base: Weights, recipe: train.Recipe, rows: int, without: str
) -> Weights:
    torch.set_num_threads(1)
    start = Llama(JUDGE_SHAPE)
    start.load_state_dict(base)
    drawn = list(itertools.islice(corpus.stream(recipe.seed, without=without), rows))
    reader = Tokenizer.from_str(bpe)
    if recipe.twins:
        examples = encode.twins(reader, drawn, random.Random(recipe.seed))
    else:
        examples = encode.judge(reader, drawn)
    name = f"judge, seed {recipe.seed}"
    return train.train(name, JUDGE_SHAPE, examples, recipe, start).state_dict()


def _side_by_side(
    bpe: Tokenizer,
    base: Weights,
    jobs: Sequence[tuple[train.Recipe, str]],
    rows: int,
    keep: Path | None,
) -> list[Weights]:
    """The weights of a judge for each recipe and model to do without, one thread each.

    Four cores do more so than with four threads on one judge, and sums of floats come out the same
    however many cores there are.
    """

    def made() -> list[Weights]:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(len(jobs), AT_ONCE), mp_context=spawn) as pool:
            judges = [
                pool.submit(_judge_of_one_seed, bpe.to_str(), base, recipe, rows, without)
                for recipe, without in jobs
            ]
            return [judge.result() for judge in judges]

    origin = hashlib.sha256(repr((bpe.to_str(), rows, jobs)).encode())
    for weight in base.values():
        origin.update(weight.numpy().tobytes())
    return kept(keep, f"judges-{origin.hexdigest()[:16]}", made)


def make_judges(
    bpe: Tokenizer,
    base: Llama,
    seeds: Sequence[int],
    *,
    rows: int = JUDGE_ROWS,
    without: str = "",
    keep: Path | None = None,
) -> list[Weights]:
    """A judge of each seed on top of `base`, none of which saw the annotated rows of `without`."""
    jobs = [(train.Recipe(seed=seed, batch_tokens=BATCH), without) for seed in seeds]
    return _side_by_side(bpe, base.state_dict(), jobs, rows, keep)


def make_folds(
    bpe: Tokenizer,
    base: Llama,
    models: Sequence[str],
    *,
    seed: int = 1,
    rows: int = JUDGE_ROWS,
    keep: Path | None = None,
) -> list[Weights]:
    """A judge for each of the models, which did not see that model's annotated rows."""
    jobs = [(train.Recipe(seed=seed, batch_tokens=BATCH), model) for model in models]
    return _side_by_side(bpe, base.state_dict(), jobs, rows, keep)


def refine(
    bpe: Tokenizer,
    weights: Weights,
    *,
    rows: int = ROUND_ROWS,
    without: str = "",
    keep: Path | None = None,
) -> Weights:
    """Rounds of training apart on fresh rows and averaging ("local SGD", Stich 2019)."""
    for peak, twins, seeds in ROUNDS:
        recipe = train.Recipe(batch_tokens=BATCH, peak=peak, text_share=0.0, twins=twins)
        jobs = [(replace(recipe, seed=seed), without) for seed in seeds]
        weights = average(_side_by_side(bpe, weights, jobs, rows, keep))
    return weights


def write_judge(weights: Weights, bpe: Tokenizer, path: Path, *, without: str = "") -> int:
    """Write the judge's file, calibrated on held-out rows; returns its size."""
    model = Llama(JUDGE_SHAPE).eval()
    model.load_state_dict(weights)

    def export_with(calibration: str | None) -> int:
        keys = export.judge_keys("qos", calibration)
        return export.export(model, bpe, path, "evenhand judge", JUDGE_TEXT, judge=keys)

    real, ours = corpus.real(held=True, without=without), corpus.held_out()
    return calibrate.write(
        export_with,
        path,
        Taxonomy.load("qos"),
        [*real, *ours],
        calibrate.EXPECTED,
        calibrate.expected(real, ours),
    )


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
