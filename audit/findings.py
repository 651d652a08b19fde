"""What the figures of an audit say, in plain sentences, and what they cannot say.

Knows figures and words. Each sentence holds only what a figure holds: a difference is called found
when its test, adjusted for all tests, says so, and what was not found is not called absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenhand.audit.corrected import CorrectedDifference
from evenhand.audit.statistics import Comparison, Metric, PValue, Rate
from evenhand.audit.store import Audit
from evenhand.judge.correction import Corrected
from evenhand.schemas.audit import Plan

if TYPE_CHECKING:  # summaries hold findings
    from evenhand.audit.summary import Annotation, JudgeSummary

ALPHA = 0.05
MOST = 8  # comparisons told in words for one model and metric
# What the default metrics count, as the end of "... of the responses".
_PHRASES = {
    "any_refusal": "refused the prompt, in whole or in part",
    "harm": "were harmful",
    "not_helped": "did not help",
}


@dataclass(frozen=True, slots=True)
class Words:
    """How an audit's models and metrics are called in a sentence."""

    phrases: dict[str, str]
    several_judges: bool

    @classmethod
    def of(cls, plan: Plan, metrics: Sequence[Metric], *, several_judges: bool) -> Words:
        """Default metrics have phrases; a plan's own are called by their name."""
        return cls(
            {
                metric.name: f"counted as {metric.name}"
                if plan.metrics
                else _PHRASES.get(metric.name, f"were labeled {metric.name}")
                for metric in metrics
            },
            several_judges,
        )


def percent(share: float) -> str:
    """A fraction as percent, with one decimal."""
    return "unknown" if math.isnan(share) else f"{100 * share:.1f}%"


def signed(points: float) -> str:
    """Percentage points with their sign; a minus that a screen reader reads as one."""
    return "unknown" if math.isnan(points) else f"{points:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value as `p = 0.012`, and as an upper bound where it is small."""
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def number(count: int, noun: str) -> str:
    """A count with its noun: `1 row`, `5,376 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# -- what was found -------------------------------------------------------------------------------


def of_audit(audit: Audit, done: int, *, complete: bool) -> tuple[str, ...]:
    """What stands above everything else: whether this is the whole audit."""
    if complete:
        return ()
    of = "" if audit.total is None else f" of {audit.total:,}"
    why = f" It failed: {audit.failure.message}." if audit.failure else ""
    return (
        f"This audit is not finished (state: {audit.state}): {done:,}{of} judgements are there, "
        f"and all figures are of these alone.{why}",
    )


def of_judge(one: JudgeSummary, words: Words, reference: str | None) -> tuple[str, ...]:
    """One judge's findings: the differences that were found, then how often what happens."""
    found: list[str] = []
    others: list[str] = []
    overall = {(r.model, r.metric): r for r in one.analysis.rates if r.by == "model" and r.judged}
    for model in dict.fromkeys(model for model, _ in overall):
        for metric in words.phrases:
            differences = (
                *_differences(one, model, metric, words, reference),
                *_hidden(one, model, metric, words, reference),
            )
            found += differences
            others.append(_overall(overall[model, metric], words) + _rate(one, model, metric))
            if not differences:
                others += _none(one, model, metric)
    if one.uncompared:
        others.append(f"{one.uncompared[0].upper()}{one.uncompared[1:]}.")
    sentences = (*found, *others, *_commonness(one, words), *_agreement(one), *_verdicts(one))
    start = f"Judge {one.judge}: " if words.several_judges else ""
    return tuple(f"{start}{sentence}" for sentence in sentences)


def _verdicts(one: JudgeSummary) -> Iterator[str]:
    if not one.rows:
        yield "Nothing has been judged yet, so there is nothing to report."
        return
    lacking = one.rows - one.judged
    if not lacking:
        yield f"All {number(one.rows, 'response')} have a verdict."
        return
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in one.statuses.items() if kind != "judged")
    yield (
        f"{one.judged:,} of {number(one.rows, 'response')} have a verdict; {lacking:,} have none "
        f"({kinds}). Rates are shown for responses with a verdict, and the bounds beside them say "
        "what the others could change."
    )


def _overall(rate: Rate, words: Words) -> str:
    share, interval = rate.share, ""
    if not math.isnan(share.low):
        interval = f"; 95% interval {percent(share.low)} to {percent(share.high)}"
    return (
        f"{rate.model}: {percent(share.value)} of {number(rate.judged, 'response')} "
        f"{words.phrases[rate.metric]} ({rate.metric}{interval})."
    )


def _rate(one: JudgeSummary, model: str, metric: str) -> str:
    """What becomes of a model's rate."""
    for rate in one.correction.rates if one.correction else ():
        if (rate.model, rate.group, rate.metric) == (model, None, metric):
            return f" That is uncorrected; {corrected_share(rate.corrected)}."
    return ""


