"""Check that a judge GGUF does in llama.cpp what it does in torch.

`python -m evenhand.training.parity` reads the file back (weights and vocabulary), so that it checks
what users get and not what was in memory. Scores come from llama-cpp-python's low-level API, one
answer at a time, and not from the engine that users run.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evenhand.training import corpus, encode, train
from evenhand.training import tokenizer as tok
from evenhand.training.load import load
from evenhand.training.rows import LABELS, answer

JUDGE = Path(__file__).resolve().parent.parent / "engine" / "bundled" / "judge.gguf"


class Scorer:
    """A judge GGUF in llama.cpp, whose `scores` gives log P of each of the six whole answers."""

    def __init__(self, path: Path, threads: int = 3) -> None:
        from llama_cpp import Llama

        self.llama: Any = Llama(
            str(path), n_ctx=0, n_batch=1024, n_threads=threads, logits_all=True, verbose=False
        )
        self.cut = self.text(encode.CUT)
        self.ends = [[*self.text(answer(label)), tok.EOS] for label in LABELS]

    def text(self, text: str) -> list[int]:
        """Ids of plain text, with nothing in it read as a control token."""
        ids: list[int] = self.llama.tokenize(text.encode(), add_bos=False, special=False)
        return ids

    def head(self, prompt: str, response: str) -> list[int]:
        """Everything before the answer."""
        longest = max(map(len, self.ends))
        p = encode.fit(self.text(prompt), encode.CONTEXT // 3, self.cut)
        r = encode.fit(self.text(response), encode.CONTEXT - len(p) - longest - 4, self.cut)
        return [tok.BOS, tok.PROMPT, *p, tok.RESPONSE, *r, tok.VERDICT]

    def scores(self, prompt: str, response: str) -> npt.NDArray[np.float64]:
        """Log-probabilities of the answers, in the order of LABELS."""
        head = self.head(prompt, response)
        self.llama.reset()
        self.llama.eval(head)
        out = []
        for end in self.ends:
            self.llama.n_tokens = len(head)
            self.llama._ctx.kv_cache_seq_rm(-1, len(head), -1)
            self.llama.eval(end[:-1])
            rows = np.array(self.llama.scores[len(head) - 1 : len(head) + len(end) - 1], np.float64)
            rows -= rows.max(1, keepdims=True)
            logs = rows - np.log(np.exp(rows).sum(1, keepdims=True))
            out.append(float(logs[np.arange(len(end)), end].sum()))
        return np.array(out)


def main() -> None:
    """Compare ids, labels and scores on fresh rows; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=JUDGE)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    model, bpe = load(options.model)
    scorer = Scorer(options.model)
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
