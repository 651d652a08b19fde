"""`python -m evenhand.training`: text -> tokenizer -> language -> judge -> chat -> GGUF files.

Needs the `train` extra and the real responses in ../shared/data/train; says what is missing.
`--out` writes elsewhere than into build/models, `--scale 0.02` makes a quick trial run, `--keep
DIR` keeps what each stage makes and goes on from what is there: after a run that was broken off,
or for other judges on the same language model (`--only judge --seeds 2` for one of another seed,
`--without MODEL` for one that saw no annotated response of MODEL). The judge is the average of
those of its seeds (written too, as judge-SEED.gguf, to see how far they differ), trained on in
rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evenhand.training import outside

OUT = Path("build/models")  # not engine/bundled: what is made is measured before it ships


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a step took."""
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)


def main() -> None:
    """Run the whole chain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--keep", type=Path, help="a folder for the tokenizer and language model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the judge")
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

    from evenhand.training import pipeline

    if options.threads:
        torch.set_num_threads(options.threads)
    for folder in filter(None, (options.out, options.keep)):
        folder.mkdir(parents=True, exist_ok=True)
    with timed("all"):
        with timed("tokenizer"):
            bpe = pipeline.make_tokenizer(options.keep)
        with timed("language"):
            base = pipeline.make_language(bpe, options.keep, options.scale)
        if options.only != "chat":
            with timed("judge"):
                rows = int(pipeline.JUDGE_ROWS * options.scale)
                without = options.without
                draw = {"without": without, "keep": options.keep}
                judges = pipeline.make_judges(bpe, base, options.seeds, rows=rows, **draw)
                for seed, weights in zip(options.seeds, judges, strict=True):
                    path = options.out / f"judge-{seed}.gguf"
                    pipeline.write_judge(weights, bpe, path, without=without)
                rows = int(pipeline.ROUND_ROWS * options.scale)
                judge = pipeline.refine(bpe, pipeline.average(judges), rows=rows, **draw)
                path = options.out / "judge.gguf"
                size = pipeline.write_judge(judge, bpe, path, without=without)
            print(f"judge.gguf: {size:,} bytes")
        if options.only != "judge":
            with timed("chat"):
                rows = int(pipeline.CHAT_ROWS * options.scale)
                model = pipeline.make_chat(bpe, base, 1, rows=rows)
                size = pipeline.write_chat(model, bpe, options.out / "chat.gguf")
            print(f"chat.gguf: {size:,} bytes")


if __name__ == "__main__":
    main()
