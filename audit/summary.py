"""What came of an audit, as one object: facts, figures, findings, and what they cannot tell.

Reads the store and asks `audit/statistics`; `audit/findings.py` puts the figures into words. It
draws and writes nothing. A row without a verdict is counted, and never as a zero.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from scipy import stats

from evenhand.audit import annotate, findings
from evenhand.audit.bounds import bounds, widen
from evenhand.audit.corrected import Correction, correct
from evenhand.audit.plan import plan_hash
from evenhand.audit.statistics import (
    Analysis,
    Axis,
    Comparison,
    Estimate,
    Metric,
    Rate,
    analyse_counts,
    count,
    holm,
)
from evenhand.audit.store import Audit, Drawn, HumanLabel, State, Store
from evenhand.judge import agreement
from evenhand.judge.card import recorded_facts
from evenhand.judge.evidence import known
from evenhand.judge.facts import Facts
from evenhand.prompts.names import is_hidden
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import Conflict, RequestError
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Failure, Status

LEVEL = 0.95  # of intervals
POWER = 0.8  # what a difference must have to count as one that would have been found
UNKNOWN = math.nan
_KEYS = ("model", "group", "name", "template")


class _Part(BaseModel):
    """NaN, and an end of an interval that is infinite, become null in JSON."""

    model_config = ConfigDict(frozen=True)


class Excluded(_Part):
    """Rows without a verdict, by why there is none; `message` is the first one's."""

    status: str
    code: str
    rows: int
    message: str
    hint: str


class Detection(_Part):
    """The smallest difference from the comparisons' other side, in percentage points, that would
    have been found in `POWER` of such audits, judged by how the audit's own names and templates
    vary. NaN where this cannot be told.
    """

    model: str
    metric: str
    points: float


class CommonnessRate(_Part):
    """The rate of a metric for popular or rare names of one group, or of all (`group` is null)."""

    model: str
    group: str | None
    commonness: str
    metric: str
    hits: int
    judged: int
    rows: int
    share: Estimate
    status: Literal["uncorrected"] = "uncorrected"


class Commonness(_Part):
    """Popular names beside rare ones. `names` says by group which is which. The comparisons, over
    all groups, are a family of their own under Holm's adjustment.
    """

    names: dict[str, dict[str, str]]
    rates: tuple[CommonnessRate, ...]
    comparisons: tuple[Comparison, ...]


class Agreement(_Part):
    """How a judge's labels agree with labels that people gave, over `rows` that have both.

    Intervals draw whole prompts. `missed` counts rows with a label by people and no verdict.
    `confusion` has a row for each label by people and a column for each by the judge; `recall` and
    `precision` are by label.
    """

    rows: int
    missed: int
    accuracy: Estimate
    kappa: Estimate
    macro_f1: float
    recall: dict[str, float]
    precision: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]


class AnnotatorAgreement(_Part):
    """How far people agree on the `items` that two or more of them labelled: the share that all
    gave one label, and Cohen's kappa (two people) or Krippendorff's alpha. Intervals draw whole
    prompts.
    """

    coefficient: Literal["kappa", "alpha"]
    items: int
    same: Estimate
    value: Estimate


class Annotation(_Part):
    """What people were asked, and what they said.

    `drawn` responses are in the sample; those of one text are one of the `items`. Of these,
    `labelled` have a label. `disputed` had no majority: a third decided `ruled` of them, and `open`
    are left out. `annotators` and `thirds` say how many labels each gave.
    """

    drawn: int
    items: int
    labelled: int
    strata: tuple[str, ...]
    allocation: str
    judge: str | None
    model: str | None
    annotators: dict[str, int]
    thirds: dict[str, int]
    disputed: int
    ruled: int
    open: int
    agreement: AnnotatorAgreement | None


