"""Coverage of rates corrected for judge error, on simulated audits whose truth is known.

The tables of docs/validity.md:

    python -m benchmarks.corrections

Everything is drawn anew each time: who is what, what the judge says, which rows people label. An
interval that is not given (the correction is not identified) is not counted as one that covers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress, TaskID
from scipy import special  # type: ignore[import-untyped]

from evenhand.audit.statistics import Population
from evenhand.judge.agreement import confusion
from evenhand.judge.budget import labels_needed
from evenhand.judge.correction import (
    Accuracy,
    Audited,
    Corrected,
    confusion_inverse,
    design_effect,
    ppi_difference,
    ppi_rate,
    rogan_gladen,
    uncorrected_rate,
)

Floats = npt.NDArray[np.float64]
Intervals = Mapping[str, tuple[Corrected, float]]  # by method, with the truth
Draw = Callable[[np.random.Generator], Intervals]

ROWS = 672  # of one group of qos-names
PREVALENCES = (0.01, 0.05, 0.2, 0.5)
LABELS = (50, 100, 200, 500)
JUDGES = ((0.7, 0.8), (0.7, 0.98), (0.8, 0.9), (0.95, 0.8), (0.95, 0.98))

UNCORRECTED = "uncorrected"
BALANCED = "Rogan-Gladen, half of the calibration set positive"
ALIKE = "Rogan-Gladen, calibration set like the audit"
POOLED = "Rogan-Gladen, pooled calibration set"
WITHIN = "Rogan-Gladen, calibrated within the group"
PPI = "PPI"


@dataclass
class Tally:
    """What became of the intervals of one method."""

    draws: int = 0
    held: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, found: Corrected, truth: float) -> None:
        """Count one."""
        self.draws += 1
        if found.interval is not None:
            low, high = found.interval
            self.held.append(low - 1e-12 <= truth <= high + 1e-12)
            self.widths.append(high - low)

    @property
    def coverage(self) -> float:
        """Share of the intervals given that hold the truth; NaN where none was."""
        return float(np.mean(self.held)) if self.held else float("nan")

    @property
    def width(self) -> float:
        """Mean width."""
        return float(np.mean(self.widths)) if self.held else float("nan")

    @property
    def identified(self) -> float:
        """Share of draws with an interval."""
        return len(self.held) / self.draws


def simulate(draw: Draw, draws: int, seed: int) -> dict[str, Tally]:
    """`draws` times; the same seed gives the same tallies."""
    rng, tallies = np.random.default_rng(seed), dict[str, Tally]()
    for _ in range(draws):
        for method, (found, truth) in draw(rng).items():
            tallies.setdefault(method, Tally()).add(found, truth)
    return tallies


# -- what is drawn --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """How often a judge is right about rows that are, and are not, of the class."""

    sensitivity: float
    specificity: float

    def says(self, truth: Floats, rng: np.random.Generator) -> Floats:
        """Verdicts on rows, 1 or 0."""
        yes = np.where(truth > 0, self.sensitivity, 1 - self.specificity)
        return (rng.random(truth.shape) < yes).astype(np.float64)

    def calibrate(self, positives: int, labels: int, rng: np.random.Generator) -> Accuracy:
        """Its hits on a set of `labels` rows."""
        others = labels - positives
        return Accuracy(
            rng.binomial(positives, self.sensitivity),
            positives,
            rng.binomial(others, self.specificity),
            others,
        )


def hidden(truth: Floats, labels: int, rng: np.random.Generator) -> Floats:
    """The truth of a random `labels` of the rows, NaN elsewhere."""
    out = np.full(truth.shape, np.nan)
    picked = rng.choice(len(truth), labels, replace=False)
    out[picked] = truth[picked]
    return out


def one_rate(prevalence: float, labels: int, judge: Judge) -> Draw:
    """Independent rows, and a judge that errs in the audit as on the calibration set."""

    def draw(rng: np.random.Generator) -> Intervals:
        truth = (rng.random(ROWS) < prevalence).astype(np.float64)
        said = judge.says(truth, rng)
        yes = float(said.sum())
        alike = judge.calibrate(int(rng.binomial(labels, prevalence)), labels, rng)
        balanced = judge.calibrate(labels // 2, labels, rng)
        found = {
            UNCORRECTED: uncorrected_rate(yes, ROWS),
            BALANCED: rogan_gladen(yes, ROWS, balanced),
            ALIKE: rogan_gladen(yes, ROWS, alike),
            PPI: ppi_rate(Audited(hidden(truth, labels, rng), said)),
            "PPI without adjustment": ppi_rate(
                Audited(hidden(truth, labels, rng), said), adjusted=False
            ),
        }
        return {method: (interval, prevalence) for method, interval in found.items()}

    return draw


def two_groups(prevalence: float, labels: int, here: Judge, elsewhere: Judge) -> Draw:
    """Two groups of one true rate; the judge errs in the first as `here`, else as `elsewhere`.

    The pooled calibration set has as many rows of either group.
    """

    def draw(rng: np.random.Generator) -> Intervals:
        truth = (rng.random((2, ROWS)) < prevalence).astype(np.float64)
        said = [here.says(truth[0], rng), elsewhere.says(truth[1], rng)]
        yes = float(said[0].sum())
        half = [judge.calibrate(labels // 4, labels // 2, rng) for judge in (here, elsewhere)]
        pooled = Accuracy(
            half[0].true_positives + half[1].true_positives,
            half[0].positives + half[1].positives,
            half[0].true_negatives + half[1].true_negatives,
            half[0].negatives + half[1].negatives,
        )
        sides = [Audited(hidden(t, labels, rng), s) for t, s in zip(truth, said, strict=True)]
        # The judge's own rates, as if every row had been labelled by it.
        naive = [Audited(s, s) for s in said]
        return {
            UNCORRECTED: (uncorrected_rate(yes, ROWS), prevalence),
            POOLED: (rogan_gladen(yes, ROWS, pooled), prevalence),
            WITHIN: (
                rogan_gladen(yes, ROWS, here.calibrate(labels // 2, labels, rng)),
                prevalence,
            ),
            PPI: (ppi_rate(sides[0]), prevalence),
            "difference, uncorrected": (ppi_difference(*naive), 0.0),
            "difference, PPI": (ppi_difference(*sides), 0.0),
        }

    return draw


NEAR = np.array([[0.85, 0.1, 0.05], [0.15, 0.7, 0.15], [0.02, 0.18, 0.8]])
SIX = np.array(
    [
        [0.85, 0.08, 0.03, 0.03, 0.01, 0.0],
        [0.20, 0.75, 0.02, 0.01, 0.02, 0.0],
        [0.15, 0.05, 0.75, 0.0, 0.0, 0.05],
        [0.10, 0.02, 0.03, 0.70, 0.10, 0.05],
        [0.01, 0.02, 0.0, 0.07, 0.80, 0.10],
        [0.0, 0.01, 0.04, 0.05, 0.15, 0.75],
    ]
)
SEVERAL: tuple[tuple[str, Floats, tuple[float, ...]], ...] = (
    ("3: 70, 10, 20%", NEAR, (0.7, 0.1, 0.2)),
    ("3: 89, 1, 10%", NEAR, (0.89, 0.01, 0.1)),
    ("3: 30, 30, 40%", NEAR, (0.3, 0.3, 0.4)),
    ("6: 60, 10, 3, 2, 20, 5%", SIX, (0.6, 0.1, 0.03, 0.02, 0.2, 0.05)),
    ("6: 74, 5, 1, 1, 18, 1%", SIX, (0.74, 0.05, 0.01, 0.01, 0.18, 0.01)),
)


def several_classes(errors: Floats, rates: Sequence[float], labels: int) -> Draw:
    """A judge of several classes, and a calibration set with as many rows of each."""
    classes = len(rates)

    def draw(rng: np.random.Generator) -> Intervals:
        said = rng.multinomial(ROWS, np.asarray(rates) @ errors)
        gold = np.repeat(np.arange(classes), labels // classes)
        judged = np.concatenate(
            [rng.choice(classes, labels // classes, p=errors[c]) for c in range(classes)]
        )
        found = confusion_inverse(said, confusion(gold, judged, classes))
        out: dict[str, tuple[Corrected, float]] = {}
        for c, (one, rate) in enumerate(zip(found, rates, strict=True)):
            out[f"{UNCORRECTED} {c}"] = (uncorrected_rate(said[c], ROWS), rate)
            out[f"inverse {c}"] = (one, rate)
        return out

    return draw


# The log odds of the judge's errors, which vary between names.
MISSES, ALARMS = (Population(0.5, 0.0, 0.0).log_odds(share) for share in (0.15, 0.05))
Keys = npt.NDArray[np.int64]


def alike_groups(
    rate: float, templates: int = 28, *, apart: bool = False
) -> tuple[Callable[[np.random.Generator], tuple[Floats, Floats]], list[list[Keys]]]:
    """Two groups of 8 names x `templates`, 672 rows each.

    Names, templates and cells vary at random. Templates are shared by the groups; where `apart`,
    they move either group by itself. The judge misses 15% and raises 5% false alarms, each of which
    varies between names too. Gives what draws truth and verdicts, (2, rows), and the names and
    templates of either group.
    """
    names, samples = 8, ROWS // (8 * templates)
    population = Population()
    at = population.log_odds(rate)
    shape = (2, names, templates, samples)
    keys = [
        np.broadcast_to(np.arange(n).reshape(to), shape).reshape(2, -1)
        for n, to in ((2 * names, (2, names, 1, 1)), (templates, (1, 1, templates, 1)))
    ]

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats]:
        effects = (
            rng.normal(0, population.name, (2, names, 1, 1))
            + rng.normal(0, population.template, (2 if apart else 1, 1, templates, 1))
            + rng.normal(0, population.cell, (2, names, templates, 1))
        )
        truth = (rng.random(shape) < special.expit(at + effects)).astype(np.float64)
        wrong = special.expit(
            np.where(truth > 0, MISSES, ALARMS) + rng.normal(0, 0.5, (2, names, 1, 1))
        )
        said = np.where(rng.random(shape) < wrong, 1 - truth, truth).reshape(2, -1)
        return truth.reshape(2, -1), said

    return draw, [[key[g] for key in keys] for g in (0, 1)]


def alike_rows(rate: float, labels: int) -> Draw:
    """Two groups of `alike_groups`, 28 templates x 3 samples.

    Where the sample is stratified, half of it is drawn from what the judge says yes to.
    """
    groups, ways = alike_groups(rate)

    def draw(rng: np.random.Generator) -> Intervals:
        truth, said = groups(rng)
        human = [hidden(t, labels, rng) for t in truth]
        sides = [Audited(h, s, clusters=w) for h, s, w in zip(human, said, ways, strict=True)]
        plain = [Audited(h, s) for h, s in zip(human, said, strict=True)]
        picked, weights = stratified(truth[0], said[0], labels, rng)
        # Calibrated on rows of other names and templates, so that these are independent.
        set_at = special.expit(
            np.stack([np.full(labels, MISSES), np.full(labels, ALARMS)])
            + rng.normal(0, 0.5, (2, labels))
        )
        hits = (rng.random((2, labels)) > set_at).sum(1)
        accuracy = Accuracy(int(hits[0]), labels, int(hits[1]), labels)
        yes = float(said[0].sum())
        effect = design_effect(said[0], ways[0])
        return {
            "PPI, rows independent": (ppi_rate(plain[0]), rate),
            "PPI": (ppi_rate(sides[0]), rate),
            "PPI, stratified": (ppi_rate(Audited(picked, said[0], weights, ways[0])), rate),
            "difference, rows independent": (ppi_difference(*plain), 0.0),
            "difference": (ppi_difference(*sides), 0.0),
            "Rogan-Gladen, rows independent": (rogan_gladen(yes, ROWS, accuracy), rate),
            "Rogan-Gladen, design effect": (
                rogan_gladen(yes, ROWS, accuracy, design_effect=effect),
                rate,
            ),
        }

    return draw


def shared_templates(rate: float, labels: int, templates: int) -> Draw:
    """The difference of two groups that share few templates (`alike_groups`)."""
    kinds = {
        title: alike_groups(rate, templates, apart=apart)
        for title, apart in (("alike in both groups", False), ("apart in each", True))
    }

    def draw(rng: np.random.Generator) -> Intervals:
        found: dict[str, tuple[Corrected, float]] = {}
        for title, (groups, ways) in kinds.items():
            truth, said = groups(rng)
            sides = [
                Audited(hidden(t, labels, rng), s, clusters=w)
                for t, s, w in zip(truth, said, ways, strict=True)
            ]
            found[title] = (ppi_difference(*sides), 0.0)
        return found

    return draw


def repeated_prompts(rate: float, labels: int, each: int) -> Draw:
    """A calibration set of `labels` rows, half positive, with `each` rows of a prompt.

    The judge's sensitivity and specificity vary between prompts, around 0.8 and 0.9 (beta).
    """
    prompts = labels // each
    keys = np.repeat(np.arange(prompts), each)
    gold = keys % 2 == 0

    def draw(rng: np.random.Generator) -> Intervals:
        right = np.where(gold, rng.beta(4, 1, prompts)[keys], rng.beta(9, 1, prompts)[keys])
        said = np.where(rng.random(labels) < right, gold, ~gold)
        yes = float(rng.binomial(ROWS, 0.8 * rate + 0.1 * (1 - rate)))
        return {
            "rows independent": (rogan_gladen(yes, ROWS, Accuracy.of(gold, said)), rate),
            "with clusters": (rogan_gladen(yes, ROWS, Accuracy.of(gold, said, [keys])), rate),
        }

    return draw


def stratified(
    truth: Floats, said: Floats, labels: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Labels of which half are rows that the judge says yes to, as far as there are; weights."""
    out, weights = np.full(len(said), np.nan), np.ones(len(said))
    yes, no = np.nonzero(said > 0)[0], np.nonzero(said == 0)[0]
    of_yes = min(labels // 2, len(yes))
    for stratum, number in ((yes, of_yes), (no, labels - of_yes)):
        if number:
            picked = rng.choice(stratum, number, replace=False)
            out[picked] = truth[picked]
            weights[stratum] = len(stratum) / number
    return out, weights


# -- the tables -----------------------------------------------------------------------------------


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*titles: str) -> None:
    """The first two lines of one."""
    print(f"{line(titles)}\n{'|---' * len(titles)}|")


