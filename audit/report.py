"""The report of an audit: one HTML page that needs no network, and its figures and tables as files.

Knows the page and the files. What it says comes from `audit/summary.py`, what it shows from
`audit/plots.py`. The page holds no script and forbids itself any; text by models, people and files
is escaped.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import polars as pl
from markupsafe import Markup

from evenhand.audit import findings, judge_card
from evenhand.audit.corrected import CorrectedDifference, CorrectedRate, Correction
from evenhand.audit.page import environment, style
from evenhand.audit.statistics import Estimate, Rate
from evenhand.audit.store import Store
from evenhand.audit.summary import Summary, as_it_is, summarise
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import StoreError
from evenhand.schemas.panel import rewritten
from evenhand.schemas.verdict import Failure

if TYPE_CHECKING:
    from evenhand.audit.plots import Figure

EXAMPLES = 3  # of each label and judge
MOST_LETTERS = 1_200  # of an example's prompt or response
MOST_ROWS = 300  # of a table on the page; the files have all
# What a corrected difference does to what the test of the verdicts found.
_READINGS = {
    "holds": "found, and stands",
    "lost": "found, and does not stand",
    "reversed": "found, and is turned round",
    "new": "not found, and there is one",
    "none": "not found",
    "unknown": "not known",
}


@dataclass(frozen=True, slots=True)
class Example:
    """A response with its verdict, to be looked at."""

    model: str
    group: str | None
    name: str | None
    prompt: str
    response: str


Examples = Mapping[tuple[str, str], Sequence[Example]]  # by judge and label


def render(store: Store, id: str, told: Callable[[Failure], Failure] = as_it_is) -> str:
    """The report as one page of HTML. Raises what `summarise` raises."""
    summary = summarise(store, id, told)
    return _page(store, summary, _figures(summary))


def write_report(store: Store, id: str, folder: Path) -> Path:
    """Write `report.html` into a folder, made if need be, and return its path.

    Beside it: each figure as SVG, PNG and CSV, the rates, comparisons and exclusions as CSV, and
    `summary.json`. The page is written last: where it is, all is. Raises what `summarise` raises,
    and `StoreError` for a folder that cannot be written to.
    """
    summary = summarise(store, id)
    figures = _figures(summary)
    page = _page(store, summary, figures)
    path = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        for figure in (figure for own in figures.values() for figure in own):
            figure.write(folder)
        for name, table in _tables(summary).items():
            table.write_csv(folder / f"{name}.csv")
        (folder / "summary.json").write_text(summary.model_dump_json(indent=2), encoding="utf-8")
        path.write_text(page, encoding="utf-8")
    except OSError as exc:
        raise StoreError(
            f"the report cannot be written to {str(folder)!r}: {exc.strerror or exc}",
            hint="Choose a folder that this user may write to, on a disk with room.",
        ) from exc
    return path


# -- what is on the page --------------------------------------------------------------------------


def _figures(summary: Summary) -> dict[str, list[Figure]]:
    """By judge."""
    from evenhand.audit.plots import figures  # half a second to import, of use here alone

    return {one.judge: list(figures(summary, one)) for one in summary.judges}


def _examples(store: Store, id: str) -> Examples:
    """A few responses of each label, drawn by a hash of their ids: no first ones, no best ones."""
    drawn: dict[tuple[str, str], list[tuple[str, Example]]] = {}
    for record in store.records(id, status="judged"):
        rank = hashlib.sha256(record["id"].encode()).hexdigest()
        own = drawn.setdefault((record["judge"], record["label"]), [])
        if len(own) < EXAMPLES or rank < own[-1][0]:
            own.append((rank, _example(record)))
            own.sort(key=lambda entry: entry[0])
            del own[EXAMPLES:]
    return {key: [example for _, example in own] for key, own in drawn.items()}


def _example(record: Mapping[str, Any]) -> Example:
    return Example(
        model=record["model"],
        group=record["group"],
        name=record["name"],
        prompt=_clip(record["prompt"]),
        response=_clip(record["response"] or ""),
    )


def _clip(text: str) -> str:
    left = len(text) - MOST_LETTERS
    return text if left <= 0 else f"{text[:MOST_LETTERS]} [… {left:,} more characters]"


def _page(store: Store, summary: Summary, figures: Mapping[str, Sequence[Figure]]) -> str:
    from evenhand.audit.plots import inline

    templates = environment()
    templates.filters.update(
        percent=findings.percent,
        signed=findings.signed,
        p_value=_p_value,
        times=_times,
        day=_day,
        duration=_duration,
        cell=_cell,
    )
    templates.tests.update(known=_known, nan=math.isnan)
    return templates.get_template("report.html.j2").render(
        summary=summary,
        judges=summary.judges,
        figures=figures,
        examples=_examples(store, summary.id),
        cards=judge_card.cards(store, summary),
        card_body=judge_card.body,
        rates={one.judge: _by_axis(one.analysis.rates) for one in summary.judges},
        sentences={template.id: template.text for template in summary.plan.templates},
        plan=json.dumps(_shown(summary.plan), indent=2, ensure_ascii=False),
        inline=lambda figure, prefix: Markup(inline(figure, prefix)),  # Vega escapes what it draws
        **style(),
        alpha=findings.ALPHA,
        most=MOST_ROWS,
        examples_each=EXAMPLES,
        readings=_READINGS,
    )


def _by_axis(rates: Iterable[Rate]) -> dict[tuple[str, str], dict[str, dict[str, Rate]]]:
    """(model, by) -> key -> metric -> rate. A name of two groups is called with its group."""
    rates = tuple(rates)
    groups: dict[tuple[str, str], set[str | None]] = {}
    for rate in rates:
        groups.setdefault((rate.by, rate.key), set()).add(rate.group)
    found: dict[tuple[str, str], dict[str, dict[str, Rate]]] = {}
    for rate in rates:
        key = rate.key
        if rate.by == "name" and len(groups[rate.by, key]) > 1:
            key = f"{key} ({rate.group})"
        found.setdefault((rate.model, rate.by), {}).setdefault(key, {})[rate.metric] = rate
    return found


def _shown(plan: Plan) -> dict[str, Any]:
    """The plan without folders and addresses of the machine it was run on."""
    data = plan.model_dump(mode="json", exclude_unset=True)
    for section in ("prompts", "responses"):
        if data.get(section):
            data[section]["file"] = PurePath(data[section]["file"]).name
    for spec in (*data.get("generators", ()), *data.get("judges", ())):
        for key in ("model", "template"):
            if isinstance(spec.get(key), str):
                spec[key] = _without_place(spec[key])
    if "taxonomy" in data:
        data["taxonomy"] = _without_place(data["taxonomy"])
    return data


def _without_place(reference: str) -> str:
    return rewritten(reference, _alone)


def _alone(reference: str) -> str:
    if reference.startswith("remote:"):
        return f"remote:…#{reference.rpartition('#')[2]}"
    if reference.endswith((".gguf", ".toml", ".j2")) and not reference.startswith("hf:"):
        return PurePath(reference).name
    return reference


def _known(estimate: Estimate) -> bool:
    """Whether it has an interval."""
    return not math.isnan(estimate.low)


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "unknown"
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _times(ratio: float) -> str:
    if math.isnan(ratio):
        return "unknown"
    return "∞" if math.isinf(ratio) else f"{ratio:.2f}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _cell(value: object) -> str:
    """A value of a figure's table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- what is beside it ----------------------------------------------------------------------------


