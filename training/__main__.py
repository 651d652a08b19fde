"""`python -m evenhand.training`: text -> tokenizer -> judge -> chat -> GGUF files, with timings.

Needs nothing but the repository and the `train` extra. `--out` writes elsewhere than into
engine/bundled; `--scale 0.05` makes a quick trial run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evenhand.training import chat, corpus
from evenhand.training.rows import answer

BUNDLED = Path(__file__).resolve().parent.parent / "engine" / "bundled"
JUDGE_ROWS = 40_000
CHAT_ROWS = 60_000
TOKENIZER_ROWS = 16_000
JUDGE_TEXT = (
    "A small judge: labels a (prompt, response) pair with one of the six qos labels. "
    "Trained from scratch on the evenhand project's own text."
)
CHAT_TEXT = (
    "A toy chat model for trying evenhand offline: completes short sentences or declines. "
    "Trained from scratch on the evenhand project's own text."
)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a step took."""
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


def main() -> None:
    """Run the whole chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the training rows")
    parser.add_argument("--only", choices=("judge", "chat"), help="train and write one of the two")
    options = parser.parse_args()

    # Threads that spin while they wait lose most of their speed on a machine that does other work
    # too (measured: 500 tokens/s against 3,300). Must be set before torch starts its threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from evenhand.training import encode, export, load, tokenizer, train
    from evenhand.training.model import Shape

    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with timed("text"):
        rows = list(itertools.islice(corpus.stream(options.seed), int(JUDGE_ROWS * options.scale)))
        talk = list(itertools.islice(chat.stream(options.seed), int(CHAT_ROWS * options.scale)))
    with timed("tokenizer"):
        judged = [t for r in rows[:TOKENIZER_ROWS] for t in (r.prompt, r.response, answer(r.label))]
        spoken = [t for d in talk[: TOKENIZER_ROWS // 2] for t in (d.system, d.user, d.reply)]
        bpe = tokenizer.train(judged + spoken)
    if options.only != "chat":
        with timed("judge"):
            recipe = train.Recipe(seed=options.seed)
            judge = train.train("judge", Shape(), encode.judge(bpe, rows), recipe)
        size = export.export(
            judge, bpe, options.out / "judge.gguf", "evenhand judge", JUDGE_TEXT, judge=True
        )
        print(f"judge.gguf: {size:,} bytes")
    if options.only != "judge":
        # The chat model starts from the judge's file: the two share a tokenizer, and the judge has
        # read more text than there is time for here.
        start, bpe = load.load(options.out / "judge.gguf")
        with timed("chat"):
            recipe = train.Recipe(
                seed=options.seed, text_weight=0.0, per_token=True, batch_tokens=2048, peak=3e-3
            )
            model = train.train("chat", Shape(), encode.chat(bpe, talk), recipe, start)
        size = export.export(
            model, bpe, options.out / "chat.gguf", "evenhand chat", CHAT_TEXT, judge=False
        )
        print(f"chat.gguf: {size:,} bytes")
    print(f"all: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