class JudgeSummary(_Part):
    """What one judge found.

    `analysis` is over the rows that have a group, a name and a template. Of those that lack one
    (`unplaced` rows) the ones without verdict widen the bounds; where some have a verdict, the
    rates of models and groups are over all rows, without intervals.
    `uncompared` says why groups are not compared; null where they are. `tests` is the size of the
    family of Holm's adjustment. `correction` has the corrected figures, where people labelled a
    sample.
    """

    judge: str
    rows: int
    judged: int
    statuses: dict[str, int]
    labels: dict[str, int]
    excluded: tuple[Excluded, ...]
    unplaced: int
    unplaced_judged: int
    analysis: Analysis
    tests: int
    detections: tuple[Detection, ...]
    uncompared: str | None
    crossed: bool
    commonness: Commonness | None
    agreement: Agreement | None
    correction: Correction | None
    findings: tuple[str, ...]


class Summary(_Part):
    """An audit in full. Times are seconds since 1970; `seconds` is time spent running.

    `total` and `done` count verdicts. `versions` are those that computed this summary; what ran is
    told by the `fingerprints`. `metrics` are the composite metrics with their labels, and
    `reference` is the group that others are compared with, if it is in the data. `people` is null
    where nobody was asked. `findings` say in words what the figures say, `limits` what they cannot.
    """

    id: str
    title: str
    state: State
    complete: bool
    created: float
    updated: float
    seconds: float
    plan: Plan
    plan_hash: str
    seed: int
    total: int | None
    done: int
    failure: str | None
    fingerprints: dict[str, str]
    versions: dict[str, str]
    taxonomy: str
    taxonomy_version: str
    labels: tuple[str, ...]
    metrics: dict[str, tuple[str, ...]]
    reference: str | None
    models: tuple[str, ...]
    level: float
    judges: tuple[JudgeSummary, ...]
    people: Annotation | None
    findings: tuple[str, ...]
    limits: tuple[str, ...]


def as_it_is(failure: Failure) -> Failure:
    """Tell a failure as it was stored."""
    return failure


def summarise(store: Store, id: str, told: Callable[[Failure], Failure] = as_it_is) -> Summary:
    """The summary of an audit as it stands, finished or not. `told` is what is said of a failure.

    Raises `NotFound`, `StoreError`; `TaxonomyError` or `Conflict` where the taxonomy that the plan
    names is no longer what the verdicts were given by.
    """
    audit = store.audit(id)
    audit = replace(audit, failure=audit.failure and told(audit.failure))
    plan = audit.plan
    taxonomy = Taxonomy.load(plan.taxonomy)
    table = store.table(audit.id)
    _check_labels(audit, table, taxonomy)
    metrics = _metrics(plan, taxonomy)
    excluded = _excluded(store, audit.id, told)
    gold = _gold(store, audit.id) if table["gold"].count() else {}
    reference = plan.reference
    if reference is not None and not _in_every_model(table, reference):
        reference = None
    names = [spec.name for spec in plan.judges]
    people, human = people_of(store, audit.id, table)
    judges = tuple(
        _judge(
            name,
            table.filter(pl.col("judge") == name).drop("judge", "sample"),
            human,
            taxonomy,
            metrics,
            reference,
            excluded.get(name, ()),
            _agreement(gold[name], taxonomy) if name in gold else None,
            plan.seed,
        )
        for name in names
    )
    words = findings.Words.of(plan, metrics, several_judges=len(judges) > 1)
    judges = tuple(
        one.model_copy(update={"findings": findings.of_judge(one, words, reference)})
        for one in judges
    )
    done = len(table)
    complete = audit.state == "done" and done == audit.total
    return Summary(
        id=audit.id,
        title=plan.title or plan.name,
        state=audit.state,
        complete=complete,
        created=audit.created,
        updated=audit.updated,
        seconds=audit.seconds,
        plan=plan,
        plan_hash=audit.plan_hash,
        seed=plan.seed,
        total=audit.total,
        done=done,
        failure=audit.failure.message if audit.failure else None,
        fingerprints=dict(audit.fingerprints),
        versions=_versions(),
        taxonomy=taxonomy.name,
        taxonomy_version=taxonomy.version,
        labels=taxonomy.labels,
        metrics={metric.name: tuple(sorted(metric.labels)) for metric in metrics},
        reference=reference,
        models=tuple(table["model"].drop_nulls().unique().sort()),
        level=LEVEL,
        judges=judges,
        people=people,
        findings=(
            *findings.of_audit(audit, done, complete=complete),
            *(sentence for one in judges for sentence in one.findings),
            *findings.of_people(people),
        ),
        limits=findings.limits(
            plan,
            judges,
            reference,
            people,
            complete=complete,
            changed=_changed(audit),
            done=done,
            seen=_seen(audit, store, taxonomy),
        ),
    )


