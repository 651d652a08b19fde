"""Measure a judge GGUF through the real engine: `python -m evenhand.training.evaluate`.

Prints six-way figures on held-out rows, agreement with people on XSTest's development set beside
the raters that the file carries, calibration, and how often a verdict changes with a name.
Intervals are bootstraps over prompts: responses to one prompt are not independent.

`--fold MODEL` measures on all annotated responses of one model instead (for a judge that was
trained without it). `--json FILE` writes everything printed, and the errors on the development set.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evenhand.engine import EngineSettings, open_engine
from evenhand.engine.native import available_cores
from evenhand.judge import Judge
from evenhand.judge import agreement as measure
from evenhand.judge.agreement import Floats, Indices
from evenhand.prompts.names import is_hidden
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.training import corpus, names, outside
from evenhand.training.calibrate import probabilities
from evenhand.training.rows import LABELS, Row

XSTEST = outside.FOLDER.parent / "xstest_dev.jsonl"
CLASSES = ("full_compliance", "full_refusal", "partial_refusal")
SWAPS = 8  # other names put in place of each row's own


def plain_cases() -> list[Row]:
    """The sixty cases of tests/data/plain_cases.jsonl; none where the tests are not at hand."""
    if not corpus.PLAIN_CASES.exists():
        return []
    lines = corpus.PLAIN_CASES.read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line), source="plain cases") for line in lines]


def named_completions() -> list[tuple[Row, str]]:
    """Sentences completed under a name, and the name: the study's kind of text, never trained on.

    Written by another hand than the training text.
    """
    if not corpus.NAMED_CASES.exists():
        return []
    records = [
        json.loads(line) for line in corpus.NAMED_CASES.read_text(encoding="utf-8").splitlines()
    ]
    return [
        (Row(r["prompt"], r["response"], r["label"], "named completions"), r["name"])
        for r in records
    ]


def _show(value: float, bounds: tuple[float, float]) -> str:
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _print_table(table: Indices, labels: Sequence[str]) -> None:
    print(f"  {'':18}" + "".join(f"{label[:11]:>12}" for label in labels) + "      recall")
    for label, line, recall in zip(labels, table, measure.recalls(table), strict=True):
        print(f"  {label:18}" + "".join(f"{n:12}" for n in line) + f"{recall:12.2f}")


def six_way(name: str, rows: Sequence[Row], p: Floats) -> dict[str, Any]:
    """Print and return accuracy and macro-F1 with intervals, and the confusion matrix."""
    gold = np.array([LABELS.index(r.label) for r in rows])
    said = p.argmax(1)

    def f1(where: Indices) -> float:
        return measure.macro_f1(measure.confusion(gold[where], said[where], len(LABELS)))

    table = measure.confusion(gold, said, len(LABELS))
    score, bounds = measure.macro_f1(table), measure.interval(f1, [r.prompt for r in rows])
    print(
        f"{name}: {table.trace()} of {len(rows)} right ({measure.accuracy(table):.3f}), "
        f"macro-F1 {_show(score, bounds)}"
    )
    _print_table(table, LABELS)
    return {"rows": len(rows), "right": int(table.trace()), "macro_f1": score, "interval": bounds}


@dataclass(frozen=True)
class Xstest:
    """The development set: rows, and the people's final labels as class indices."""

    rows: list[dict[str, str]]
    gold: Indices

    @classmethod
    def read(cls) -> Xstest:
        """Read the file."""
        rows = [json.loads(line) for line in XSTEST.read_text(encoding="utf-8").splitlines()]
        return cls(rows, np.array([_class(r["label"]) for r in rows]))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Prompts and responses."""
        return [(r["prompt"], r["response"]) for r in self.rows]

    def kappa(self, said: Indices, kind: int, where: Indices) -> float:
        """Kappa of the rows `where`: of three classes (0), or of refused in any way or not (1)."""
        gold, said = self.gold[where], said[where]
        if kind:
            table = measure.confusion(gold > 0, said > 0, 2)
        else:
            table = measure.confusion(gold, said, 4)  # the fourth: an answer of no class
        return measure.cohen_kappa(table)

    def kappas(self, said: Indices, where: Indices | None = None) -> tuple[float, float]:
        """Both kinds of kappa."""
        index = np.arange(len(self.gold)) if where is None else where
        return self.kappa(said, 0, index), self.kappa(said, 1, index)


def _class(said: str) -> int:
    """XSTest's classes by their number; text that is none of them counts as an own class."""
    return {"1": 0, "2": 1, "3": 2}.get(said[:1], 3)


def three_way(p: Floats) -> Floats:
    """Six label probabilities summed into XSTest's three classes, (rows, 3)."""
    walk = next(c for c in Taxonomy.load("qos").crosswalks if c.name == "xstest")
    onto = np.zeros((len(LABELS), len(CLASSES)))
    for i, label in enumerate(LABELS):
        onto[i, CLASSES.index(walk.labels[label])] = 1
    return p @ onto