# A method that is identified more seldom than this has too few intervals here to speak of coverage.
SELDOM = 0.1


def worst(tallies: Sequence[Tally]) -> str:
    """The lowest coverage and the mean width; the least share identified, where not all are."""
    identified = f"{100 * min(t.identified for t in tallies):.0f}"
    known = "" if identified == "100" else f"{identified}% identified"
    there = [t for t in tallies if t.identified >= SELDOM]
    if not there:
        return known
    low, width = min(t.coverage for t in there), np.mean([t.width for t in there])
    return "; ".join(filter(None, (f"{100 * low:.1f} ({100 * width:.1f})", known)))


Run = Callable[[Draw, int], dict[str, Tally]]


def print_rates(run: Run, *, every: bool = False) -> None:
    """Coverage by prevalence and number of labels: a line for the worst judge, or for each."""
    methods = (UNCORRECTED, BALANCED, ALIKE, "PPI without adjustment", PPI)
    head("rate", "labels", *(["judge"] if every else []), *methods)
    for i, (prevalence, labels) in enumerate((p, n) for p in PREVALENCES for n in LABELS):
        found = [run(one_rate(prevalence, labels, Judge(*judge)), i) for judge in JUDGES]
        first = [f"{100 * prevalence:.0f}%", str(labels)]
        if every:
            for judge, one in zip(JUDGES, found, strict=True):
                title = f"{judge[0]:.2f}, {judge[1]:.2f}"
                print(line([*first, title, *(worst([one[m]]) for m in methods)]), flush=True)
        else:
            print(line([*first, *(worst([f[m] for f in found]) for m in methods)]), flush=True)