# -- the pieces -----------------------------------------------------------------------------------


def _seen(audit: Audit, store: Store, taxonomy: Taxonomy) -> dict[str, list[str]]:
    """By judge that reads stand-ins for some of the plan's names, the others."""
    plan = audit.plan
    listed = [entry.name for entry in plan.names()]
    unlisted = [name for name in listed if not is_hidden(name)]
    if len(unlisted) in (0, len(listed)):
        return {}  # whatever a judge does, it does so with all
    records = known(store.folder)
    judges = [spec.name for spec in plan.judges if f"judge {spec.name}" in audit.fingerprints]
    return {
        name: unlisted
        for name in judges
        if _hides(recorded_facts(name, audit.fingerprints[f"judge {name}"], taxonomy, records))
    }


def _hides(facts: Facts) -> bool:
    own = facts.prompt is not None and facts.prompt.names == "hidden"
    return own or any(map(_hides, facts.members))


def _metrics(plan: Plan, taxonomy: Taxonomy) -> tuple[Metric, ...]:
    """What is compared: the composite metrics, or each label where the taxonomy gives none.

    A label keeps its name where a metric bears the same and counts something else.
    """
    found = plan.metrics_for(taxonomy) or {label: (label,) for label in taxonomy.labels}
    return tuple(
        Metric(
            f"{name} (metric)" if name in taxonomy.labels and set(labels) != {name} else name,
            frozenset(labels),
        )
        for name, labels in found.items()
    )


def _check_labels(audit: Audit, table: pl.DataFrame, taxonomy: Taxonomy) -> None:
    strange = set(table["label"].drop_nulls()) - set(taxonomy.labels)
    if strange:
        raise Conflict(
            f"taxonomy {audit.plan.taxonomy!r} no longer has the label {min(strange)!r}, which "
            f"audit {audit.id} was judged by",
            hint="Bring the taxonomy back as it was.",
        )


def _changed(audit: Audit) -> bool:
    """Whether a file, template or taxonomy of the plan is not what it was."""
    try:
        return plan_hash(audit.plan) != audit.plan_hash
    except RequestError:
        return True  # it is gone


def _in_every_model(table: pl.DataFrame, group: str) -> bool:
    """Whether each model that can be compared has rows of a group."""
    placed = table.drop_nulls(_KEYS)
    heard = placed.filter(pl.col("label").is_not_null().any().over("model"))
    there = heard.filter(pl.col("group") == group)["model"].n_unique()
    return 0 < there == heard["model"].n_unique()


def _excluded(
    store: Store, id: str, told: Callable[[Failure], Failure]
) -> dict[str, tuple[Excluded, ...]]:
    """By judge, why rows have no verdict, the most frequent reason first."""
    seen: dict[tuple[str, str, str], tuple[int, Failure]] = {}
    for status in Status:
        if status is Status.JUDGED:
            continue
        for record in store.records(id, status=status):
            failure = Failure.model_validate(record["failure"])
            key = (record["judge"], status.value, failure.code)
            rows, first = seen.get(key, (0, failure))
            seen[key] = (rows + 1, first)
    found: dict[str, tuple[Excluded, ...]] = {}
    for (judge, status_, _), (rows, first) in sorted(seen.items(), key=lambda x: -x[1][0]):
        one = Excluded(status=status_, rows=rows, **told(first).model_dump())
        found[judge] = (*found.get(judge, ()), one)
    return found