def xstest(p: Floats, data: Xstest, title: str = "this judge") -> dict[str, Any]:
    """Print and return agreement with people, for the judge and the file's other raters.

    The judge's class is that of its best label, as the crosswalk of a verdict gives it.
    """
    walk = three_way(np.eye(len(LABELS)))
    said = walk[p.argmax(1)].argmax(1)
    raters = {title: said} | {
        name: np.array([_class(r[column]) for r in data.rows])
        for name, column in (
            ("GPT-4 as judge", "gpt4_judge"),
            ("string matching", "string_match"),
            ("second human", "annotation_2"),
        )
    }
    clusters = [r["prompt"] for r in data.rows]
    print(f"XSTest, development set ({len(data.rows)} rows): kappa with people's final label")
    print(f"  {'':18}{'three classes':>24}{'refused or not':>24}")
    out: dict[str, Any] = {}
    for name, column in raters.items():
        values = data.kappas(column)
        bounds = [measure.interval(partial(data.kappa, column, kind), clusters) for kind in (0, 1)]
        out[name] = {"kappa": values, "intervals": bounds}
        print(
            f"  {name:18}"
            + "".join(f"{_show(*pair):>24}" for pair in zip(values, bounds, strict=True))
        )
    for model in sorted({r["model"] for r in data.rows}):
        where = np.array([i for i, r in enumerate(data.rows) if r["model"] == model])
        three, two = data.kappas(said, where)
        out[model] = (three, two)
        print(f"  on {model:15}{three:24.3f}{two:24.3f}")
    _print_table(measure.confusion(data.gold, said, 3), CLASSES)
    summed = three_way(p)
    spread = measure.calibration_error(summed, data.gold, clusters)
    out["ece"] = spread.value
    shown = _show(spread.value, (spread.low, spread.high))
    print(f"  calibration error of the three classes (ECE, 15 bins): {shown}")
    return out


def _named_rows() -> list[tuple[Row, names.Name]]:
    """Held-out rows whose prompt holds one of our names, and the first that it holds."""
    found = [(r, names.find(r.prompt)) for r in corpus.held_out()]
    return [(row, name) for row, name in found if name is not None]


Pair = tuple[str, str]
Swap = tuple[Pair, Sequence[Pair]]


def swaps(rng: random.Random) -> dict[str, list[Swap]]:
    """Pairs by set, each with the same text under other names.

    The names are listed and of the same gender, so that a template may hide them; or nobody's.
    """
    held = [((r.prompt, r.response), found.text) for r, found in _named_rows()]
    cases = [((r.prompt, r.response), name) for r, name in named_completions()]

    def named(pair: Pair, old: str) -> list[Pair]:
        gender = names.gender(" ".join(pair))
        return [names.replace(*pair, old, names.draw(rng, gender).text) for _ in range(SWAPS)]

    def nobodys(pair: Pair, old: str) -> list[Pair]:
        drawn = (names.invent(rng) for _ in itertools.count())
        unlisted = itertools.islice((n for n in drawn if not is_hidden(n)), SWAPS)
        return [names.replace(*pair, old, n) for n in unlisted]

    return {
        "held-out rows": [(p, [names.swap(*p, rng) for _ in range(SWAPS)]) for p, _ in held],
        "named completions": [(p, named(p, old)) for p, old in cases],
        "held-out rows, for nobody's": [(p, nobodys(p, old)) for p, old in held],
        "named completions, for nobody's": [(p, nobodys(p, old)) for p, old in cases],
    }


def flips(judge: Judge, pairs: Sequence[Swap], title: str) -> dict[str, Any]:
    """Print and return how often a verdict changes when nothing but the name does."""
    before = np.repeat(probabilities(judge, [pair for pair, _ in pairs]).argmax(1), SWAPS)
    swapped = [other for _, others in pairs for other in others]
    changed = (probabilities(judge, swapped).argmax(1) != before).astype(float)
    rate = float(changed.mean())
    clusters = [pair[0] for pair, _ in pairs for _ in range(SWAPS)]
    bounds = measure.interval(lambda w: float(changed[w].mean()), clusters)
    print(f"name swaps, {title}: {_show(rate, bounds)} of {len(swapped)} verdicts changed")
    return {"rate": rate, "interval": bounds, "pairs": len(swapped)}


def main() -> None:
    """Print every figure of the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled:judge")
    parser.add_argument("--fold", default="")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    out: dict[str, Any] = {}
    engine = open_engine(options.model, EngineSettings(n_threads=options.threads))
    with Judge(engine, owns_engine=True) as judge:
        if options.fold:
            sets = {
                f"annotated, {options.fold}": [
                    r.row for r in outside.annotated() if r.model == options.fold
                ]
            }
        else:
            real = corpus.real(held=True)
            sets = {
                "plain cases": plain_cases(),
                "named completions": [row for row, _ in named_completions()],
                "held-out written rows": corpus.held_out(),
                "held-out real rows": real,
            }
        for name, rows in sets.items():
            if rows:
                p = probabilities(judge, [(r.prompt, r.response) for r in rows])
                out[name] = six_way(name, rows, p)
            else:
                print(f"{name}: the file is not here")
        if not options.fold:
            for title, pairs in swaps(random.Random(0)).items():
                if pairs:
                    out[f"name swaps, {title}"] = flips(judge, pairs, title)
            if XSTEST.exists():
                data = Xstest.read()
                p = probabilities(judge, data.pairs)
                out["xstest"] = xstest(p, data)
                out["xstest"]["labels"] = [LABELS[i] for i in p.argmax(1)]
            else:
                print("XSTest: the file is not here")
    if options.json:
        options.json.write_text(json.dumps(out, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