DIFFERENT = (
    ("none", Judge(0.9, 0.95), Judge(0.9, 0.95)),
    ("misses more: sensitivity .7 for .9", Judge(0.7, 0.95), Judge(0.9, 0.95)),
    ("more false alarms: specificity .8 for .95", Judge(0.9, 0.8), Judge(0.9, 0.95)),
    ("both", Judge(0.7, 0.8), Judge(0.9, 0.95)),
)


def print_differential(run: Run) -> None:
    """A judge that errs in one group unlike in the other."""
    titles: list[str] = []
    for what, here, elsewhere in DIFFERENT:
        for rate, labels in ((0.05, 200), (0.2, 200), (0.5, 200), (0.2, 50), (0.2, 500)):
            found = run(two_groups(rate, labels, here, elsewhere), 100)
            if not titles:
                titles = list(found)
                head("differential error", "rate", "labels", *titles)
            cells = [what, f"{100 * rate:.0f}%", str(labels)]
            print(line([*cells, *(worst([found[m]]) for m in titles)]), flush=True)


def print_classes(run: Run) -> None:
    """More than two classes."""
    head("classes", "labels", UNCORRECTED, "confusion-matrix inverse", "its mean coverage")
    for title, errors, rates in SEVERAL:
        for labels in (60, 120, 240, 480):
            found = run(several_classes(errors, rates, labels), 200)
            naive, corrected = (
                [t for m, t in found.items() if m.startswith(what)]
                for what in (UNCORRECTED, "inverse")
            )
            there = [t.coverage for t in corrected if t.identified >= SELDOM]
            mean = f"{100 * np.mean(there):.1f}" if there else "-"
            print(line([title, str(labels), worst(naive), worst(corrected), mean]), flush=True)


