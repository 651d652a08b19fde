"""The figures of a report: each with its data, its words, and an SVG that needs nothing else.

Knows summaries and Altair. Fonts are the reader's own. Colours are two of Okabe and Ito's, and
one hue from light to dark, which colour-blind readers can tell apart; whatever a colour says, a
shape or number says too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from evenhand.audit.findings import ALPHA, percent, signed
from evenhand.audit.summary import JudgeSummary, Summary

VEGA_LITE = "v6_4"  # Altair's
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#767676"  # 3:1 and more on white and on black
PALE, DARK = "#eef3f8", "#08306b"  # of a share of 0 and 1
WHITE_ABOVE = 0.64  # of that share numbers are white: 4.5:1 and more on either side
ALL = "all groups"
MOST_GROUPS = 24
MOST_NAMES = 24  # of a group
_FONT = "sans-serif"
_PNG_SCALE = 2.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure. `slug` names its files; `alt` says what it shows to those who do not see it;
    `table` is what it was drawn from.
    """

    slug: str
    title: str
    caption: str
    alt: str
    svg: str
    table: pl.DataFrame

    def png(self) -> bytes:
        """The same as an image, at twice the size."""
        return vl_convert.svg_to_png(self.svg, scale=_PNG_SCALE)

    def write(self, folder: Path) -> None:
        """As SVG, PNG and CSV, into a folder that is there. Raises `OSError`."""
        (folder / f"{self.slug}.svg").write_text(self.svg, encoding="utf-8")
        (folder / f"{self.slug}.png").write_bytes(self.png())
        self.table.write_csv(folder / f"{self.slug}.csv")


def figures(summary: Summary, judge: JudgeSummary) -> Iterator[Figure]:
    """What can be drawn of one judge's figures; a figure without data is left out."""
    if not judge.judged:
        return
    several = len(summary.judges) > 1
    end = f"-{summary.judges.index(judge) + 1}" if several else ""
    yield _heat_map(summary, judge, f"label-rates{end}")
    differences = _differences_table(summary, judge)
    if len(differences):
        yield _forest(differences, summary, f"differences{end}")
    corrected = _corrected_table(summary, judge)
    if "corrected" in set(corrected.get_column("status", default=pl.Series())):
        yield _corrected(corrected, summary, f"corrected-differences{end}")
    metric = next(iter(summary.metrics))
    for number, model in enumerate(summary.models, 1):
        suffix = f"-{number}" if len(summary.models) > 1 else ""
        names = _names_table(judge, model, metric)
        if len(names):
            yield _names(names, model, metric, f"names{suffix}{end}")
        common = _commonness_table(judge, names, model, metric)
        if len(common):
            yield _commonness(common, model, metric, f"popular-rare{suffix}{end}")


# -- heat map -------------------------------------------------------------------------------------


def _heat_map(summary: Summary, judge: JudgeSummary, slug: str) -> Figure:
    """Rates of labels by group and model, as in the study."""
    order = {label: i for i, label in enumerate(summary.labels)}
    rows = [
        {
            "model": rate.model,
            "group": ALL if rate.by == "model" else rate.key,
            "label": rate.metric,
            "rate": rate.share.value,
            "hits": rate.hits,
            "judged": rate.judged,
            "rows": rate.rows,
        }
        for rate in judge.analysis.rates
        if rate.by in ("model", "group") and rate.metric in order and rate.judged
    ]
    groups = [*sorted({str(row["group"]) for row in rows} - {ALL}), ALL]
    shown = [*groups[: MOST_GROUPS - 1], ALL] if len(groups) > MOST_GROUPS else groups
    table = pl.DataFrame(rows)
    drawn = table.filter(pl.col("group").is_in(shown)).with_columns(
        text=pl.col("rate").map_elements(_short, pl.String)
    )
    chart = alt.vconcat(
        *(
            _heat(own, list(order), shown, model if len(summary.models) > 1 else "")
            for (model,), own in drawn.partition_by(
                "model", as_dict=True, maintain_order=True
            ).items()
        )
    )
    return Figure(
        slug=slug,
        title="Rates of labels by group",
        caption="The share of each label among the responses with a verdict."
        + _left_out(len(groups) - len(shown), "group"),
        alt=f"Heat map of {len(order)} labels by {len(shown)} rows, the groups and all together. "
        + _extremes(drawn.filter(pl.col("group") != ALL), summary.labels),
        svg=_svg(chart),
        table=table,
    )