def corrected_share(found: Corrected) -> str:
    """A corrected rate, or why there is none."""
    if found.estimate is None or found.interval is None:
        return f"there is no corrected rate ({found.reason})"
    low, high = found.interval
    return (
        f"corrected with people's labels it is {percent(found.estimate)} (95% interval "
        f"{percent(low)} to {percent(high)})"
    )


def _differences(
    one: JudgeSummary, model: str, metric: str, words: Words, reference: str | None
) -> Iterator[str]:
    """Which groups differ."""
    own = [c for c in one.analysis.comparisons if (c.model, c.metric) == (model, metric)]
    found = [c for c in own if c.p.adjusted <= ALPHA]
    # What holds against the reference is mostly said again by the comparison with the rest.
    told = [c for c in found if c.against == reference] or found
    told.sort(key=lambda c: -abs(c.points.value))
    shares = {
        rate.key: rate.share.value
        for rate in one.analysis.rates
        if (rate.by, rate.model, rate.metric) == ("group", model, metric)
    }
    corrected = _corrected(one)
    for comparison in told[:MOST]:
        by_people = corrected.get((model, metric, comparison.group, comparison.against))
        yield _difference(comparison, shares, words, one.tests) + (
            "" if by_people is None else corrected_difference(by_people)
        )
    if len(told) > MOST:
        yield f"{model}: {len(told) - MOST} more groups differ in {metric}; the table has them."
    overall = [o.p for o in one.analysis.omnibus if (o.model, o.metric) == (model, metric)]
    if not told and overall and overall[0].adjusted <= ALPHA:
        yield (
            f"{model}: groups differ in {metric} ({p_value(overall[0].adjusted)} over all groups, "
            f"adjusted for {number(one.tests, 'test')}), but no single comparison says which."
        )


def _corrected(
    one: JudgeSummary,
) -> dict[tuple[str, str, str, str | None], CorrectedDifference]:
    """By model, metric, group and what it is set against."""
    found = one.correction.differences if one.correction else ()
    return {(d.model, d.metric, d.group, d.against): d for d in found}


def corrected_difference(found: CorrectedDifference) -> str:
    """What labels by people do to a difference that the test of verdicts found."""
    corrected = found.corrected
    if corrected.estimate is None or corrected.interval is None:
        return f" That is uncorrected; there is no corrected figure ({corrected.reason})."
    low, high = (100 * end for end in corrected.interval)
    told = (
        f" That is uncorrected; corrected with people's labels it is "
        f"{signed(100 * corrected.estimate)} points (95% interval {signed(low)} to {signed(high)})"
    )
    if found.reading == "holds":
        return f"{told}, and the finding stands."
    if found.reading == "reversed":
        return f"{told}, which turns the finding round: errors of the judge made it."
    made = found.uncorrected.estimate
    outside = made is not None and not low <= 100 * made <= high
    return f"{told}, which holds zero, so the finding does not stand: " + (
        "errors of the judge made at least a part of it."
        if outside
        else "there are too few labels to tell it from errors of the judge."
    )


def _hidden(
    one: JudgeSummary, model: str, metric: str, words: Words, reference: str | None
) -> Iterator[str]:
    """Differences that the test of verdicts does not find and people's labels show."""
    own = [
        d
        for d in _corrected(one).values()
        if (d.model, d.metric, d.reading) == (model, metric, "new")
    ]
    count = len(one.correction.differences) if one.correction else 0
    for d in ([d for d in own if d.against == reference] or own)[:MOST]:
        points, low, high = (
            100 * (math.nan if x is None else x)
            for x in (d.corrected.estimate, *(d.corrected.interval or (None, None)))
        )
        seen = d.uncorrected.estimate
        yield (
            f"{model}: corrected with people's labels, the share of responses for {d.group} that "
            f"{words.phrases[metric]} is {signed(points)} points from that for "
            f"{d.against or 'all other groups'} (95% interval {signed(low)} to {signed(high)}; "
            f"zero is outside even of one that allows for all {number(count, 'difference')}). The "
            f"verdicts show {signed(100 * (math.nan if seen is None else seen))} points, "
            "uncorrected, and their test finds nothing: errors of the judge hide the difference."
        )


def _none(one: JudgeSummary, model: str, metric: str) -> Iterator[str]:
    """That no group was found to differ, and what would have been missed."""
    own = [c for c in one.analysis.comparisons if (c.model, c.metric) == (model, metric)]
    if own:
        yield (
            f"{model}: no difference between groups was found in {metric}."
            f"{_missed(one, own, model, metric)}"
        )


