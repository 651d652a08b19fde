"""How a validation looks on a terminal: tables of figures, then what they say in words.

Everything is there without colour. A figure in brackets is a 95% interval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenhand.api.cli import panels
from evenhand.api.cli.console import shown

if TYPE_CHECKING:
    from evenhand.judge.agreement import Estimate
    from evenhand.judge.budget import Budget
    from evenhand.judge.differential import GroupErrors
    from evenhand.judge.validation import Errors, Pair, Rater, Scores, Validation

_BUDGETS = {
    "ppi": "a random sample of the audit itself, labelled (prediction-powered inference)",
    "rogan-gladen": "a labelled set from elsewhere (Rogan-Gladen, in Python: docs/validity.md)",
}


def show(console: Console, document: Validation) -> None:
    """Print all of it but the curves, which the page and the figures have."""
    judge = document.raters[0]
    console.print()
    console.print(Text(f"{judge.name} on {shown(document.name)}", "bold"), soft_wrap=True)
    for line in document.read_as:
        console.print(Text(f"  {shown(line)}", "dim"), soft_wrap=True)
    for one, how in (
        *((one, "left out") for one in document.excluded),
        *((one, "used in part") for one in document.partial),
    ):
        places = ", ".join(one.places) + (", …" if one.rows > len(one.places) else "")
        line = f"  {one.rows:,} rows {how}: {one.reason} ({places})"
        console.print(Text(shown(line), panels.YELLOW), soft_wrap=True)
    tables = [
        _raters(document.raters),
        _labels(judge),
        _confusion(judge, document.labels),
        *_subsets(judge),
        *_panel(document),
        *_people(document),
        *map(_errors, judge.errors),
        _scores(document),
        _budget(document.budget),
    ]
    for table in tables:
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    _sentences(console, document.findings, "-", "")
    _sentences(console, document.notes, "note:", "dim")
    console.print()


def _sentences(console: Console, sentences: Iterable[str], mark: str, style: str) -> None:
    for sentence in sentences:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(mark, style), Text(shown(sentence), style))
        console.print(grid, width=panels.fitting(console) + 20)


def _table(title: str, *columns: str, numbers: int) -> Table:
    """A table whose last `numbers` columns are figures."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title=Text(title, "bold"),
        title_justify="left",
    )  # fmt: skip
    for i, column in enumerate(columns):
        figure = i >= len(columns) - numbers
        table.add_column(
            column, justify="right" if figure else "left", no_wrap=figure, overflow="fold"
        )
    return table


def _raters(raters: Sequence[Rater]) -> Table:
    # Alpha of two raters is kappa to the second decimal; the JSON and the page have it.
    table = _table(
        "Agreement with people's labels",
        *("", "kappa", "accuracy", "balanced", "macro-F1"),
        numbers=4,
    )
    for rater in raters:
        a = rater.agreement
        without = rater.rows - rater.labelled
        name = Text(shown(rater.name), "bold" if rater.kind == "judge" else "")
        if without:
            name.append(f"\n{without:,} rows without a label", "dim")
        table.add_row(name, *map(_cell, (a.kappa, a.accuracy, a.balanced_accuracy, a.macro_f1)))
    return table


def _labels(judge: Rater) -> Table:
    table = _table(
        "Label by label, of the judge",
        "", "people", "judge", "precision", "recall", "F1",
        numbers=5,
    )  # fmt: skip
    for one in judge.labels:
        table.add_row(
            Text(one.label),
            f"{one.support:,}",
            f"{one.given:,}",
            *map(_cell, (one.precision, one.recall, one.f1)),
        )
    return table


def _confusion(judge: Rater, labels: Sequence[str]) -> Table:
    table = _table(
        "Labels by people (down) and by the judge (across)", "", *labels, numbers=len(labels)
    )
    for label, line in zip(labels, judge.confusion, strict=True):
        table.add_row(Text(label), *(f"{count:,}" for count in line))
    return table


def _subsets(judge: Rater) -> Iterator[Table]:
    for axis in ("model", "group"):
        own = [one for one in judge.subsets if one.by == axis]
        if not own:
            continue
        table = _table(
            f"The judge by {axis}", "", "labelled", "kappa", "accuracy", "macro-F1", numbers=4
        )
        for one in own:
            table.add_row(
                Text(shown(one.key)),
                f"{one.labelled:,} of {one.rows:,}",
                *map(_cell, (one.kappa, one.accuracy, one.macro_f1)),
            )
        yield table