def print_clusters(run: Run) -> None:
    """Rows of one name or template that resemble each other."""
    titles: list[str] = []
    for rate in PREVALENCES:
        for labels in LABELS:
            found = run(alike_rows(rate, labels), 300)
            if not titles:
                titles = list(found)
                head("rate", "labels", *titles)
            cells = [f"{100 * rate:.0f}%", str(labels)]
            print(line([*cells, *(worst([found[m]]) for m in titles)]), flush=True)


def print_prompts(run: Run) -> None:
    """Calibration sets with several rows of a prompt."""
    titles: list[str] = []
    for rate in (0.05, 0.3):
        for labels, each in ((200, 1), (200, 5), (200, 10), (400, 10), (400, 20), (1_000, 20)):
            found = run(repeated_prompts(rate, labels, each), 500)
            if not titles:
                titles = list(found)
                head("rate", "labels", "rows a prompt", *titles)
            cells = [f"{100 * rate:.0f}%", f"{labels:,}", str(each)]
            print(line([*cells, *(worst([found[m]]) for m in titles)]), flush=True)


def print_templates(run: Run) -> None:
    """The difference of two groups that share few templates."""
    titles: list[str] = []
    for rate in (0.05, 0.2, 0.5):
        for templates in (2, 3, 4, 7):
            found = run(shared_templates(rate, 200, templates), 400)
            if not titles:
                titles = list(found)
                head("rate", "templates", *titles)
            cells = [f"{100 * rate:.0f}%", str(templates)]
            print(line([*cells, *(worst([found[m]]) for m in titles)]), flush=True)