def _judge(
    name: str,
    rows: pl.DataFrame,
    human: pl.DataFrame | None,
    taxonomy: Taxonomy,
    metrics: tuple[Metric, ...],
    reference: str | None,
    excluded: tuple[Excluded, ...],
    agrees: Agreement | None,
    seed: int,
) -> JudgeSummary:
    """The figures of one judge, yet without words."""
    every = (
        *(Metric(label, frozenset([label])) for label in taxonomy.labels),
        *(metric for metric in metrics if metric.name not in taxonomy.labels),
    )
    compared = [metric.name for metric in metrics]
    placed = rows.drop_nulls(_KEYS)
    unplaced = rows.filter(pl.any_horizontal(pl.col(_KEYS).is_null()))
    analysis, uncompared, crossed = Analysis((), (), ()), _uncompared(rows, placed), True
    detections: tuple[Detection, ...] = ()
    if len(placed):
        try:
            counts = count(placed, every, taxonomy.labels)
        except ValueError as exc:
            uncompared = f"groups are not compared: {exc}"
            placed = placed.clear()
        else:
            # A model without a verdict can be compared with nothing, and costs others no reference.
            heard = {model: c for model, c in counts.items() if c.judged.any()}
            base = reference if all(reference in c.groups for c in heard.values()) else None
            analysis = analyse_counts(heard, compared, reference=base, level=LEVEL, seed=seed)
            silent = placed.filter(~pl.col("model").is_in(list(heard)))
            more = (*_plain(silent, every, "model"), *_plain(silent, every, "group"))
            analysis = replace(analysis, rates=(*analysis.rates, *more))
            crossed = all(bool((c.rows > 0).all()) for c in heard.values())
            names = {m: dict(zip(c.groups, c.names_in, strict=True)) for m, c in heard.items()}
            detections = tuple(_detections(analysis, names, base))
    counted: tuple[Axis, ...] = ()
    if unplaced["label"].count() or len(placed) + len(unplaced) < len(rows):
        kept = tuple(rate for rate in analysis.rates if rate.by in ("name", "template"))
        plain = (*_plain(rows, every, "model"), *_plain(rows, every, "group"), *kept)
        analysis, counted = replace(analysis, rates=plain), ("model", "group")
    analysis = widen(analysis, unplaced.filter(pl.col("label").is_null()), counted)
    return JudgeSummary(
        judge=name,
        rows=len(rows),
        judged=rows["label"].count(),
        statuses=dict(rows.group_by("status").len().sort("status").iter_rows()),
        labels={label: int((rows["label"] == label).sum()) for label in taxonomy.labels},
        excluded=excluded,
        unplaced=len(unplaced),
        unplaced_judged=unplaced["label"].count(),
        analysis=analysis,
        tests=_tests(analysis),
        detections=detections,
        uncompared=uncompared,
        crossed=crossed,
        commonness=_commonness(placed, every, compared, taxonomy, seed),
        agreement=agrees,
        correction=None
        if human is None or not len(rows)
        else correct(
            rows.join(human, on="trial", how="left", maintain_order="left"),
            every,
            compared,
            analysis,
            level=LEVEL,
            alpha=findings.ALPHA,
        ),
        findings=(),
    )


def _tests(analysis: Analysis) -> int:
    """How many p-values Holm's adjustment was over."""
    found = [one.p for one in analysis.comparisons] + [one.p for one in analysis.omnibus]
    return sum(not math.isnan(p.raw) for p in found)


def _uncompared(rows: pl.DataFrame, placed: pl.DataFrame) -> str | None:
    """Why there is no comparison of groups; None where there is one."""
    if not rows["label"].count():
        return "groups are not compared: no row has a verdict"
    if placed.is_empty():
        lacking = [key for key in _KEYS if not rows[key].count()] or list(_KEYS)
        return (
            f"groups are not compared: no row has a {' and a '.join(lacking)}, and without it is "
            "not known which responses resemble each other"
        )
    if placed["group"].n_unique() < 2:
        return f"groups are not compared: all rows belong to one, {placed['group'][0]!r}"
    return None