def _difference(c: Comparison, shares: dict[str, float], words: Words, tests: int) -> str:
    more = "more" if c.points.value > 0 else "fewer"
    other = "all other groups"
    if c.against is not None:
        other = f"{c.against} ({percent(shares[c.against])})"
    interval = ""
    if not math.isnan(c.points.low):
        interval = f"; 95% interval {signed(c.points.low)} to {signed(c.points.high)}"
    sentence = (
        f"{c.model}: for {c.group}, {percent(shares[c.group])} of the responses "
        f"{words.phrases[c.metric]}, {abs(c.points.value):.1f} percentage points {more} than for "
        f"{other}: {p_value(c.p.adjusted)}, adjusted for {number(tests, 'test')}{interval}."
    )
    if c.bounds[0] <= 0 <= c.bounds[1]:
        sentence += (
            " This hangs on the responses without a verdict: with them it could be anything from "
            f"{signed(c.bounds[0])} to {signed(c.bounds[1])} points."
        )
    return sentence


def _missed(one: JudgeSummary, own: Sequence[Comparison], model: str, metric: str) -> str:
    if not any(_can_be_found(c.p, one.tests) for c in own):
        return (
            f" With so few names and {number(one.tests, 'test')}, none could have been found, "
            "however large."
        )
    for detection in one.detections:
        if (detection.model, detection.metric) == (model, metric):
            return (
                f" That does not show that there is none: differences below about "
                f"{detection.points:.0f} points would probably have been missed."
            )
    return " How large a difference would have been missed cannot be told from so few names."


def _can_be_found(p: PValue, tests: int) -> bool:
    """Whether the smallest p there can be would stand up to the adjustment."""
    return not math.isnan(p.raw) and tests / p.assignments <= ALPHA


def _commonness(one: JudgeSummary, words: Words) -> Iterator[str]:
    if one.commonness is None:
        return
    shares = {
        (r.model, r.metric, r.commonness): r.share.value
        for r in one.commonness.rates
        if r.group is None
    }
    found = [c for c in one.commonness.comparisons if c.p.adjusted <= ALPHA]
    for c in found:
        popular, rare = (shares[c.model, c.metric, kind] for kind in ("popular", "rare"))
        yield (
            f"{c.model}: for popular names {percent(popular)} of the responses "
            f"{words.phrases[c.metric]}, for rare ones {percent(rare)}, a difference of "
            f"{signed(c.points.value)} points ({p_value(c.p.adjusted)}, adjusted)."
        )
    if not found:
        yield "No difference between popular and rare names was found."


def _agreement(one: JudgeSummary) -> Iterator[str]:
    if one.agreement is None or not one.agreement.rows:
        return
    found = one.agreement
    interval = ""
    if not math.isnan(found.accuracy.low):
        interval = (
            f" (95% interval {percent(found.accuracy.low)} to {percent(found.accuracy.high)})"
        )
    yield (
        f"Where people gave a label too ({number(found.rows, 'row')}), the judge gives the "
        f"same one in {percent(found.accuracy.value)}{interval}; kappa is {found.kappa.value:.2f}."
    )


def of_people(people: Annotation | None) -> tuple[str, ...]:
    """What people were asked, and how far they agree."""
    if people is None:
        return ()
    if not people.annotators:
        return (
            f"{number(people.drawn, 'response')} were drawn for people to label, and nobody has "
            "yet: every figure is uncorrected.",
        )
    who = number(len(people.annotators), "person").replace("persons", "people")
    sentence = (
        f"Labels by {who} are there for {people.labelled:,} of the {number(people.items, 'text')} "
        f"of a random sample of {number(people.drawn, 'response')}."
    )
    found = people.agreement
    if found is None:
        sentence += " No text has labels by two, so how far people agree is not known."
    else:
        name = {"kappa": "Cohen's kappa", "alpha": "Krippendorff's alpha"}[found.coefficient]
        value = "unknown" if math.isnan(found.value.value) else f"{found.value.value:.2f}"
        if not math.isnan(found.value.low):
            value += f" (95% interval {found.value.low:.2f} to {found.value.high:.2f})"
        sentence += (
            f" Where two or more labelled one ({found.items:,}), they agree on "
            f"{percent(found.same.value)}; {name} is {value}."
        )
    if people.ruled:
        sentence += f" A third decided {people.ruled:,} that they disagree on."
    if people.open:
        sentence += f" {people.open:,} that they disagree on are left out."
    return (sentence,)


# -- what cannot be told --------------------------------------------------------------------------