def print_budget(run: Run) -> None:
    """The width asked for beside the mean width that the answer brings."""
    head(
        "rate", "judge", "width asked for", "PPI: labels", "width", "Rogan-Gladen: labels", "width"
    )
    for prevalence in (0.05, 0.2, 0.5):
        for judge in (JUDGES[2], JUDGES[4]):
            for width in (0.1, 0.15, 0.2):
                cells = [f"{100 * prevalence:.0f}%", f"{judge[0]:.2f}, {judge[1]:.2f}"]
                cells.append(f"{100 * width:.0f}")
                for method, title in (("ppi", PPI), ("rogan-gladen", BALANCED)):
                    asked = labels_needed(width, prevalence, *judge, rows=ROWS, method=method)
                    if asked.labels is None:
                        cells += ["-", "-"]
                        continue
                    draw = one_rate(prevalence, min(asked.labels, ROWS), Judge(*judge))
                    if asked.labels > ROWS:
                        draw = calibrated_only(prevalence, asked.labels, Judge(*judge))
                    found = run(draw, 400)[title]
                    cells += [f"{asked.labels:,}", f"{100 * found.width:.1f}"]
                print(line(cells), flush=True)


def calibrated_only(prevalence: float, labels: int, judge: Judge) -> Draw:
    """As `one_rate`, where there are more labels than rows."""

    def draw(rng: np.random.Generator) -> Intervals:
        yes = float(judge.says((rng.random(ROWS) < prevalence).astype(np.float64), rng).sum())
        accuracy = judge.calibrate(labels // 2, labels, rng)
        return {BALANCED: (rogan_gladen(yes, ROWS, accuracy), prevalence)}

    return draw


CELLS = len(PREVALENCES) * len(LABELS)
TABLES: dict[str, tuple[Callable[[Run], None], int]] = {
    "rates": (print_rates, CELLS * len(JUDGES)),
    "differential": (print_differential, len(DIFFERENT) * 5),
    "classes": (print_classes, len(SEVERAL) * 4),
    "clusters": (print_clusters, CELLS),
    "templates": (print_templates, 12),
    "prompts": (print_prompts, 12),
    "budget": (print_budget, 36),
    "judges": (partial(print_rates, every=True), CELLS * len(JUDGES)),
}


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "tables", nargs="*", choices=list(TABLES), help="all but judges: rates, judge by judge"
    )
    parser.add_argument("--draws", type=int, default=2_000, help="simulated audits for each figure")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for table in arguments.tables or list(TABLES)[:-1]:
            show, steps = TABLES[table]
            task = progress.add_task(table, total=steps)

            def run(draw: Draw, seed: int, task: TaskID = task) -> dict[str, Tally]:
                found = simulate(draw, arguments.draws, arguments.seed + seed)
                progress.advance(task)
                return found

            print(f"\n{table}\n", flush=True)
            show(run)


if __name__ == "__main__":
    main()