def _heat(table: pl.DataFrame, labels: list[str], groups: list[str], title: str) -> Any:
    """The cells of one model."""
    base = alt.Chart(table, title=alt.Title(title, anchor="start")).encode(
        x=alt.X("label:N", sort=labels, title=None, axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("group:N", sort=groups, title=None),
    )
    cells = base.mark_rect(stroke=GRAY, strokeWidth=0.5).encode(
        color=alt.Color(
            "rate:Q",
            scale=alt.Scale(range=[PALE, DARK], domain=[0, 1], interpolate="rgb"),
            legend=alt.Legend(title="share of responses", format="%", orient="bottom"),
        )
    )
    text = base.mark_text(fontSize=13).encode(
        text="text:N",
        color=alt.condition(
            f"datum.rate > {WHITE_ABOVE}", alt.value("#ffffff"), alt.value("#000000")
        ),
    )
    return alt.layer(cells, text).properties(width=76 * len(labels), height=28 * len(groups))


def _short(rate: float) -> str:
    """A rate for a cell; one that is not zero does not look like it."""
    return f"{100 * rate:.1f}%" if 0 < rate < 0.01 else f"{100 * rate:.0f}%"


def _extremes(table: pl.DataFrame, labels: Sequence[str]) -> str:
    """For each label the groups where it is most and least frequent."""
    sentences = []
    for label in labels:
        rows = table.filter(pl.col("label") == label).sort("rate", "group")
        if len(rows) > 1 and rows["hits"].sum():
            low, high = rows.row(0, named=True), rows.row(-1, named=True)
            sentences.append(
                f"{label}: from {percent(low['rate'])} ({low['group']}) to "
                f"{percent(high['rate'])} ({high['group']})."
            )
    return " ".join(sentences)


# -- differences ----------------------------------------------------------------------------------


def _differences_table(summary: Summary, judge: JudgeSummary) -> pl.DataFrame:
    """The differences from the reference, or from all others where there is none."""
    return pl.DataFrame(
        [
            {
                "model": one.model,
                "metric": one.metric,
                "group": one.group,
                "points": one.points.value,
                "low": one.points.low,
                "high": one.points.high,
                "p": one.p.raw,
                "p_adjusted": one.p.adjusted,
                "test": "found" if one.p.adjusted <= ALPHA else "not found",
            }
            for one in judge.analysis.comparisons
            if one.against == summary.reference and not math.isnan(one.points.value)
        ]
    )


def _forest(table: pl.DataFrame, summary: Summary, slug: str) -> Figure:
    """Differences with their intervals."""
    far = table.group_by("group").agg(pl.col("points").abs().max()).sort("points", "group")
    shown = sorted(far["group"].tail(MOST_GROUPS))
    drawn = table.filter(pl.col("group").is_in(shown))
    chart = alt.vconcat(
        *(
            _forest_of(own, summary, shown, _ends(drawn), model)
            for (model,), own in drawn.partition_by(
                "model", as_dict=True, maintain_order=True
            ).items()
        )
    )
    other = "all other groups" if summary.reference is None else summary.reference
    found = drawn.filter(pl.col("test") == "found")
    said = [
        f"{row['group']}, {row['metric']}: {signed(row['points'])} "
        f"({signed(row['low'])} to {signed(row['high'])})"
        for row in found.head(12).iter_rows(named=True)
    ]
    return Figure(
        slug=slug,
        title=f"Differences from {other}",
        caption=f"How many percentage points a group's rate is above that of {other}, with 95% "
        "intervals. Right of zero is more. A diamond marks a difference that the permutation test "
        "finds after Holm's adjustment." + _left_out(len(far) - len(shown), "group"),
        alt=f"Forest plot of the differences from {other}. "
        + (
            f"{len(found)} of {len(drawn)} are found by the adjusted test: {'; '.join(said)}."
            if said
            else f"None of {len(drawn)} is found by the adjusted test."
        ),
        svg=_svg(chart),
        table=table,
    )


def _forest_of(
    table: pl.DataFrame, summary: Summary, groups: list[str], ends: list[float], model: str
) -> Any:
    """The differences of one model, on a scale that all models share."""
    kinds, legend = ["found", "not found"], "difference, by the adjusted test"
    color = _hue("test", kinds, [ORANGE, BLUE], legend)
    scale = alt.Scale(domain=ends, nice=True)
    base = alt.Chart().encode(y=alt.Y("group:N", sort=groups, title=None))
    layers = alt.layer(
        alt.Chart().mark_rule(color=GRAY, strokeDash=[4, 3]).encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title="percentage points", scale=scale), x2="high:Q", color=color
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x="points:Q", color=color, shape=_look("test", kinds, ["diamond", "circle"], legend)
        ),
        data=_with_ends(table, "points"),
    ).properties(width=235, height=28 * len(groups))
    return layers.facet(
        column=alt.Column("metric:N", sort=list(summary.metrics), title=None, header=_header()),
        title=alt.Title(model if len(summary.models) > 1 else "", anchor="start"),
    )


