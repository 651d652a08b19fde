"""How the judge does on a model it has never read: `python -m evenhand.training.folds --keep DIR`.

For each model with annotated responses, a judge is trained without them and measured on them, by
the first stage of the shipped one; beside it the same without the calibration, which expects more
helpful answers than these models gave, and the linear model on the same rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from pathlib import Path

from evenhand.training import outside


def main() -> None:
    """Train the folds side by side, measure one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True, help="as for `evenhand.training`")
    parser.add_argument("--rows", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="some models; all where it is left out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see __main__.py
    from evenhand.judge import Judge
    from evenhand.judge.calibration import IDENTITY
    from evenhand.training import calibrate, corpus, evaluate, linear, pipeline

    options.keep.mkdir(parents=True, exist_ok=True)
    bpe = pipeline.make_tokenizer(options.keep)
    base = pipeline.make_language(bpe, options.keep)
    out = {}
    models = options.only or sorted({real.model for real in outside.annotated()})
    made = pipeline.make_folds(
        bpe, base, models, seed=options.seed, rows=options.rows, keep=options.keep
    )
    for model, judge in zip(models, made, strict=True):
        held = [real.row for real in outside.annotated() if real.model == model]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "judge.gguf"
            pipeline.write_judge(judge, bpe, path, without=model)
            pairs = [(r.prompt, r.response) for r in held]
            with Judge(str(path)) as opened:
                p = calibrate.probabilities(opened, pairs)
            with Judge(str(path), calibration=IDENTITY) as opened:
                raw = calibrate.probabilities(opened, pairs)
        drawn = itertools.islice(corpus.stream(options.seed, without=model), options.rows)
        q = linear.probabilities(linear.fit(list(drawn)), [r.response for r in held])
        out[model] = {
            "judge": evaluate.six_way(f"judge without {model}", held, p),
            "uncalibrated": evaluate.six_way(f"the same, uncalibrated, without {model}", held, raw),
            "linear": evaluate.six_way(f"linear model without {model}", held, q),
        }
    if options.json:
        options.json.write_text(json.dumps(out, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
