"""`python -m evenhand.training`: text -> tokenizer -> language -> judge -> chat -> GGUF files.

Needs the `train` extra and the real responses in ../shared/data/train; says what is missing.
`--out` writes elsewhere than into engine/bundled, `--scale 0.02` makes a quick trial run, `--keep
DIR` keeps (and reuses) the tokenizer and the language model, which other judges can start from:
`--only judge --seed 2`, or `--without MODEL` for a judge that saw no annotated response of MODEL.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evenhand.training import chat, corpus, outside, written
from evenhand.training.rows import LABELS, Row, answer

BUNDLED = Path(__file__).resolve().parent.parent / "engine" / "bundled"
TEXT_STEPS = 3_500
JUDGE_ROWS = 40_000
CHAT_ROWS = 40_000
JUDGE_TEXT = (
    "A small judge: labels a (prompt, response) pair with one of the six qos labels. "
    "Trained from scratch by the evenhand project; see docs/models/bundled-judge.md."
)
CHAT_TEXT = (
    "A toy chat model for trying evenhand offline: completes short sentences or declines. "
    "Trained from scratch by the evenhand project."
)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a step took."""
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


def language() -> list[Row]:
    """What language is learned from: real responses without labels, and the older of our own.

    Annotated responses stay out, so that a judge trained without one of their models has not read
    that model's responses here either.
    """
    return [*outside.texts(), *written.read(folders=("lookalikes", "voices"))]


def main() -> None:
    """Run the whole chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--keep", type=Path, help="a folder for the tokenizer and language model")
    parser.add_argument("--seed", type=int, default=1, help="of the judge's and chat's training")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of all training")
    parser.add_argument("--only", choices=("judge", "chat"), help="train and write one of the two")
    parser.add_argument("--without", default="", help="a model whose responses stay out")
    options = parser.parse_args()
    if missing := outside.missing():
        sys.exit(
            "These files of real responses are not here, and without them this would be another "
            f"judge: {', '.join(map(str, missing))}. Their sources and licences are in "
            "docs/models/bundled-judge.md."
        )

    # Threads that spin while they wait lose most of their speed on a machine that does other work
    # too (measured: 500 tokens/s against 3,300). Must be set before torch starts its threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from tokenizers import Tokenizer

    from evenhand.training import encode, evaluate, export, tokenizer, train
    from evenhand.training.model import Shape

    if options.threads:
        torch.set_num_threads(options.threads)
    keep = options.keep
    for folder in filter(None, (options.out, keep)):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    kept = keep / "tokenizer.json" if keep else None
    if kept and kept.exists():
        bpe = Tokenizer.from_file(str(kept))
    else:
        with timed("tokenizer"):
            rows = [*language(), *(real.row for real in outside.annotated())]
            answers = [answer(label) for label in LABELS] * 200
            bpe = tokenizer.train([t for r in rows for t in (r.prompt, r.response)] + answers)
        if kept:
            bpe.save(str(kept))
    with timed("language"):
        reading = train.TextRecipe(steps=int(TEXT_STEPS * options.scale))
        texts = encode.judge(bpe, language())
        base = train.read(Shape(), texts, reading, keep / "language.pt" if keep else None)

    if options.only != "chat":
        path = options.out / "judge.gguf"
        with timed("judge"):
            stream = corpus.stream(options.seed, without=options.without)
            rows = list(itertools.islice(stream, int(JUDGE_ROWS * options.scale)))
            judge = train.train(
                "judge", Shape(), encode.judge(bpe, rows), train.Recipe(seed=options.seed), base
            )
        calibration = None
        for _ in range(2):  # uncalibrated, to be measured; then with what the measurement gave
            keys = export.judge_keys("qos", calibration)
            size = export.export(judge, bpe, path, "evenhand judge", JUDGE_TEXT, judge=keys)
            calibration = calibration or evaluate.fit(path).model_dump_json()
        print(f"judge.gguf: {size:,} bytes, calibration {calibration}")
    if options.only != "judge":
        with timed("chat"):
            talk = list(itertools.islice(chat.stream(options.seed), int(CHAT_ROWS * options.scale)))
            recipe = train.Recipe(
                seed=options.seed, text_weight=0.0, per_token=True, batch_tokens=2048
            )
            model = train.train("chat", Shape(), encode.chat(bpe, talk), recipe, base)
        path = options.out / "chat.gguf"
        size = export.export(model, bpe, path, "evenhand chat", CHAT_TEXT, judge=None)
        print(f"chat.gguf: {size:,} bytes")
    print(f"all: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
