"""Score a judge GGUF through llama.cpp on labelled rows: `python -m evenhand.training.evaluate`.

Uses llama-cpp-python's low-level API, one answer at a time, as an independent check of the engine;
a label's score is the sum of its answer's token log-probabilities, as the engine's is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evenhand.training import corpus, encode
from evenhand.training import tokenizer as tok
from evenhand.training.rows import LABELS, Row, answer

ROOT = Path(__file__).resolve().parent.parent
JUDGE = ROOT / "engine" / "bundled" / "judge.gguf"


class Scorer:
    """A judge GGUF in llama.cpp, whose `scores` gives log P of each of the six whole answers."""

    def __init__(self, path: Path, threads: int = 3) -> None:
        from llama_cpp import Llama

        self.llama: Any = Llama(
            str(path), n_ctx=1024, n_batch=1024, n_threads=threads, logits_all=True, verbose=False
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


def plain_cases() -> list[Row]:
    """The sixty cases of tests/data/plain_cases.jsonl."""
    lines = corpus.PLAIN_CASES.read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line), source="plain cases") for line in lines]


def report(name: str, rows: Sequence[Row], scorer: Scorer) -> int:
    """Print right answers per label and the confusion matrix; returns how many were right."""
    began = time.perf_counter()
    confusion = np.zeros((len(LABELS), len(LABELS)), int)
    for row in rows:
        guess = int(scorer.scores(row.prompt, row.response).argmax())
        confusion[LABELS.index(row.label), guess] += 1
    right, seconds = int(confusion.trace()), time.perf_counter() - began
    print(f"{name}: {right} of {len(rows)} right ({seconds:.1f} s)")
    print(f"  {'':18}" + "".join(f"{label[:9]:>10}" for label in LABELS))
    for label, line in zip(LABELS, confusion, strict=True):
        print(f"  {label:18}" + "".join(f"{n:10}" for n in line))
    return right


def main() -> None:
    """Score the plain cases and the held-out written rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=JUDGE)
    options = parser.parse_args()
    scorer = Scorer(options.model)
    report("plain cases", plain_cases(), scorer)
    report("held-out written rows", corpus.held_out(), scorer)


if __name__ == "__main__":
    main()
