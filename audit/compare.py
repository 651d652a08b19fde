"""What changed between two audits: trial by trial where both have the trial.

Reads the store. A trial is the same in both when its key and its prompt are; what responded and
what judged may differ, and then the caller must say that this is meant. Both audits met the same
names and templates, so the interval of a difference draws these once for both.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from evenhand.audit.findings import number, percent, signed
from evenhand.audit.statistics import Estimate, Metric, count, intervals
from evenhand.audit.statistics.counts import Floats
from evenhand.audit.store import Audit, State, Store
from evenhand.audit.summary import LEVEL
from evenhand.schemas.errors import Conflict
from evenhand.schemas.taxonomy import Taxonomy

DRAWS = 2_000
_PLACE = ("group_a", "name_a", "template_a")
_BEFORE, _AFTER = (
    "before ",
    "after ",
)  # how a metric of either audit is called when both are counted


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Side(_Part):
    """One of the two audits. `trials` has its judgements, `alone` those the other one lacks."""

    id: str
    title: str
    state: State
    complete: bool
    plan_hash: str
    fingerprints: dict[str, str]
    trials: int
    alone: int


class Pairing(_Part):
    """What is compared with what: a model and a judge of the first audit, and of the second.

    `pairs` have a trial in both audits, `judged` of these a verdict in both, and `changed` of those
    another label.
    """

    models: tuple[str, str]
    judges: tuple[str, str]
    pairs: int
    judged: int
    changed: int


class LabelChange(_Part):
    """How many pairs of a pairing had one label and have another. Null: no verdict."""

    pairing: int
    before: str | None
    after: str | None
    pairs: int


class Difference(_Part):
    """A metric over the pairs with two verdicts, of a pairing or of one of its groups.

    `before` and `after` are fractions, `points` the second less the first in percentage points. Its
    interval is null where pairs lack a group, a name or a template.
    """

    pairing: int
    group: str | None
    metric: str
    pairs: int
    before: float
    after: float
    points: Estimate


class Comparison(_Part):
    """Two audits beside each other. `differing` says what is not the same in both."""

    before: Side
    after: Side
    differing: tuple[str, ...]
    labels: tuple[str, ...]
    pairings: tuple[Pairing, ...]
    changes: tuple[LabelChange, ...]
    differences: tuple[Difference, ...]
    findings: tuple[str, ...]


def compare(store: Store, a: str, b: str, *, force: bool = False) -> Comparison:
    """What changed from audit `a` to audit `b`.

    Models, and judges, are paired by name, or with each other where each audit has one. Raises
    `NotFound`; `Conflict` where fingerprints differ and this is not said to be meant (`force`),
    where the taxonomies do, or where no trial is in both.
    """
    audits = (store.audit(a), store.audit(b))
    taxonomy, metrics = _common(*audits)
    others = tuple(_made_by(*audits))
    if others and not force:
        raise Conflict(
            f"audits {audits[0].id} and {audits[1].id} were not made by the same: {others[0]}",
            hint="If that difference is what is to be compared, say so with --force (force=true).",
        )
    rows = tuple(_rows(store, audit.id) for audit in audits)
    pairs = _pairs(*rows)
    if pairs.is_empty():
        raise Conflict(
            f"audits {audits[0].id} and {audits[1].id} have no trial in common",
            hint="Trials are compared by template, name and sample, or by the row's id. Look at "
            "the two reports instead.",
        )
    differing = (*others, *_planned(*audits))
    found: list[Pairing] = []
    changes: list[LabelChange] = []
    differences: list[Difference] = []
    keys = ["model_a", "model_b", "judge_a", "judge_b"]
    for i, own in enumerate(pairs.sort(keys).partition_by(keys, maintain_order=True)):
        found.append(_pairing(own))
        changes += _changes(i, own, taxonomy)
        differences += _differences(i, own, metrics, taxonomy)
    sides = tuple(
        Side(
            id=audit.id,
            title=audit.plan.title or audit.plan.name,
            state=audit.state,
            complete=audit.state == "done" and audit.done == audit.total,
            plan_hash=audit.plan_hash,
            fingerprints=dict(audit.fingerprints),
            trials=len(own),
            alone=len(own.join(pairs, left_on="index", right_on=f"index_{end}", how="anti")),
        )
        for audit, own, end in zip(audits, rows, "ab", strict=True)
    )
    return Comparison(
        before=sides[0],
        after=sides[1],
        differing=differing,
        labels=taxonomy.labels,
        pairings=tuple(found),
        changes=tuple(changes),
        differences=tuple(differences),
        findings=tuple(_findings(sides, differing, found, differences, taxonomy.labels)),
    )


# -- what is the same -----------------------------------------------------------------------------


def _common(a: Audit, b: Audit) -> tuple[Taxonomy, tuple[Metric, ...]]:
    """The taxonomy of both, and the labels and metrics that mean the same in both."""
    one, other = (Taxonomy.load(audit.plan.taxonomy) for audit in (a, b))
    if one.labels != other.labels:
        raise Conflict(
            f"audits {a.id} and {b.id} are judged by different labels ({one.name}, {other.name})",
            hint="Judge the responses of one by the taxonomy of the other: `evenhand audit export` "
            "and a plan with that file under `responses`.",
        )
    first, second = a.plan.metrics_for(one), b.plan.metrics_for(other)
    shared = {name: set(ls) for name, ls in first.items() if set(ls) == set(second.get(name, ()))}
    return one, tuple(
        Metric(name, frozenset(labels))
        for name, labels in ({label: {label} for label in one.labels} | shared).items()
    )


def _made_by(a: Audit, b: Audit) -> Iterator[str]:
    """Who responded or judged in one audit and not in the other, by fingerprints."""
    for kind in ("generator", "judge"):
        one, other = (
            {who: f for who, f in audit.fingerprints.items() if who.split()[0] == kind}
            for audit in (a, b)
        )
        if set(one.values()) != set(other.values()):
            yield f"fingerprint of the {kind}: {_who(one)} before, {_who(other)} after"


def _planned(a: Audit, b: Audit) -> Iterator[str]:
    """What the plans say otherwise, models apart."""
    one, other = (audit.plan.model_dump(mode="json") for audit in (a, b))
    for key in one:
        quiet = key in ("name", "title", "description", "generators", "judges")
        if not quiet and one[key] != other[key]:
            yield f"plan: {key}"


def _who(fingerprints: Mapping[str, str]) -> str:
    named = [f"{who.partition(' ')[2]} ({f[:12]})" for who, f in sorted(fingerprints.items())]
    return ", ".join(named) or "none"


# -- pairs ----------------------------------------------------------------------------------------


def _rows(store: Store, id: str) -> pl.DataFrame:
    """A row for each judgement, with the trial's key (its id without the model) and no text."""
    columns = ("judge", "model", "group", "name", "template", "label")
    rows = [
        (
            *(record[column] for column in columns),
            record["id"].removeprefix(f"{record['model']}|"),
            hashlib.sha256(record["prompt"].encode()).digest(),
        )
        for record in store.records(id)
        if record["model"] is not None  # a bad row, of which it is not known whose it is
    ]
    schema = dict.fromkeys((*columns, "key"), pl.String) | {"prompt": pl.Binary}
    return pl.DataFrame(rows, schema=schema, orient="row").with_row_index("index")