def limits(
    plan: Plan,
    judges: Sequence[JudgeSummary],
    reference: str | None,
    people: Annotation | None,
    *,
    complete: bool,
    changed: bool,
    done: int,
    seen: Mapping[str, Sequence[str]],
) -> tuple[str, ...]:
    """What this design, and these data, cannot tell.

    `seen` holds by judge that reads stand-ins for some of the plan's names the others.
    """
    return (
        *_limits(plan, judges, reference, people, complete=complete, changed=changed, done=done),
        *_of_names(seen, sum(1 for _ in plan.names())),
    )


def _of_names(seen: Mapping[str, Sequence[str]], names: int) -> Iterator[str]:
    """Where a judge sees some names and not others, it may treat them otherwise."""
    for judge, some in seen.items():
        told = ", ".join(some[:MOST]) + (", ..." if len(some) > MOST else "")
        yield (
            f"{judge} reads a stand-in for {names - len(some)} of the {number(names, 'name')}, "
            f"and the others as they are ({told}), which are not on its list: a difference "
            "between these and those may be the judge's."
        )


def _limits(
    plan: Plan,
    judges: Sequence[JudgeSummary],
    reference: str | None,
    people: Annotation | None,
    *,
    complete: bool,
    changed: bool,
    done: int,
) -> Iterator[str]:
    compared = any(one.analysis.comparisons for one in judges)
    if not complete and done:
        yield (
            "The audit is not finished. What is done first is no random part of it: groups may "
            "have met different prompts so far, and differences may come from that."
        )
    if changed:
        yield (
            "A file, template or taxonomy of the plan has changed, or is gone, since the audit "
            "began. The verdicts are those of then; the taxonomy is read as it is now."
        )
    if plan.reference is not None and reference is None and done:
        yield (
            f"The plan compares with {plan.reference!r}, and not every model has rows of that "
            "group: groups are compared with all others together instead."
        )
    unplaced = max((one.unplaced for one in judges), default=0)
    if unplaced:
        yield (
            f"{number(unplaced, 'row')} without a group, a name or a template {_is(unplaced)} in "
            "no comparison."
            + (
                " The rates of models and groups have no interval then: it is not known which of "
                "these rows resemble each other."
                if any(one.unplaced_judged for one in judges)
                else " Without a verdict, they move no rate; bounds allow for all that they may be."
            )
        )
    if not all(one.crossed for one in judges):
        yield (
            "Not every name met every template, so a difference between prompts may look like one "
            "between groups."
        )
    heard = [one for one in judges if one.rows and one.correction is None]
    unchecked = " and ".join(one.judge for one in heard if one.agreement is None)
    checked = " and ".join(one.judge for one in heard if one.agreement is not None)
    corrected = " and ".join(one.judge for one in judges if one.correction is not None)
    if corrected:
        yield (
            f"Figures that say “uncorrected”, and all tests, count verdicts of {corrected}. Those "
            "that say “corrected” take people's labels for the truth. They are intervals one at a "
            "time and no tests: of 20 that hold zero in truth, about one does not here."
        )
        yield (
            "People labelled without seeing a verdict or a group, but the prompt that they read "
            "holds the name."
            if plan.templates
            else "People labelled without seeing a verdict or a group, as far as the prompt does "
            "not tell it."
        )
    if corrected and people is not None and people.open:
        yield (
            f"{number(people.open, 'text')} on which people disagree {_is(people.open)} left out "
            "of the correction, which takes them for no harder than the others."
        )
    if unchecked:
        yield (
            f"Rates count verdicts, and {unchecked} may err. No labels by people were there to "
            "correct for errors or to say how frequent they are on these responses."
        )
    if checked:
        yield (
            f"Rates count the verdicts of {checked}. They are not corrected for errors; the "
            "agreement with people says how frequent these are."
        )
    if compared:
        yield (
            "Names stand for groups. What else differs between names (length, rarity, other "
            "languages, famous bearers) moves with the group and cannot be told apart from it."
            if plan.templates
            else "Groups may differ in more than the group: in what the prompts are about, or in "
            "names. What moves with the group cannot be told apart from it."
        )
        yield (
            "Not finding a difference is not finding that there is none. The tests decide whether "
            "there is a difference, the intervals how large it might be; the intervals are the "
            "more careful of the two and may hold zero where a test does not."
        )
    if len(judges) > 1:
        yield "Each judge's tests are adjusted for that judge's tests alone."
    if any(one.commonness for one in judges):
        yield (
            "Which names are popular and which rare is what the plan says, and was not counted. "
            "That comparison is adjusted by itself."
        )
    yield (
        "The figures are about these prompts, these settings and these models' files. Other "
        "wordings, languages or settings may give others."
    )
    if any(spec.model == "bundled:chat" for spec in plan.generators):
        yield (
            "bundled:chat is a small model for demonstrations. What it does says nothing of Llama "
            "2 or any other model."
        )
