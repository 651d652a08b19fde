"""Check that a judge GGUF does in llama.cpp what it does in torch.

`python -m evenhand.training.parity` reads the file back (weights and vocabulary), so that it checks
what users get and not what was in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from evenhand.training import corpus, encode, evaluate, train
from evenhand.training.load import load


def main() -> None:
    """Compare ids, labels and scores on fresh rows; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=evaluate.JUDGE)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    model, bpe = load(options.model)
    scorer = evaluate.Scorer(options.model)
    rows = list(itertools.islice(corpus.stream(99), options.rows))
    ours = train.label_scores(model, bpe, rows).double().numpy()
    ids = labels = 0
    widest = 0.0
    for row, example, mine in zip(rows, encode.judge(bpe, rows), ours, strict=True):
        head = scorer.head(row.prompt, row.response)
        ids += tuple(head) == example.ids[: example.start]
        theirs = scorer.scores(row.prompt, row.response)
        labels += int(mine.argmax()) == int(theirs.argmax())
        widest = max(widest, float(abs(mine - theirs)[mine > mine.max() - 5].max()))
    result = {"rows": len(rows), "same ids": ids, "same label": labels, "widest gap": widest}
    print(json.dumps(result))
    raise SystemExit(0 if ids == labels == len(rows) else 1)


if __name__ == "__main__":
    main()