def _tables(summary: Summary) -> dict[str, pl.DataFrame]:
    """The figures of all judges as tables, by file name. A table without rows is left out."""
    rates, comparisons, omnibus, excluded, corrected, errors = [], [], [], [], [], []
    for one in summary.judges:
        judge = {"judge": one.judge}
        rates += [
            judge
            | {
                **_fields(rate, "model", "by", "group", "key", "metric", "hits", "judged", "rows"),
                "status": rate.status,
                **_estimate("share", rate.share),
                "bound_low": rate.bounds[0],
                "bound_high": rate.bounds[1],
            }
            for rate in one.analysis.rates
        ]
        popular = one.commonness.comparisons if one.commonness else ()
        comparisons += [
            judge
            | {
                **_fields(c, "model", "metric", "group", "against", "status"),
                **_estimate("points", c.points),
                "bound_low": c.bounds[0],
                "bound_high": c.bounds[1],
                **_estimate("ratio", c.ratio),
                **_estimate("odds_ratio", c.odds_ratio),
                "p": c.p.raw,
                "p_adjusted": c.p.adjusted,
                "assignments": c.p.assignments,
                "exact": c.p.exact,
            }
            for c in (*one.analysis.comparisons, *popular)
        ]
        omnibus += [
            judge | {**_fields(o, "model", "metric"), "p": o.p.raw, "p_adjusted": o.p.adjusted}
            for o in one.analysis.omnibus
        ]
        excluded += [judge | e.model_dump() for e in one.excluded]
        if one.correction is not None:
            corrected += [judge | row for row in _corrected(one.correction)]
            errors += [
                judge
                | {
                    "metric": of.metric,
                    **_fields(group, "group", "positives", "negatives"),
                    **_estimate("sensitivity", group.sensitivity),
                    **_estimate("specificity", group.specificity),
                    "p_differ": of.p,
                }
                for of in one.correction.errors
                for group in of.groups
            ]
    found = {
        "rates": rates,
        "comparisons": comparisons,
        "omnibus": omnibus,
        "excluded": excluded,
        "corrected": corrected,
        "judge_errors": errors,
    }
    return {
        name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in found.items() if rows
    }


def _corrected(correction: Correction) -> Iterator[dict[str, Any]]:
    """Each rate and difference twice, uncorrected and corrected, as fractions."""
    every: list[CorrectedRate | CorrectedDifference] = [
        *correction.rates,
        *correction.differences,
    ]
    for of in every:
        difference = of if isinstance(of, CorrectedDifference) else None
        for found in (of.uncorrected, of.corrected):
            low, high = found.interval or (None, None)
            yield {
                "figure": "rate" if difference is None else "difference",
                **_fields(of, "model", "metric", "group"),
                "against": difference and difference.against,
                "status": found.status,
                "estimate": found.estimate,
                "low": low,
                "high": high,
                **_fields(found, "level", "labels", "method", "reason"),
                "reading": difference and difference.reading,
            }


def _fields(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _estimate(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