def _corrected_table(summary: Summary, judge: JudgeSummary) -> pl.DataFrame:
    """The same differences, each as it is uncorrected and, where it is known, corrected."""
    found = judge.correction.differences if judge.correction else ()
    return pl.DataFrame(
        [
            {
                "model": one.model,
                "metric": one.metric,
                "group": one.group,
                "status": of.status,
                "points": 100 * of.estimate,
                "low": 100 * of.interval[0],
                "high": 100 * of.interval[1],
                "labels": of.labels,
                "method": of.method,
            }
            for one in found
            for of in (one.uncorrected, one.corrected)
            if one.against == summary.reference
            and of.estimate is not None
            and of.interval is not None
        ]
    )


def _corrected(table: pl.DataFrame, summary: Summary, slug: str) -> Figure:
    """Corrected differences beside uncorrected ones."""
    far = table.group_by("group").agg(pl.col("points").abs().max()).sort("points", "group")
    shown = sorted(far["group"].tail(MOST_GROUPS // 2))
    drawn = table.filter(pl.col("group").is_in(shown))
    kinds, legend = ["uncorrected", "corrected"], "for errors of the judge"
    color = _hue("status", kinds, [BLUE, ORANGE], legend)
    scale = alt.Scale(domain=_ends(drawn), nice=True)
    base = alt.Chart().encode(
        y=alt.Y("group:N", sort=shown, title=None),
        yOffset=alt.YOffset("status:N", scale=alt.Scale(domain=kinds)),
    )
    parts = []
    for (model,), own in drawn.partition_by("model", as_dict=True, maintain_order=True).items():
        layers = alt.layer(
            alt.Chart().mark_rule(color=GRAY, strokeDash=[4, 3]).encode(x=alt.datum(0)),
            base.mark_rule(strokeWidth=2).encode(
                x=alt.X("low:Q", title="percentage points", scale=scale), x2="high:Q", color=color
            ),
            base.mark_point(filled=True, size=80, opacity=1).encode(
                x="points:Q",
                color=color,
                shape=_look("status", kinds, ["circle", "diamond"], legend),
            ),
            data=own,
        ).properties(width=235, height=40 * len(shown))
        parts.append(
            layers.facet(
                column=alt.Column(
                    "metric:N", sort=list(summary.metrics), title=None, header=_header()
                ),
                title=alt.Title(model if len(summary.models) > 1 else "", anchor="start"),
            )
        )
    other = "all other groups" if summary.reference is None else summary.reference
    said = [
        f"{row['group']}, {row['metric']}: {signed(row['points'])} "
        f"({signed(row['low'])} to {signed(row['high'])})"
        for row in drawn.filter(pl.col("status") == "corrected").head(12).iter_rows(named=True)
    ]
    return Figure(
        slug=slug,
        title=f"Differences from {other}, corrected and uncorrected",
        caption="The same differences as verdicts have them (circles), and corrected with people's "
        "labels (diamonds), with 95% intervals. The fewer labels, the wider the corrected one."
        + _left_out(len(far) - len(shown), "group"),
        alt=f"Forest plot of uncorrected and corrected differences from {other}. Corrected: "
        f"{'; '.join(said)}.",
        svg=_svg(alt.vconcat(*parts)),
        table=table,
    )


def _ends(table: pl.DataFrame) -> list[float]:
    """From the lowest to the highest end of the intervals, and zero."""
    every = pl.concat([table["low"], table["high"], table["points"]]).fill_nan(None).drop_nulls()
    return [min(0.0, *every), max(0.0, *every)]


def _with_ends(table: pl.DataFrame, value: str) -> pl.DataFrame:
    """An interval that is not known is drawn as none."""
    return table.with_columns(pl.col("low", "high").fill_nan(pl.col(value)))


# -- names ----------------------------------------------------------------------------------------


def _names_table(judge: JudgeSummary, model: str, metric: str) -> pl.DataFrame:
    kinds = judge.commonness.names if judge.commonness else {}
    return pl.DataFrame(
        [
            {
                "model": model,
                "group": rate.group,
                "name": rate.key,
                "commonness": kinds.get(rate.group or "", {}).get(rate.key, ""),
                "metric": metric,
                "rate": rate.share.value,
                "low": rate.share.low,
                "high": rate.share.high,
                "hits": rate.hits,
                "judged": rate.judged,
                "rows": rate.rows,
            }
            for rate in judge.analysis.rates
            if (rate.by, rate.model, rate.metric) == ("name", model, metric) and rate.judged
        ]
    )


def _names(table: pl.DataFrame, model: str, metric: str, slug: str) -> Figure:
    """Each name's rate, group by group."""
    groups = table["group"].unique().sort().head(MOST_GROUPS // 2)
    drawn = table.filter(pl.col("group").is_in(groups.implode())).filter(
        pl.col("rate").rank("ordinal", descending=True).over("group") <= MOST_NAMES
    )
    drawn = _with_ends(drawn, "rate")
    top = max(drawn["high"], default=1.0)
    kinds = [kind for kind in ("popular", "rare", "") if kind in set(drawn["commonness"])]
    hues, shapes = (
        [ORANGE if kind == "rare" else BLUE for kind in kinds],
        ["diamond" if kind == "rare" else "circle" for kind in kinds],
    )
    legend = "names" if len(kinds) > 1 else None
    color = _hue("commonness", kinds, hues, legend)
    base = alt.Chart().encode(
        y=alt.Y("name:N", title=None, sort=alt.EncodingSortField("rate", order="descending"))
    )
    scale = alt.Scale(domain=[0, top], nice=True)
    axis = alt.Axis(format="%", title=None, tickCount=4)
    layers = alt.layer(
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=color
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x="rate:Q", color=color, shape=_look("commonness", kinds, shapes, legend)
        ),
        data=drawn,
    ).properties(width=300, height=alt.Step(22))
    chart = layers.facet(
        facet=alt.Facet("group:N", title=None, header=_header()), columns=2
    ).resolve_scale(y="independent", x="shared")
    said = []
    for (group,), rows in drawn.group_by("group", maintain_order=True):
        ordered = rows.sort("rate", "name")
        low, high = ordered.row(0, named=True), ordered.row(-1, named=True)
        said.append(
            f"{group}: from {percent(low['rate'])} ({low['name']}) to {percent(high['rate'])} "
            f"({high['name']})."
        )
    return Figure(
        slug=slug,
        title=f"{metric} by name: {model}",
        caption="The rate of each name, with 95% intervals over templates."
        + _left_out(len(table) - len(drawn), "name"),
        alt=f"Dot plot of the rate of {metric} for {len(drawn)} names. {' '.join(said)}",
        svg=_svg(chart),
        table=table,
    )


def _commonness_table(
    judge: JudgeSummary, names: pl.DataFrame, model: str, metric: str
) -> pl.DataFrame:
    """The rates of popular and rare names of each group, and those of the names themselves."""
    if judge.commonness is None:
        return pl.DataFrame()
    means = [
        {
            "group": rate.group or ALL,
            "commonness": rate.commonness,
            "rate": rate.share.value,
            "hits": rate.hits,
            "judged": rate.judged,
            "rows": rate.rows,
            "name": None,
        }
        for rate in judge.commonness.rates
        if (rate.model, rate.metric) == (model, metric) and rate.judged
    ]
    if not means:
        return pl.DataFrame()
    of_names = names.filter(pl.col("commonness") != "")
    table = pl.DataFrame(means, schema_overrides={"name": pl.String})
    return pl.concat([table, of_names.select(table.columns)])


def _commonness(table: pl.DataFrame, model: str, metric: str, slug: str) -> Figure:
    """Popular against rare names, as in the study."""
    groups = sorted(set(table["group"]) - {ALL})
    shown = [*groups[: MOST_GROUPS - 1], ALL]
    of_shown = table.filter(pl.col("group").is_in(shown))
    alike = ("group", "commonness", pl.col("name").is_null())  # bars, which are of all, stay
    rank = pl.col("rate").rank("ordinal", descending=True).over(alike)
    drawn = of_shown.filter(rank <= MOST_NAMES)
    kinds = ["popular", "rare"]
    base = alt.Chart(drawn).encode(
        x=alt.X("rate:Q", axis=alt.Axis(format="%", title=metric)),
        y=alt.Y("group:N", sort=shown, title=None),
        yOffset=alt.YOffset("commonness:N", scale=alt.Scale(domain=kinds)),
        color=_hue("commonness", kinds, [BLUE, ORANGE], "names"),
    )
    shape = _look("commonness", kinds, ["circle", "diamond"], "names")
    chart = alt.layer(
        base.transform_filter("datum.name !== null")
        .mark_point(opacity=0.8, size=40)
        .encode(shape=shape),
        base.transform_filter("datum.name === null").mark_tick(thickness=4, size=15, opacity=1),
    ).properties(width=640, height=36 * len(shown))
    said = []
    for group in shown:
        rows = drawn.filter((pl.col("group") == group) & pl.col("name").is_null())
        rates = dict(zip(rows["commonness"], rows["rate"], strict=True))
        if len(rates) == 2:
            said.append(
                f"{group}: {percent(rates['popular'])} popular, {percent(rates['rare'])} rare."
            )
    return Figure(
        slug=slug,
        title=f"Popular and rare names: {model}",
        caption="A bar is the rate of all popular, or all rare, names of a group; each mark is one "
        "name."
        + _left_out(len(of_shown) - len(drawn), "name")
        + _left_out(len(groups) + 1 - len(shown), "group"),
        alt=f"Rates of {metric} for popular and rare names. {' '.join(said)}",
        svg=_svg(chart),
        table=table,
    )


# -- drawing --------------------------------------------------------------------------------------


def _left_out(count: int, what: str) -> str:
    """What a figure has no room for."""
    if count <= 0:
        return ""
    return f" {count} more {what}{'' if count == 1 else 's'} are in the table alone."


def _header() -> alt.Header:
    """The heading of a facet."""
    return alt.Header(labelFontSize=14, labelFontWeight="bold", labelAnchor="start", labelPadding=4)


def _hue(field: str, kinds: list[str], hues: list[str], title: str | None) -> alt.Color:
    """Colours of kinds; a legend where there is a title for one."""
    legend = None if title is None else alt.Legend(title=title, orient="bottom")
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=kinds, range=hues), legend=legend)


