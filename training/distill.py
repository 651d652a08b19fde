"""A small judge from labels of your own: the bundled judge's weights, trained on for your taxonomy.

Labels may come from people or from a large judge run through evenhand. The start is a judge GGUF of
ours, whose language it keeps. One prompt in five is held out: half of those fit the temperature
that goes into the file, the other half are measured on.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evenhand.judge import Calibration, Judge, calibration
from evenhand.judge import agreement as measure
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.training import augment, encode, export, train
from evenhand.training.load import load
from evenhand.training.rows import Row

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
    number = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) % 10
    return {0: "calibrate", 1: "measure"}.get(number, "train")


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
    for part in ("train", "calibrate", "measure"):
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
    parts = {name: [r for r in rows if _part(r.prompt) == name] for name in ("train", "calibrate")}
    measured = [r for r in rows if _part(r.prompt) == "measure"]
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

    def write(fitted: Calibration | None) -> int:
        keys = export.judge_keys(taxonomy.name, fitted.model_dump_json() if fitted else None)
        text = f"Distilled by evenhand for the taxonomy {taxonomy.name}."
        return export.export(made, bpe, out, out.stem, text, judge=keys)

    write(None)
    with Judge(str(out), taxonomy) as judge:
        log_probs, gold = _scores(judge, parts["calibrate"], taxonomy)
    fitted = calibration.fit(log_probs, gold.tolist(), taxonomy.labels, fitted_on="held-out rows")
    size = write(fitted)
    with Judge(str(out), taxonomy) as judge:
        log_probs, gold = _scores(judge, measured, taxonomy)
    table = measure.confusion(gold, log_probs.argmax(1), len(taxonomy.labels))
    return Report(
        rows=len(rows),
        trained_on=len(parts["train"]),
        measured_on=len(measured),
        labels=dict(Counter(r.label for r in rows)),
        accuracy=measure.accuracy(table),
        majority=float(table.sum(1).max() / table.sum()),
        macro_f1=measure.macro_f1(table),
        kappa=measure.cohen_kappa(table),
        ece=measure.expected_calibration_error(np.exp(log_probs), gold),
        bytes=size,
    )


def _scores(judge: Judge, rows: Sequence[Row], taxonomy: Taxonomy) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, (rows, labels), and the labels' indices."""
    out = []
    for verdict in judge.judge_many((r.prompt, r.response) for r in rows):
        if verdict.probabilities is None:
            raise InvalidInput(
                f"a held-out row got no probabilities: {verdict.failure}", hint="Drop the row."
            )
        out.append([verdict.probabilities[label] for label in taxonomy.labels])
    return (
        np.log(np.maximum(np.array(out), 1e-12)),
        np.array([taxonomy.labels.index(r.label) for r in rows]),
    )
