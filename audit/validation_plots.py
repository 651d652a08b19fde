"""The figures of a validation, drawn as those of an audit's report are.

Knows the document and Altair. See `audit/plots.py` for fonts, colours and what a figure holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt
import polars as pl

from evenhand.audit.plots import (
    BLUE,
    DARK,
    GRAY,
    ORANGE,
    PALE,
    WHITE_ABOVE,
    Figure,
    _svg,
)
from evenhand.judge.agreement import Estimate
from evenhand.judge.validation import Errors, Rater, Reliability, Selection, Validation

MOST_GROUPS = 24  # drawn for one metric
_KINDS = {"judge": "diamond", "baseline": "square", "rater": "triangle-up", "annotator": "circle"}
_WIDTH = 420


def figures(document: Validation) -> Iterator[Figure]:
    """What can be drawn; a figure without data is left out."""
    judge = document.raters[0]
    if not judge.labelled:
        return
    yield _agreement(document)
    yield _confusion(document, judge)
    for errors in judge.errors:
        if errors.by_model is not None or errors.by_group is not None:
            yield _errors(errors)
    if document.reliability is not None:
        yield _reliability(document.reliability)
    if document.selection is not None:
        yield _selection(document.selection)


def _agreement(document: Validation) -> Figure:
    table = pl.DataFrame(
        [
            {"rater": one.name, "kind": one.kind, "rows": one.labelled}
            | _ends("kappa", one.agreement.kappa)
            for one in document.raters
        ]
    )
    kinds = [kind for kind in _KINDS if kind in set(table["kind"])]
    drawn = table.with_columns(pl.col("low", "high").fill_nan(pl.col("kappa")))
    base = alt.Chart(drawn).encode(
        y=alt.Y("rater:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=kinds, range=[ORANGE if k == "judge" else BLUE for k in kinds]),
            legend=alt.Legend(title=None, orient="bottom"),
        ),
    )
    low = min([0.0, *drawn["low"].fill_nan(None).drop_nulls()])
    scale = alt.Scale(domain=[low, 1.0])
    rules = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="kappa with people's labels", scale=scale), x2="high:Q"
    )
    shapes = alt.Shape(
        "kind:N",
        scale=alt.Scale(domain=kinds, range=[_KINDS[kind] for kind in kinds]),
        legend=alt.Legend(title=None, orient="bottom"),
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(x="kappa:Q", shape=shapes)
    chart = alt.layer(rules, points).properties(width=_WIDTH, height=alt.Step(28))
    return Figure(
        slug="agreement",
        title="Agreement with people's labels",
        caption="Cohen's kappa with its 95% interval; 0 is chance and 1 is full agreement.",
        alt=" ".join(f"{r['rater']}: {r['kappa']:.2f}." for r in table.iter_rows(named=True)),
        svg=_svg(chart),
        table=table,
    )


def _confusion(document: Validation, judge: Rater) -> Figure:
    labels = list(document.labels)
    rows = []
    for label, line in zip(labels, judge.confusion, strict=True):
        total = sum(line)
        rows += [
            {"people": label, "judge": said, "rows": n, "share": n / total if total else 0.0}
            for said, n in zip(labels, line, strict=True)
        ]
    table = pl.DataFrame(rows)
    base = alt.Chart(table).encode(
        x=alt.X("judge:N", sort=labels, title="label by the judge", axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("people:N", sort=labels, title="label by people"),
    )
    cells = base.mark_rect(stroke=GRAY, strokeWidth=0.5).encode(
        color=alt.Color(
            "share:Q",
            scale=alt.Scale(range=[PALE, DARK], domain=[0, 1], interpolate="rgb"),
            legend=alt.Legend(title="share of the row", format="%", orient="bottom"),
        )
    )
    text = base.mark_text(fontSize=13).encode(
        text="rows:Q",
        color=alt.condition(
            f"datum.share > {WHITE_ABOVE}", alt.value("#ffffff"), alt.value("#000000")
        ),
    )
    size = len(labels)
    chart = alt.layer(cells, text).properties(width=92 * size, height=44 * size)
    right = sum(judge.confusion[i][i] for i in range(size))
    return Figure(
        slug="confusion",
        title="What the judge makes of each label",
        caption="Numbers are rows; colours are shares of those with one label by people.",
        alt=f"Confusion matrix of {size} labels: {right} of {judge.labelled} on its diagonal. "
        + " ".join(
            f"{label}: {judge.confusion[i][i]} of {sum(judge.confusion[i])}."
            for i, label in enumerate(labels)
        ),
        svg=_svg(chart),
        table=table,
    )


def _errors(errors: Errors) -> Figure:
    """Sensitivity and specificity beside each other, for models and for groups."""
    kinds = ("sensitivity", "specificity")
    rows = [
        {"by": axis, "key": one.group, "kind": kind, "rows": rows} | _ends("share", of)
        for axis, found in (("model", errors.by_model), ("group", errors.by_group))
        if found is not None
        for one in found.groups
        for kind, rows, of in (
            (kinds[0], one.positives, one.sensitivity),
            (kinds[1], one.negatives, one.specificity),
        )
    ]
    table = pl.DataFrame(rows)
    overall = {kinds[0]: errors.sensitivity.value, kinds[1]: errors.specificity.value}
    charts = []
    for axis in table["by"].unique(maintain_order=True):
        own = table.filter((pl.col("by") == axis) & pl.col("share").is_not_nan())
        keys = own["key"].unique(maintain_order=True).head(MOST_GROUPS)
        drawn = own.filter(pl.col("key").is_in(keys.implode()))
        charts += [
            _strip(of_kind, overall[kind], f"{kind}, by {axis}")
            for kind in kinds
            if len(of_kind := drawn.filter(pl.col("kind") == kind))
        ]
    chart = alt.concat(*charts, columns=2)
    said = [
        f"{row['key']}: {row['kind']} {100 * row['share']:.0f}%."
        for row in table.head(24).iter_rows(named=True)
        if not math.isnan(row["share"])
    ]
    return Figure(
        slug=f"errors-{errors.metric.replace('_', '-')}",
        title=f"Who the judge errs on: {errors.metric}",
        caption="Sensitivity is the share found of what people see, specificity the share left "
        "alone of all else, with 95% intervals; the dashed line is that of all rows.",
        alt=f"Dot plots of the judge's sensitivity and specificity. {' '.join(said)}",
        svg=_svg(chart),
        table=table,
    )


def _strip(table: pl.DataFrame, overall: float, title: str) -> Any:
    drawn = table.with_columns(pl.col("low", "high").fill_nan(pl.col("share")))
    base = alt.Chart(drawn).encode(y=alt.Y("key:N", sort=None, title=None))
    axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    rules = base.mark_rule(strokeWidth=2, color=BLUE).encode(
        x=alt.X("low:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=80, opacity=1, color=BLUE).encode(x="share:Q")
    line = alt.Chart().mark_rule(color=GRAY, strokeDash=[4, 3]).encode(x=alt.datum(overall))
    keys = table["key"].n_unique()
    return alt.layer(line, rules, points, data=drawn).properties(
        title=alt.Title(title, anchor="start"), width=235, height=28 * max(1, keys)
    )


def _reliability(reliability: Reliability) -> Figure:
    table = pl.DataFrame(
        [
            {
                "from": one.lower,
                "to": one.upper,
                "rows": one.rows,
                "confidence": float(one.confidence),
                "right": float(one.accuracy),
            }
            for one in reliability.bins
        ]
    )
    scale = alt.Scale(domain=[0, 1])
    diagonal = (
        alt.Chart(pl.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]}))
        .mark_line(color=GRAY, strokeDash=[4, 3])
        .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("y:Q", scale=scale))
    )
    points = (
        alt.Chart(table)
        .mark_point(filled=True, color=BLUE, opacity=1)
        .encode(
            x=alt.X("confidence:Q", title="confidence", axis=alt.Axis(format="%")),
            y=alt.Y("right:Q", title="right", axis=alt.Axis(format="%")),
            size=alt.Size(
                "rows:Q",
                scale=alt.Scale(range=[40, 600]),
                legend=alt.Legend(title="rows", orient="bottom"),
            ),
        )
    )
    ece = reliability.scores.ece.value
    return Figure(
        slug="reliability",
        title="Is it right as often as it is sure?",
        caption="A dot is all rows of about that confidence in the best of people's labels; below "
        f"the line the judge is too sure. Expected calibration error {ece:.3f}.",
        alt="Reliability diagram. "
        + " ".join(
            f"Confidence {100 * row['confidence']:.0f}%: right {100 * row['right']:.0f}% of "
            f"{row['rows']}."
            for row in table.iter_rows(named=True)
        ),
        svg=_svg(alt.layer(diagonal, points).properties(width=300, height=300)),
        table=table,
    )


def _selection(selection: Selection) -> Figure:
    table = pl.DataFrame([point.model_dump() for point in selection.curve])
    base = alt.Chart(table).encode(
        x=alt.X(
            "coverage:Q",
            title="share of responses judged",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%"),
        ),
        y=alt.Y("risk:Q", title="share of these judged wrong", axis=alt.Axis(format="%")),
    )
    layers = [base.mark_line(color=BLUE, interpolate="step-after")]
    found = selection.threshold
    said = ""
    if found is not None:
        at = pl.DataFrame({"coverage": [found.coverage]})
        layers.append(
            alt.Chart(at).mark_rule(color=ORANGE, strokeDash=[4, 3]).encode(x="coverage:Q")
        )
        said = (
            f" The dashed line is the confidence {found.value:.3f}, from which on agreement of "
            f"{100 * found.target:.0f}% is guaranteed (but for a chance of "
            f"{100 * found.delta:.0f}%)."
        )
    last = table.row(-1, named=True)
    return Figure(
        slug="risk-coverage",
        title="What abstaining would bring",
        caption="The judge's errors where it judges only what it is most sure of." + said,
        alt=f"Risk-coverage curve. {100 * last['coverage']:.1f}% have a verdict, of which "
        f"{100 * last['risk']:.1f}% are wrong; averaged over coverages, "
        f"{100 * selection.area:.1f}%.",
        svg=_svg(alt.layer(*layers).properties(width=_WIDTH, height=240)),
        table=table,
    )


def _ends(name: str, of: Estimate) -> dict[str, float]:
    return {name: of.value, "low": of.low, "high": of.high}