def _look(field: str, kinds: list[str], shapes: list[str], title: str | None) -> alt.Shape:
    """The same in shapes, which share the colours' legend."""
    legend = None if title is None else alt.Legend(title=title, orient="bottom")
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=kinds, range=shapes), legend=legend)


def _svg(chart: Any) -> str:
    """SVG text with fonts of the reader's system; nothing in it is fetched."""
    styled = (
        chart.configure(font=_FONT, background="#ffffff")
        .configure_axis(labelFontSize=13, titleFontSize=13, labelLimit=220, gridColor="#dddddd")
        .configure_legend(labelFontSize=13, titleFontSize=13, titleLimit=300, symbolSize=90)
        .configure_view(stroke=None)
    )
    return _renumbered(vl_convert.vegalite_to_svg(styled.to_dict(), vl_version=VEGA_LITE))


def _renumbered(svg: str) -> str:
    """Ids from 1 on: Vega counts them over all figures of a process."""
    for number, id in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', svg)), 1):
        svg = svg.replace(f' id="{id}"', f' id="part-{number}"')
        svg = svg.replace(f"url(#{id})", f"url(#part-{number})")
    return svg


def inline(figure: Figure, prefix: str) -> str:
    """The SVG to stand in a page: ids of its own, one image with a description, no background."""
    svg = re.sub(r' id="([^"]+)"', rf' id="{prefix}-\1"', figure.svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    return svg.replace(
        "<svg ",
        f'<svg role="img" aria-labelledby="{prefix}-title" aria-describedby="{prefix}-alt" ',
        1,
    )
