"""A small judge from labels of your own: the bundled judge's weights, trained on for your taxonomy.

Labels may come from people or from a large judge run through evenhand. The start is a judge GGUF of
ours, whose language it keeps. One prompt in five is held out: half of those fit the temperature
that goes into the file, the other half are measured on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evenhand.judge import Judge
from evenhand.judge import agreement as measure
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.training import augment, calibrate, encode, export, train
from evenhand.training.load import load
from evenhand.training.rows import Row, tenth

PARTS = ("train", "calibrate", "measure")
LEAST = 10  # rows of a label, under which it cannot be learned or measured
DRAWS = 8  # times that each row is drawn, on average
LEAST_STEPS = 150  # few rows are learned in smaller batches, and not in fewer steps


@dataclass(frozen=True)
class Report:
    """What came of it. Figures are of the held-out rows that did not fit the temperature."""

    rows: int
    trained_on: int
    measured_on: int
    labels: dict[str, int]
    accuracy: float
    majority: float  # accuracy of always saying the most frequent label
    macro_f1: float
    kappa: float
    ece: float
    bytes: int


def _part(prompt: str) -> str:
    """Which part a prompt and all its rows belong to."""
    return {0: "calibrate", 1: "measure"}.get(tenth(prompt), "train")


def check(rows: Sequence[Row], taxonomy: Taxonomy) -> None:
    """Raise `InvalidInput` where no judge can come of these rows."""
    counts = Counter(r.label for r in rows)
    if strange := sorted(set(counts) - set(taxonomy.labels)):
        raise InvalidInput(
            f"labels that taxonomy {taxonomy.name!r} does not have: {', '.join(strange[:5])}",
            hint=f"Its labels are {', '.join(taxonomy.labels)}. Name your own with --taxonomy.",
        )
    if few := [label for label in taxonomy.labels if counts[label] < LEAST]:
        raise InvalidInput(
            "too few rows of " + ", ".join(f"{label} ({counts[label]})" for label in few),
            hint=f"Give at least {LEAST} rows of every label, better hundreds.",
        )
    for part in PARTS:
        there = {r.label for r in rows if _part(r.prompt) == part}
        if len(there) < (len(taxonomy.labels) if part == "train" else 2):
            raise InvalidInput(
                f"the rows have too few prompts: the part to {part} has labels "
                f"{', '.join(sorted(there)) or 'of no row'}",
                hint="Rows are split by prompt. Give rows of more prompts.",
            )


def distill(
    rows: Sequence[Row],
    taxonomy: Taxonomy,
    start: Path,
    out: Path,
    *,
    draws: int = DRAWS,
    seed: int = 1,
) -> Report:
    """Train on `rows` from the judge file `start`, write the judge file `out`, and measure it.

    Labels are drawn equally often; each row `draws` times on average. Raises `InvalidInput` for
    rows that cannot make a judge of `taxonomy`, `ModelFileError` where `start` is none of ours.
    """
    check(rows, taxonomy)
    model, bpe = load(start)
    parts = {name: [r for r in rows if _part(r.prompt) == name] for name in PARTS}
    rng = random.Random(seed)
    by_label = {label: [r for r in parts["train"] if r.label == label] for label in taxonomy.labels}
    each = len(parts["train"]) * draws // len(taxonomy.labels)
    drawn = [
        augment.typography(augment.cut_tail(augment.window(rng.choice(pool), rng), rng), rng)
        for pool in by_label.values()
        for _ in range(each)
    ]
    rng.shuffle(drawn)
    examples = encode.judge(bpe, drawn, labels=taxonomy.labels)
    tokens = sum(len(e.ids) for e in examples)
    recipe = train.Recipe(
        seed=seed, peak=2e-3, batch_tokens=min(max(tokens // LEAST_STEPS, 256), 4096)
    )
    made = train.train("distill", model.shape, examples, recipe, model)

    def export_with(fitted: str | None) -> int:
        keys = export.judge_keys(taxonomy.name, fitted)
        text = f"Distilled by evenhand for the taxonomy {taxonomy.name}."
        return export.export(made, bpe, out, out.stem, text, judge=keys)

    size = calibrate.write(export_with, out, taxonomy, parts["calibrate"], "held-out rows")
    with Judge(str(out), taxonomy) as judge:
        p = calibrate.probabilities(judge, [(r.prompt, r.response) for r in parts["measure"]])
    gold = [taxonomy.labels.index(r.label) for r in parts["measure"]]
    table = measure.confusion(gold, p.argmax(1), len(taxonomy.labels))
    return Report(
        rows=len(rows),
        trained_on=len(parts["train"]),
        measured_on=len(parts["measure"]),
        labels=dict(Counter(r.label for r in rows)),
        accuracy=measure.accuracy(table),
        majority=float(table.sum(1).max() / table.sum()),
        macro_f1=measure.macro_f1(table),
        kappa=measure.cohen_kappa(table),
        ece=measure.expected_calibration_error(p, gold),
        bytes=size,
    )
