"""What a validation's figures say, in plain sentences.

Knows the document and words. A difference is called one where its interval, or its adjusted test,
says so; what was not found is not called absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from evenhand.judge.agreement import Estimate
from evenhand.judge.differential import DifferentialError, Gap
from evenhand.judge.validation import Errors, Panel, People, Rater, Validation

ALPHA = 0.05


def findings(document: Validation) -> Iterator[str]:
    """The sentences, the most important first."""
    judge, *others = document.raters
    yield _coverage(judge)
    if not judge.labelled:
        return
    yield (
        f"Its kappa with people's labels is {_interval(judge.agreement.kappa)}, Krippendorff's "
        f"alpha {_interval(judge.agreement.alpha)}; it gives the same label for "
        f"{_percent(judge.agreement.accuracy.value)} of the rows that it judged. Intervals "
        f"resample the {document.units:,} values of {document.unit!r}, not rows."
    )
    for other in others:
        lead = other.lead if other.kind in ("baseline", "rater") else None
        if lead is not None and not math.isnan(lead.value):
            yield _lead(other, lead)
    if document.panel is not None:
        yield _panel(document.panel)
    if document.people is not None:
        yield from _people(document.people, judge)
    for errors in judge.errors:
        yield from _errors(errors)
    if document.reliability is not None:
        ece = document.reliability.scores.ece
        yield f"Its confidence is off by {_percent(ece.value)} on average (ECE {_interval(ece)})."
    selection = document.selection
    if selection is not None and selection.target is not None:
        found = selection.threshold
        if found is None:
            yield (
                f"Agreement of {_percent(selection.target)} cannot be guaranteed from any "
                "confidence on: the rows are too few, or the judge is not sure where it is right."
            )
        else:
            yield (
                f"From a confidence of {found.value:.3f} on it agrees with people on at least "
                f"{_percent(found.target)} of responses like these (but for a chance of "
                f"{_percent(found.delta)}), and judges {_percent(found.coverage)} of them."
            )
    if document.fitted is not None:
        fitted = document.fitted
        yield (
            f"With {fitted.method} scaling, on rows that it was not fitted on: ECE "
            f"{fitted.fitted.ece.value:.3f} instead of {fitted.now.ece.value:.3f}, log-loss "
            f"{fitted.fitted.log_loss.value:.3f} instead of {fitted.now.log_loss.value:.3f}."
        )


def _coverage(judge: Rater) -> str:
    without = judge.rows - judge.labelled
    if not without:
        return f"The judge labelled all {judge.rows:,} rows."
    why = ", ".join(f"{m.rows:,} {m.status} ({m.code})" for m in judge.missing)
    return (
        f"The judge labelled {judge.labelled:,} of {judge.rows:,} rows; {without:,} have no label "
        f"and are in no figure but the bounds: {why}."
    )


def _lead(other: Rater, lead: Estimate) -> str:
    kappa = f"kappa {other.agreement.kappa.value:.3f}"
    apart = f"{lead.value:+.3f}".replace("-", "−")
    known = not math.isnan(lead.low)
    ends = f", {lead.low:+.3f} to {lead.high:+.3f}".replace("-", "−") if known else ""
    if lead.value == 0 or (known and lead.low <= 0 <= lead.high):
        return f"It cannot be told apart from {other.name} ({kappa}; difference {apart}{ends})."
    if not known:
        return (
            f"Its kappa differs by {apart} from that of {other.name} ({kappa}); how far chance "
            "alone would make it differ is not known."
        )
    how = "better" if lead.value > 0 else "worse"
    return f"It does {how} than {other.name} ({kappa}; difference {apart}{ends})."


def _panel(panel: Panel) -> str:
    count = len(panel.members)
    if panel.effective is None:
        return (
            f"How many independent judges its {count} members amount to is not known: no two of "
            "them have errors that could be correlated."
        )
    return (
        f"Its {count} members amount to {panel.effective:.1f} independent judges, by the "
        "correlation of their errors."
    )


def _people(people: People, judge: Rater) -> Iterator[str]:
    human = [pair for pair in people.pairs if judge.name not in (pair.one, pair.other)]
    known = [pair.kappa.value for pair in human if not math.isnan(pair.kappa.value)]
    if known:
        low, high = min(known), max(known)
        span = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
        without = (
            f", the {people.undecided:,} rows without a label that counts among theirs"
            if people.undecided
            else ""
        )
        yield f"People agree with each other with a kappa of {span}{without}."
    test = people.alternative
    if test is not None:
        verb = "passes" if test.passes else "does not pass"
        how = {"t": "t-test", "wilcoxon": "signed-rank test"}[test.test]
        yield (
            f"It {verb} the alternative annotator test (epsilon {test.epsilon:g}, {how}): it wins "
            f"against {sum(one.won for one in test.opponents)} of {len(test.opponents)} annotators."
        )


def _errors(errors: Errors) -> Iterator[str]:
    yield (
        f"{errors.metric}: it finds {_share(errors.sensitivity)} of those that people see, and "
        f"leaves alone {_share(errors.specificity)} of the others."
    )
    for axis, found in (("models", errors.by_model), ("groups", errors.by_group)):
        if found is None:
            continue
        gaps = [
            _gap(gap, verb, errors.metric)
            for gap, verb in ((found.missed, "misses"), (found.false_alarms, "wrongly sees"))
            if gap.adjusted <= ALPHA
        ]
        if gaps:
            yield (
                f"It errs differently between {axis} (p {_p(found)}): {'; '.join(gaps)}. Rates of "
                f"{errors.metric} by this judge are not comparable between {axis} as they stand."
            )
        else:
            yield (
                f"{errors.metric}: no difference between its errors on {axis} was found "
                f"(p {_p(found)})."
            )


def _gap(gap: Gap, verb: str, metric: str) -> str:
    points = 100 * abs(gap.difference)
    return f"it {verb} {metric} {points:.1f} points more often for {gap.high} than for {gap.low}"


def _p(found: DifferentialError) -> str:
    if math.isnan(found.p):
        return "unknown"
    return "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"


def _percent(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{100 * share:.1f}%"


def _share(of: Estimate) -> str:
    if math.isnan(of.low):
        return _percent(of.value)
    return f"{_percent(of.value)} ({_percent(of.low)} to {_percent(of.high)})"


def _interval(of: Estimate) -> str:
    if math.isnan(of.low):
        return f"{of.value:.3f}"
    return f"{of.value:.3f} ({of.low:.3f} to {of.high:.3f})"