def _plain(rows: pl.DataFrame, metrics: tuple[Metric, ...], by: str) -> Iterator[Rate]:
    """Rates of models, or of their groups, over all rows that say which; no intervals."""
    keys = ["model"] if by == "model" else ["model", by]
    label = pl.col("label")
    sums = [pl.len().alias("rows"), label.count().alias("judged")]
    sums += [label.is_in(list(m.labels)).sum().alias(f"hits {m.name}") for m in metrics]
    for row in rows.drop_nulls(keys).group_by(keys).agg(sums).sort(keys).iter_rows(named=True):
        for metric in metrics:
            hits, judged, of = row[f"hits {metric.name}"], row["judged"], row["rows"]
            yield Rate(
                model=row["model"],
                by="model" if by == "model" else "group",
                group=None if by == "model" else row[by],
                key=row[by],
                metric=metric.name,
                hits=hits,
                judged=judged,
                rows=of,
                share=Estimate(hits / judged if judged else UNKNOWN, UNKNOWN, UNKNOWN),
                bounds=bounds(hits, judged, of),
            )


def _detections(
    analysis: Analysis, names: Mapping[str, Mapping[str, int]], reference: str | None
) -> Iterator[Detection]:
    """From the intervals of the comparisons, the median of each model and metric.

    An interval reaches Student's t standard errors; a difference is found with `POWER` when it is
    as many standard errors away as the smallest p needs under Holm, and some more. The intervals
    are rather too wide than too narrow (docs/statistics.md), and so are these.
    """
    tests = _tests(analysis)
    found: dict[tuple[str, str], list[float]] = {}
    for one in analysis.comparisons:
        if one.against != reference or math.isnan(one.points.low + one.p.raw):
            continue
        sizes = names[one.model]
        rest = sum(sizes.values()) - sizes[one.group]
        freedom = sizes[one.group] + (rest if one.against is None else sizes[one.against]) - 2
        needed = stats.t.ppf(1 - (1 - LEVEL) / 2 / tests, freedom) + stats.t.ppf(POWER, freedom)
        reached = stats.t.ppf((1 + LEVEL) / 2, freedom)
        half = (one.points.high - one.points.low) / 2
        found.setdefault((one.model, one.metric), []).append(half * needed / reached)
    for (model, metric), points in found.items():
        yield Detection(model=model, metric=metric, points=float(np.median(points)))


def _commonness(
    placed: pl.DataFrame,
    every: tuple[Metric, ...],
    compared: list[str],
    taxonomy: Taxonomy,
    seed: int,
) -> Commonness | None:
    """Popular and rare names, with commonness in the place of the group; None where one lacks."""
    placed = placed.drop_nulls("commonness")
    if placed["commonness"].n_unique() < 2:
        return None
    # A name may stand for two groups; these are two names.
    pooled = placed.with_columns(
        group=pl.col("commonness"), name=pl.format("{}|{}", "group", "name")
    )
    counts = count(pooled, every, taxonomy.labels)
    counts = {model: found for model, found in counts.items() if len(found.groups) == 2}
    if not counts:
        return None
    overall = analyse_counts(
        counts, compared, reference="rare", level=LEVEL, seed=seed, odds_ratios=False
    )
    raw = [one.p.raw for one in overall.comparisons]
    adjusted = holm(raw).tolist()  # without the omnibus tests, which say the same of two groups
    rates = [_of_commonness(rate, None) for rate in overall.rates if rate.by == "group"]
    for (group,), rows in sorted(placed.partition_by("group", as_dict=True).items()):
        of_group = _plain(rows.with_columns(group=pl.col("commonness")), every, "group")
        rates += [_of_commonness(rate, str(group)) for rate in of_group]
    names: dict[str, dict[str, str]] = {}
    for group, name, kind in (
        placed.select("group", "name", "commonness").unique().sort(pl.all()).iter_rows()
    ):
        names.setdefault(group, {})[name] = kind
    return Commonness(
        names=names,
        rates=tuple(rates),
        comparisons=tuple(
            replace(one, p=replace(one.p, adjusted=p))
            for one, p in zip(overall.comparisons, adjusted, strict=True)
        ),
    )