def _panel(document: Validation) -> Iterator[Table]:
    panel = document.panel
    if panel is None:
        return
    table = _table(
        "The panel's members and people's labels", "", "labelled", "kappa", "accuracy", numbers=3
    )
    for one in panel.members:
        name = Text(shown(one.name))
        table.add_row(name, f"{one.labelled:,}", *map(_cell, (one.kappa, one.accuracy)))
    yield table
    yield _pairs("Member by member", panel.pairs)


def _people(document: Validation) -> Iterator[Table]:
    if document.people is not None:
        yield _pairs("Person by person", document.people.pairs)


def _pairs(title: str, pairs: Iterable[Pair]) -> Table:
    table = _table(title, "", "rows", "kappa", "alpha", "accuracy", numbers=4)
    for pair in pairs:
        table.add_row(
            Text(shown(f"{pair.one}, {pair.other}")),
            f"{pair.rows:,}",
            *map(_cell, (pair.kappa, pair.alpha, pair.accuracy)),
        )
    return table


def _errors(errors: Errors) -> Table:
    """Sensitivity and specificity: of all rows, and of each model and group."""
    table = _table(
        f"The judge on {errors.metric} ({' or '.join(errors.labels)})",
        *("", "people see it", "sensitivity", "do not", "specificity"),
        numbers=4,
    )

    def add(name: str, of: Errors | GroupErrors, *, last: bool = False) -> None:
        table.add_row(
            Text(shown(name)),
            f"{of.positives:,}",
            _estimate(of.sensitivity),
            f"{of.negatives:,}",
            _estimate(of.specificity),
            end_section=last,
        )

    add("all", errors, last=True)
    for axis, found in (("models", errors.by_model), ("groups", errors.by_group)):
        if found is None:
            continue
        for one in found.groups:
            add(one.group, one)
        p = (_p(found.missed.adjusted), _p(found.false_alarms.adjusted))
        table.add_row(f"p, {axis} alike", "", p[0], "", p[1], style="dim", end_section=True)
    return table


def _p(p: float) -> str:
    if math.isnan(p):
        return "unknown"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _scores(document: Validation) -> Table | None:
    rows: dict[str, Scores] = {}
    if document.fitted is not None:
        fitted = document.fitted
        rows = {
            "without calibration": fitted.raw,
            "as it is": fitted.now,
            f"{fitted.method}, {fitted.folds} folds": fitted.fitted,
        }
    elif document.reliability is not None:
        rows = {"as it is": document.reliability.scores}
    if not rows:
        return None
    table = _table("Probabilities of the judge", "", "ECE", "Brier", "log-loss", numbers=3)
    for name, scores in rows.items():
        table.add_row(name, *(_estimate(of) for of in (scores.ece, scores.brier, scores.log_loss)))
    return table


def _budget(budgets: Sequence[Budget]) -> Table | None:
    if not budgets:
        return None
    table = _table("Labels that make such an interval", "", "labels", "width", numbers=2)
    for one in budgets:
        table.add_row(
            _BUDGETS[one.method],
            "none will do" if one.labels is None else f"{one.labels:,}",
            "unknown" if one.width is None else f"{one.width:.3f}",
        )
        if one.reason:
            table.add_row(Text(shown(one.reason), "dim"), "", "")
    return table


def _number(of: Estimate) -> str:
    return "unknown" if math.isnan(of.value) else _short(of.value)


def _ends(of: Estimate) -> str:
    return "" if math.isnan(of.low) else f"[{_short(of.low)}, {_short(of.high)}]"


def _short(value: float) -> str:
    """`.767`, `1.00`: four letters, so that intervals fit into 80 columns."""
    text = f"{value:.3f}"
    return f"{value:.2f}" if text == "1.000" else re.sub(r"^(-?)0(?=\.)", r"\1", text)


def _estimate(of: Estimate) -> str:
    return f"{_number(of)} {_ends(of)}".rstrip()


def _cell(of: Estimate) -> str:
    """The interval below the figure."""
    return f"{_number(of)}\n{_ends(of)}"