def _pairs(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Rows of both, side by side; the columns end in _a and _b but for the key and prompt."""
    on = ["key", "prompt"]
    for column in ("model", "judge"):
        names = [frame[column].unique() for frame in (a, b)]
        if len(names[0]) == 1 and len(names[1]) == 1:
            continue  # one each: they are meant, whatever they are called
        a, b = (frame.with_columns(pl.col(column).alias(f"{column} name")) for frame in (a, b))
        on.append(f"{column} name")
    sides = [
        frame.rename({column: f"{column}_{end}" for column in frame.columns if column not in on})
        for frame, end in ((a, "a"), (b, "b"))
    ]
    return sides[0].join(sides[1], on=on, how="inner")


def _both() -> pl.Expr:
    return pl.col("label_a").is_not_null() & pl.col("label_b").is_not_null()


def _pairing(own: pl.DataFrame) -> Pairing:
    first, both = own.row(0, named=True), own.filter(_both())
    return Pairing(
        models=(first["model_a"], first["model_b"]),
        judges=(first["judge_a"], first["judge_b"]),
        pairs=len(own),
        judged=len(both),
        changed=int((both["label_a"] != both["label_b"]).sum()),
    )


def _changes(pairing: int, own: pl.DataFrame, taxonomy: Taxonomy) -> Iterator[LabelChange]:
    """Every combination of labels that occurs, in the taxonomy's order, no verdict last."""
    order = {label: i for i, label in enumerate(taxonomy.labels)} | {None: len(taxonomy.labels)}
    seen = Counter(own.select("label_a", "label_b").iter_rows())
    for (before, after), pairs in sorted(
        seen.items(), key=lambda entry: [order[label] for label in entry[0]]
    ):
        yield LabelChange(pairing=pairing, before=before, after=after, pairs=pairs)


# -- differences ----------------------------------------------------------------------------------


def _differences(
    pairing: int, own: pl.DataFrame, metrics: Sequence[Metric], taxonomy: Taxonomy
) -> Iterator[Difference]:
    """Of all pairs with two verdicts, then of each group's."""
    both = own.filter(_both())
    bounds = _intervals(both.drop_nulls(_PLACE), metrics, taxonomy)
    parts: list[tuple[str | None, pl.DataFrame]] = [(None, both)]
    grouped = both.drop_nulls("group_a").partition_by("group_a", as_dict=True)
    parts += [(str(group), rows) for (group,), rows in sorted(grouped.items())]
    for group, rows in parts:
        if rows.is_empty():
            continue
        placed = len(rows.drop_nulls(_PLACE)) == len(rows)
        for metric in metrics:
            before, after = (
                int(rows[f"label_{end}"].is_in(list(metric.labels)).sum()) / len(rows)
                for end in "ab"
            )
            unknown = (math.nan, math.nan)
            low, high = bounds.get((group, metric.name), unknown) if placed else unknown
            yield Difference(
                pairing=pairing,
                group=group,
                metric=metric.name,
                pairs=len(rows),
                before=before,
                after=after,
                points=Estimate(100 * (after - before), low, high),
            )


def _intervals(
    placed: pl.DataFrame, metrics: Sequence[Metric], taxonomy: Taxonomy
) -> dict[tuple[str | None, str], tuple[float, float]]:
    """By group (null: all) and metric, the ends of a difference's interval, in points.

    The labels of both audits are counted as metrics of one table, so that each draw of names and
    templates is the same for both.
    """
    pairs = [f"{before}\n{after}" for before in taxonomy.labels for after in taxonomy.labels]
    every = [
        Metric(f"{side}{m.name}", frozenset(p for p in pairs if p.split("\n")[at] in m.labels))
        for at, side in ((0, _BEFORE), (1, _AFTER))
        for m in metrics
    ]
    table = placed.select(
        model=pl.lit("pairs"),
        group="group_a",
        name="name_a",
        template="template_a",
        label=pl.format("{}\n{}", "label_a", "label_b"),
    )
    try:
        (counts,) = count(table, every, pairs).values()
    except ValueError:  # no rows, or names that hardly share templates
        return {}
    drawn = intervals.resample(counts, DRAWS, np.random.default_rng(0))
    reach = partial(intervals.reach, counts, level=LEVEL)
    hits, judged = counts.by_group(counts.hits.sum(-1)), counts.by_group(counts.judged.sum(-1))
    found: dict[tuple[str | None, str], tuple[float, float]] = {}

    def take(group: str | None, shares: Floats, value: Floats, stretched: float) -> None:
        draws = 100 * (shares[len(metrics) :] - shares[: len(metrics)])
        points = 100 * (value[len(metrics) :] - value[: len(metrics)])
        low, high = intervals.ends(draws, points, stretched, (-100.0, 100.0))
        for i, metric in enumerate(metrics):
            found[group, metric.name] = (float(low[i]), float(high[i]))

    every_group = np.ones(len(counts.groups), bool)
    take(None, drawn.whole[:, 0], hits.sum(-1) / judged.sum(), reach((every_group,)))
    for g, group in enumerate(counts.groups):
        side = np.arange(len(counts.groups)) == g
        take(group, drawn.groups[:, g], hits[:, g] / judged[g], reach((side,)))
    return found


# -- in words -------------------------------------------------------------------------------------


def _findings(
    sides: Sequence[Side],
    differing: Sequence[str],
    pairings: Sequence[Pairing],
    differences: Sequence[Difference],
    labels: Sequence[str],
) -> Iterator[str]:
    for side in sides:
        if not side.complete:
            yield f"Audit {side.id} is not finished (state: {side.state})."
    if differing:
        yield f"Not the same in both: {'; '.join(differing)}."
    for i, pairing in enumerate(pairings):
        who = " / ".join(
            one if one == other else f"{one} → {other}"
            for one, other in (pairing.models, pairing.judges)
        )
        unjudged = pairing.pairs - pairing.judged
        yield (
            f"{who}: {pairing.changed:,} of {number(pairing.judged, 'pair')} with two verdicts "
            f"have another label"
            + (f"; {number(unjudged, 'pair')} without two verdicts left out." if unjudged else ".")
        )
        own = [d for d in differences if d.pairing == i and d.metric not in labels]
        for d in (d for d in own if d.group is None):
            yield f"{who}: {d.metric} {_moved(d)}."
        moved = [d for d in own if d.group is not None and _holds_no_zero(d)]
        for d in moved:
            yield f"{who}, {d.group}: {d.metric} {_moved(d)}."
    alone = sum(side.alone for side in sides)
    if alone:
        yield f"{number(alone, 'judgement')} of one audit have no counterpart in the other."
    yield (
        "Intervals draw names and templates anew for both audits at once. They are not adjusted "
        "for how many there are, and a change of verdicts may be the judge's as well as the "
        "model's."
    )


def _moved(d: Difference) -> str:
    text = f"{percent(d.before)} before, {percent(d.after)} after, {signed(d.points.value)} points"
    if math.isnan(d.points.low):
        return f"{text}, without an interval"
    text += f" (95% interval {signed(d.points.low)} to {signed(d.points.high)})"
    return text if _holds_no_zero(d) else f"{text}, which chance may explain"


def _holds_no_zero(d: Difference) -> bool:
    return d.points.low > 0 or d.points.high < 0