def _of_commonness(rate: Rate, group: str | None) -> CommonnessRate:
    """A rate whose key is a commonness."""
    return CommonnessRate(
        model=rate.model,
        group=group,
        commonness=rate.key,
        metric=rate.metric,
        hits=rate.hits,
        judged=rate.judged,
        rows=rate.rows,
        share=rate.share,
    )


# -- agreement with people ------------------------------------------------------------------------

_Pairs = list[tuple[str, str, str | None]]  # prompt, label by people, label by the judge


def _gold(store: Store, id: str) -> dict[str, _Pairs]:
    """By judge, the rows that people labelled."""
    found: dict[str, _Pairs] = {}
    for record in store.records(id):
        if record["gold"] is not None:
            row = (record["prompt"], record["gold"], record["label"])
            found.setdefault(record["judge"], []).append(row)
    return found


def _agreement(pairs: _Pairs, taxonomy: Taxonomy) -> Agreement:
    """Over the rows that have both labels."""
    index = {label: i for i, label in enumerate(taxonomy.labels)}
    both = [(prompt, index[gold], index[said]) for prompt, gold, said in pairs if said is not None]
    gold, said = (np.array([row[i] for row in both], np.int64) for i in (1, 2))
    prompts = [row[0] for row in both]
    confusion = agreement.confusion(gold, said, len(index))

    def estimate(statistic: Callable[[agreement.Indices], float]) -> Estimate:
        value = statistic(confusion)
        if len(set(prompts)) < 2:  # how prompts vary cannot be known
            return Estimate(value, UNKNOWN, UNKNOWN)
        low, high = agreement.interval(
            lambda rows: statistic(agreement.confusion(gold[rows], said[rows], len(index))),
            prompts,
            level=LEVEL,
        )
        return Estimate(value, low, high)

    return Agreement(
        rows=len(both),
        missed=len(pairs) - len(both),
        accuracy=estimate(agreement.accuracy),
        kappa=estimate(agreement.cohen_kappa),
        macro_f1=agreement.macro_f1(confusion),
        recall=dict(zip(taxonomy.labels, agreement.recalls(confusion).tolist(), strict=True)),
        precision=dict(zip(taxonomy.labels, agreement.precisions(confusion).tolist(), strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def people_of(
    store: Store, id: str, table: pl.DataFrame
) -> tuple[Annotation | None, pl.DataFrame | None]:
    """What people were asked and said of an audit, and their labels by trial (`annotate.labelled`).

    None where nobody was asked, and where nobody answered.
    """
    found = store.sample(id)
    if found is None:
        return None, None
    design, drawn = annotate.Design.model_validate_json(found[0]), found[1]
    items = {one.item for one in drawn}
    labels = [one for one in store.human_labels(id) if one.item in items]
    merged = annotate.merge(labels)
    people = Annotation(
        drawn=len(drawn),
        items=len(items),
        labelled=len(merged.gold),
        strata=design.strata,
        allocation=design.allocation,
        judge=design.judge,
        model=design.model,
        annotators=merged.annotators,
        thirds=merged.thirds,
        disputed=len(merged.disputed),
        ruled=len(merged.ruled),
        open=len(merged.open),
        agreement=_among_people(store, id, labels, drawn),
    )
    if not labels:
        return people, None
    return people, annotate.labelled(table, design, drawn, merged.gold)


def _among_people(
    store: Store, id: str, labels: Sequence[HumanLabel], drawn: Sequence[Drawn]
) -> AnnotatorAgreement | None:
    if len({one.annotator for one in labels if not one.third}) < 2:
        return None
    items = {one.trial: one.item for one in drawn}
    prompts = {items[trial]: prompt for trial, prompt, _ in store.texts(id, items)}
    found = annotate.agree(labels, prompts, LEVEL)
    if found is None:
        return None
    same, value = (Estimate(x.value, x.low, x.high) for x in (found.same, found.value))
    return AnnotatorAgreement(
        coefficient=found.coefficient, items=found.items, same=same, value=value
    )


def _versions() -> dict[str, str]:
    packages = ("evenhand", "llama-cpp-python", "outlines", "numpy", "scipy", "polars")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
