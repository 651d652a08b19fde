"""How far a judge can be trusted: its verdicts beside labels by people, in one document.

Knows which figures belong together and which rows may count for each: a response without a verdict
is in none, and is told. The statistics themselves are pure functions next door (`agreement.py`,
`alternative.py`, `differential.py`, `selective.py`). It does not read files or draw.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from evenhand.judge import agreement as measure
from evenhand.judge.agreement import Bin, Estimate, Floats, Indices
from evenhand.judge.alternative import AlternativeTest, alternative_annotator_test
from evenhand.judge.base import BaseJudge
from evenhand.judge.baselines import StringMatchJudge
from evenhand.judge.budget import Budget, labels_needed
from evenhand.judge.calibration import IDENTITY, Calibration, fit
from evenhand.judge.correction import LEAST
from evenhand.judge.differential import DifferentialError, differential_error
from evenhand.judge.independence import independence
from evenhand.judge.panel import PanelJudge
from evenhand.judge.selective import Threshold, risk_coverage, threshold
from evenhand.schemas.audit import default_metrics
from evenhand.schemas.errors import EvenhandError, InvalidInput
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.validation import Gold, Unusable, ValidationOptions
from evenhand.schemas.verdict import Status, Verdict

Kind = Literal["judge", "baseline", "rater", "annotator"]
Axis = Literal["model", "group"]
Method = Literal["temperature", "vector"]

AXES: tuple[Axis, ...] = ("model", "group")
DRAWS, PERMUTATIONS = 1_000, 5_000
FOLDS = 5
METHODS: tuple[Literal["ppi", "rogan-gladen"], ...] = ("ppi", "rogan-gladen")
POINTS = 200  # of a curve
NO_WIDTH = 1e-12  # of an interval, but for rounding
LEAST_LIKELY = 1e-12  # what a probability of 0 counts as in a log-loss


class _Part(BaseModel):
    # A newer version may have written more than this one knows.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Missing(_Part):
    """Rows without a label: their status, the stable code of the reason, and the first message."""

    status: str
    code: str
    rows: int
    message: str = ""
    hint: str = ""


class AgreementFigures(_Part):
    """Agreement with the labels by people over `rows`, with 95% intervals over units.

    Ends are NaN where no resample differs: that is no width that could be given, of 0 least of all.
    """

    rows: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate
    alpha: Estimate


class LabelFigures(_Part):
    """One label: `support` rows have it by people, `given` by the rater."""

    label: str
    support: int
    given: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


class Subset(_Part):
    """Agreement on the rows of one model or group."""

    by: Axis
    key: str
    rows: int
    labelled: int
    accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate


class Errors(_Part):
    """A composite metric, `labels` against all others, as a yes or no: how often each is found.

    `by_model` and `by_group` hold the same for each of them and the test that they do not differ;
    None where there are fewer than two.
    """

    metric: str
    labels: tuple[str, ...]
    positives: int
    negatives: int
    sensitivity: Estimate
    specificity: Estimate
    by_model: DifferentialError | None
    by_group: DifferentialError | None


class Rater(_Part):
    """Whoever labelled the rows, beside people's labels.

    `labelled` of the `rows` have a label by this one; `missing` tells why others have none.
    Figures are over the labelled ones; `bounds` are the least and the most that accuracy over all
    rows can be. `lead` is the judge's kappa less this one's on the rows that both labelled.
    `confusion` has a row for each label by people and a column for each by the rater. Annotators
    and the majority have no `subsets` and no `errors`.
    """

    name: str
    kind: Kind
    rows: int
    labelled: int
    missing: tuple[Missing, ...]
    bounds: tuple[float, float]
    agreement: AgreementFigures
    lead: Estimate | None
    labels: tuple[LabelFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    subsets: tuple[Subset, ...]
    errors: tuple[Errors, ...]


class Pair(_Part):
    """Agreement of two raters on the rows that both labelled."""

    one: str
    other: str
    rows: int
    accuracy: Estimate
    kappa: Estimate
    alpha: Estimate


class People(_Part):
    """How far annotators agree: each two of them, the judge with each, all together (`alpha`).

    Over all rows that they labelled, also the `undecided` ones, which have no label that counts and
    are in no other figure: without them people would agree by construction.
    """

    annotators: tuple[str, ...]
    alpha: Estimate
    pairs: tuple[Pair, ...]
    alternative: AlternativeTest | None
    undecided: int = 0


class Member(_Part):
    """One of a panel's members, beside people's labels on the rows that it labelled."""

    name: str
    labelled: int
    accuracy: Estimate
    kappa: Estimate


class Panel(_Part):
    """How alike a panel's members label, two by two, and how many independent judges they are.

    `effective` (1 to the number of members) rests on the correlation of their errors; None where no
    two members have errors that could be correlated.
    """

    members: tuple[Member, ...]
    pairs: tuple[Pair, ...]
    effective: float | None


class Scores(_Part):
    """How good probabilities are; lower is better. ECE over 15 bins of the best label."""

    ece: Estimate
    brier: Estimate
    log_loss: Estimate
    accuracy: Estimate


class Reliability(_Part):
    """The judge's probabilities of the labels by people, on the `rows` that have probabilities."""

    rows: int
    scores: Scores
    bins: tuple[Bin, ...]


class Fitted(_Part):
    """What a fitted calibration does on rows that it was not fitted on, in turns (`folds`).

    `raw` scores the judge's probabilities without any calibration, `now` as it is. `calibration`
    is fitted on all rows.
    """

    method: Method
    folds: int
    raw: Scores
    now: Scores
    fitted: Scores
    calibration: Calibration


class Point(_Part):
    """Of the rows with at least this confidence: their share of all, and the share wrong."""

    threshold: float
    coverage: float
    risk: float


class Selection(_Part):
    """What abstaining would bring. Confidence is the probability of the judge's own best label.

    `rows` have a verdict with probabilities; coverage is a share of all rows, and never above that
    of these. `area` is the mean risk over the coverages that they reach. `threshold` is None where
    `target` cannot be guaranteed with these rows, or was not asked for.
    """

    rows: int
    curve: tuple[Point, ...]
    area: float
    target: float | None
    delta: float | None
    threshold: Threshold | None


class Validation(_Part):
    """A judge measured on labelled responses. `created` is in seconds since 1970.

    `raters` begins with the judge. `labels` are those of the labels by people (`gold_taxonomy`);
    the judge's own fold onto them where its `taxonomy` is another. `rows` have such a label; the
    `excluded` are not among them, the `partial` ones may be. `unit` is what intervals resample,
    `units` how many there are. `findings` say in words what figures say; `notes` what
    they cannot.
    """

    name: str
    created: float
    judge: str
    model_sha256: str | None
    fingerprint: str
    taxonomy: str
    gold_taxonomy: str
    gold_sha256: str
    labels: tuple[str, ...]
    rows: int
    excluded: tuple[Unusable, ...]
    partial: tuple[Unusable, ...] = ()
    read_as: tuple[str, ...]
    unit: str
    units: int
    raters: tuple[Rater, ...]
    people: People | None
    panel: Panel | None = None
    reliability: Reliability | None
    selection: Selection | None
    fitted: Fitted | None
    budget: tuple[Budget, ...] = ()
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def validate(
    judge: BaseJudge,
    gold: Gold,
    options: ValidationOptions | None = None,
    *,
    draws: int = DRAWS,
    permutations: int = PERMUTATIONS,
) -> Validation:
    """Judge every row of `gold` and `assess` the verdicts."""
    check_fit(judge.taxonomy, gold, options or ValidationOptions())
    verdicts = list(judge.judge_many((row.prompt, row.response) for row in gold.rows))
    return assess(judge, gold, verdicts, options, draws=draws, permutations=permutations)


def assess(
    judge: BaseJudge,
    gold: Gold,
    verdicts: Sequence[Verdict],
    options: ValidationOptions | None = None,
    *,
    draws: int = DRAWS,
    permutations: int = PERMUTATIONS,
) -> Validation:
    """The document about verdicts, one for each row of `gold`, in order.

    `draws` resamples make each interval, `permutations` each test. Raises `InvalidInput` for a
    `fit` where the labels are not of the judge's own taxonomy, or nothing was judged.
    """
    if len(verdicts) != len(gold.rows):
        raise ValueError(f"{len(gold.rows)} rows and {len(verdicts)} verdicts")
    options = options or ValidationOptions()
    check_fit(judge.taxonomy, gold, options)
    return _Assessment(judge, gold, verdicts, options, draws, permutations).document()


def check_fit(own: Taxonomy, gold: Gold, options: ValidationOptions) -> None:
    """Raise `InvalidInput` for a `fit` to labels that are not of the judge's own taxonomy."""
    if options.fit is not None and own.name != gold.taxonomy.name:
        raise InvalidInput(
            f"a calibration for the labels of {own.name!r} cannot be fitted to labels of "
            f"{gold.taxonomy.name!r}, which do not tell them apart",
            hint=f"Give labels of {own.name!r}, or leave --fit out.",
        )


@dataclass(frozen=True, slots=True)
class _Voice:
    """A rater's labels, one index a row, -1 where it gave none."""

    name: str
    kind: Kind
    said: Indices
    missing: tuple[Missing, ...] = ()
    aside: bool = False  # looked at as a whole alone


class _Assessment:
    """The parts of a document, which share rows, units and seeds."""

    def __init__(
        self,
        judge: BaseJudge,
        gold: Gold,
        verdicts: Sequence[Verdict],
        options: ValidationOptions,
        draws: int,
        permutations: int,
    ):
        self._judge, self._set, self._verdicts, self._options = judge, gold, verdicts, options
        self._draws, self._permutations = draws, permutations
        self._labels = gold.taxonomy.labels
        self._units = [row.unit for row in gold.rows]
        self._notes: list[str] = []
        if options.fit is not None:
            self._check_fit()

    def document(self) -> Validation:
        """All of it."""
        from evenhand.judge.findings import findings  # which knows these classes

        people = self._people()  # of all rows; all else is of those with a label that counts
        self._keep_decided()
        judge, gold = self._judge, self._set
        voices = list(self._voices())
        leads = [None, *self._leads(voices)]
        raters = tuple(self._rater(*one) for one in zip(voices, leads, strict=True))
        self._note_unknown(voices[0], raters[0])
        document = Validation(
            name=self._options.name or gold.name,
            created=time.time(),
            judge=judge.name,
            model_sha256=judge.model_sha256,
            fingerprint=judge.fingerprint,
            taxonomy=judge.taxonomy.name,
            gold_taxonomy=gold.taxonomy.name,
            gold_sha256=gold.sha256,
            labels=self._labels,
            rows=len(gold.rows),
            excluded=gold.excluded,
            partial=gold.partial,
            read_as=gold.read_as,
            unit=gold.unit,
            units=len(set(self._units)),
            raters=raters,
            people=people,
            panel=self._panel(),
            reliability=self._reliability(),
            selection=self._selection(voices[0].said),
            fitted=self._fitted(),
            budget=tuple(self._budget(voices[0].said, raters[0])),
        )
        return document.model_copy(
            update={"findings": tuple(findings(document)), "notes": tuple(self._notes)}
        )

    # -- who labelled what --------------------------------------------------------------------

    def _keep_decided(self) -> None:
        found = [i for i, row in enumerate(self._set.rows) if row.label is not None]
        self._set = replace(self._set, rows=tuple(self._set.rows[i] for i in found))
        self._verdicts = [self._verdicts[i] for i in found]
        self._gold = np.array([row.label for row in self._set.rows], np.int64)
        self._units = [row.unit for row in self._set.rows]

    def _judge_voice(self) -> _Voice:
        said = self._classes(self._verdicts)
        return _Voice(self._judge.name, "judge", said, _missing(self._verdicts))

    def _annotators(self) -> Iterator[_Voice]:
        for i, name in enumerate(self._set.annotators):
            person = self._column(name, "annotator", [row.annotators[i] for row in self._set.rows])
            yield replace(person, aside=True)

    def _voices(self) -> Iterator[_Voice]:
        judge, gold = self._judge, self._set
        yield self._judge_voice()
        # The strongest constant there is: the label that people gave most often.
        most = int(np.bincount(self._gold).argmax())
        constant = np.full(len(self._gold), most)
        yield _Voice(f"majority ({self._labels[most]})", "baseline", constant, aside=True)
        for taxonomy in (judge.taxonomy, gold.taxonomy):
            try:
                matcher = StringMatchJudge(taxonomy)
            except EvenhandError:
                continue
            found = [matcher.judge(row.prompt, row.response) for row in gold.rows]
            yield _Voice("string match", "baseline", self._classes(found))
            break
        else:
            self._notes.append("String matching does not know these labels and is left out.")
        for i, name in enumerate(gold.raters):
            yield self._column(name, "rater", [row.raters[i] for row in gold.rows])
        yield from self._annotators()
        if gold.annotators:
            self._notes.append(
                "People's labels were made from those of the annotators, who agree with them the "
                "more for it: their agreement with each other is what to compare with."
            )

    def _classes(self, verdicts: Sequence[Verdict]) -> Indices:
        """The label by each verdict, among those of the people's taxonomy."""
        name = self._set.taxonomy.name
        index = {label: i for i, label in enumerate(self._labels)}
        labels = (v.label if v.taxonomy == name else v.crosswalk.get(name) for v in verdicts)
        return np.array([-1 if label is None else index[label] for label in labels], np.int64)

    @staticmethod
    def _column(name: str, kind: Kind, values: Sequence[int | None]) -> _Voice:
        said = np.array([-1 if value is None else value for value in values], np.int64)
        without = int((said < 0).sum())
        missing = (
            (
                Missing(
                    status="none",
                    code="no_label",
                    rows=without,
                    message="no label, or none that can be read",
                ),
            )
            if without
            else ()
        )
        return _Voice(name, kind, said, missing)

    # -- agreement ----------------------------------------------------------------------------

    def _rater(self, voice: _Voice, lead: Estimate | None) -> Rater:
        rows = np.nonzero(voice.said >= 0)[0]
        gold, said, size = self._gold, voice.said, len(self._labels)
        table = measure.confusion(gold[rows], said[rows], size)
        right, without = int(table.trace()), len(gold) - len(rows)
        figures = self._estimates(lambda w: _agreement(gold[w], said[w], size, labels=True), rows)
        overall, by_label = figures[:5], figures[5:]
        overall[0] = self._share(overall[0], rows)
        return Rater(
            name=voice.name,
            kind=voice.kind,
            rows=len(gold),
            labelled=len(rows),
            missing=voice.missing,
            bounds=(right / len(gold), (right + without) / len(gold)),
            agreement=AgreementFigures(
                rows=len(rows),
                **dict(zip(_OVERALL, overall, strict=True)),
            ),
            lead=lead,
            labels=tuple(
                LabelFigures(
                    label=label,
                    support=int(table[i].sum()),
                    given=int(table[:, i].sum()),
                    precision=self._share(by_label[i], rows[said[rows] == i]),
                    recall=self._share(by_label[size + i], rows[gold[rows] == i]),
                    f1=by_label[2 * size + i],
                )
                for i, label in enumerate(self._labels)
            ),
            confusion=tuple(tuple(line) for line in table.tolist()),
            subsets=() if voice.aside else tuple(self._subsets(voice)),
            errors=() if voice.aside else tuple(self._errors(voice)),
        )

    def _leads(self, voices: Sequence[_Voice]) -> Iterator[Estimate]:
        """The judge's kappa less each other's, from the same resamples."""
        judge, *others = voices
        size = len(self._labels)

        def kappa(said: Indices, rows: Indices) -> float:
            return measure.cohen_kappa(measure.confusion(self._gold[rows], said[rows], size))

        for other in others:
            both = np.nonzero((judge.said >= 0) & (other.said >= 0))[0]

            def lead(w: Indices, said: Indices = other.said) -> list[float]:
                return [kappa(judge.said, w) - kappa(said, w)]

            yield self._estimates(lead, both)[0]

    def _subsets(self, voice: _Voice) -> Iterator[Subset]:
        size = len(self._labels)
        for axis in AXES:
            keys = self._keys(axis)
            for key in sorted({key for key in keys if key is not None}):
                inside = np.array([one == key for one in keys])
                rows = np.nonzero(inside & (voice.said >= 0))[0]
                found = self._estimates(
                    lambda w: _in_short(measure.confusion(self._gold[w], voice.said[w], size)),
                    rows,
                )
                yield Subset(
                    by=axis,
                    key=key,
                    rows=int(inside.sum()),
                    labelled=len(rows),
                    accuracy=self._share(found[0], rows),
                    macro_f1=found[1],
                    kappa=found[2],
                )

    def _errors(self, voice: _Voice) -> Iterator[Errors]:
        for metric, labels in default_metrics(self._set.taxonomy).items():
            counted = np.array([label in labels for label in self._labels])
            rows = np.nonzero(voice.said >= 0)[0]
            gold, said = counted[self._gold[rows]], counted[voice.said[rows]]
            units = [self._units[i] for i in rows]

            def rate(where: Any, right: Any, units: list[str] = units) -> Estimate:
                inside = np.nonzero(where)[0]
                own = [units[i] for i in inside]
                return measure.share(right[inside], own, draws=self._draws)

            yield Errors(
                metric=metric,
                labels=labels,
                positives=int(gold.sum()),
                negatives=int((~gold).sum()),
                sensitivity=rate(gold, said),
                specificity=rate(~gold, ~said),
                by_model=self._differential(gold, said, rows, "model"),
                by_group=self._differential(gold, said, rows, "group"),
            )

    def _differential(
        self, gold: Any, said: Any, rows: Indices, axis: Axis
    ) -> DifferentialError | None:
        every = self._keys(axis)
        keys = [every[i] for i in rows]
        known = [i for i, key in enumerate(keys) if key is not None]
        groups = [key for key in keys if key is not None]
        if len(set(groups)) < 2:
            return None
        units = [self._units[rows[i]] for i in known]
        return differential_error(
            gold[known],
            said[known],
            groups,
            units,
            draws=self._draws,
            permutations=self._permutations,
        )

    def _keys(self, axis: Axis) -> list[str | None]:
        return [getattr(row, axis) for row in self._set.rows]

    def _people(self) -> People | None:
        judge, annotators = self._judge_voice(), list(self._annotators())
        if not annotators:
            return None
        labels = np.stack([voice.said for voice in annotators])

        def alpha(rows: Indices) -> list[float]:
            return [measure.krippendorff_alpha(labels[:, rows])]

        test = None
        if len(annotators) > 1:
            test = alternative_annotator_test(
                labels, judge.said, self._options.epsilon, clusters=self._units
            )
            self._notes += test.notes
        else:
            self._notes.append(
                "The alternative annotator test needs two annotators or more; there is one."
            )
        undecided = sum(row.label is None for row in self._set.rows)
        if undecided:
            self._notes.append(
                f"{undecided:,} rows have labels by annotators but none that counts. They are in "
                "the annotators' agreement and in the alternative annotator test alone; all other "
                "figures are of the rows on which people settled, which are mostly the easier ones."
            )
        pairs = [*combinations(annotators, 2), *((judge, voice) for voice in annotators)]
        return People(
            annotators=self._set.annotators,
            alpha=self._estimates(alpha, np.arange(len(self._units)))[0],
            pairs=tuple(self._pair(one, other) for one, other in pairs),
            alternative=test,
            undecided=undecided,
        )

    def _pair(self, one: _Voice, other: _Voice) -> Pair:
        rows = np.nonzero((one.said >= 0) & (other.said >= 0))[0]
        size = len(self._labels)
        found = self._estimates(lambda w: _agreement(one.said[w], other.said[w], size), rows)
        figures = dict(zip(_OVERALL, found, strict=True))
        figures["accuracy"] = self._share(figures["accuracy"], rows)
        return Pair(
            one=one.name,
            other=other.name,
            rows=len(rows),
            **{name: figures[name] for name in ("accuracy", "kappa", "alpha")},
        )

    # -- a panel ------------------------------------------------------------------------------

    def _panel(self) -> Panel | None:
        if not isinstance(self._judge, PanelJudge):
            return None
        # Where a panel could ask no member its verdict has no label, and stands for each of theirs.
        names = self._judge.member_names
        said = zip(*(v.members or [v] * len(names) for v in self._verdicts), strict=True)
        voices = [
            _Voice(name, "judge", self._classes(own)) for name, own in zip(names, said, strict=True)
        ]
        effective = independence(
            np.stack([voice.said for voice in voices], axis=1), len(self._labels), self._gold
        ).effective
        return Panel(
            members=tuple(map(self._member, voices)),
            pairs=tuple(self._pair(one, other) for one, other in combinations(voices, 2)),
            effective=None if math.isnan(effective) else effective,
        )

    def _member(self, voice: _Voice) -> Member:
        people = self._pair(_Voice("people", "annotator", self._gold), voice)
        return Member(
            name=voice.name,
            labelled=people.rows,
            accuracy=people.accuracy,
            kappa=people.kappa,
        )

    # -- probabilities ------------------------------------------------------------------------

    def _reliability(self) -> Reliability | None:
        rows, p = self._probabilities()
        if not len(rows):
            self._notes.append("The judge gives no probabilities: nothing is said of them.")
            return None
        return Reliability(
            rows=len(rows),
            scores=self._scores(p, rows),
            bins=tuple(measure.reliability(p, self._gold[rows])),
        )

    def _probabilities(self) -> tuple[Indices, Floats]:
        """The judged rows that have probabilities, and those of people's labels, (rows, labels)."""
        own, name = self._judge.taxonomy, self._set.taxonomy.name
        onto = np.array(
            [
                [_folded(own, label, name) == target for target in self._labels]
                for label in own.labels
            ],
            np.float64,
        )
        found = {
            i: [verdict.probabilities[label] for label in own.labels]
            for i, verdict in enumerate(self._verdicts)
            if verdict.status is Status.JUDGED and verdict.probabilities is not None
        }
        p = np.array(list(found.values()), np.float64).reshape(len(found), len(own.labels))
        return np.array(list(found), np.int64), p @ onto

    def _scores(self, p: Floats, rows: Indices) -> Scores:
        gold, size = self._gold[rows], len(self._labels)

        def scores(w: Indices) -> list[float]:
            likely = np.maximum(p[w, gold[w]], LEAST_LIKELY)
            return [
                measure.brier(p[w], gold[w]),
                float(-np.log(likely).mean()),
                measure.accuracy(measure.confusion(gold[w], p[w].argmax(1), size)),
            ]

        units = [self._units[i] for i in rows]
        brier, log_loss, accuracy = self._estimates(scores, np.arange(len(rows)), units)
        return Scores(
            ece=measure.calibration_error(p, gold, units, draws=self._draws),
            brier=brier,
            log_loss=log_loss,
            accuracy=self._share(accuracy, rows),
        )

    def _selection(self, said: Indices) -> Selection | None:
        found = {
            i: max(verdict.probabilities.values())
            for i, verdict in enumerate(self._verdicts)
            if verdict.status is Status.JUDGED and verdict.probabilities is not None
        }
        if not found:
            return None
        rows, sure = np.array(list(found)), np.array(list(found.values()))
        right = said[rows] == self._gold[rows]
        every = len(self._gold)  # a row without a verdict is abstained from at any threshold
        curve = risk_coverage(sure, right, of=every)
        step = max(1, math.ceil(len(curve.threshold) / POINTS))
        at = sorted({*range(0, len(curve.threshold), step), len(curve.threshold) - 1})
        target, delta = self._options.target_agreement, self._options.delta
        safe = None
        if target is not None:
            units = [self._units[i] for i in rows]
            safe = threshold(sure, right, target, delta, of=every, clusters=units)
        return Selection(
            rows=len(rows),
            curve=tuple(
                Point(
                    threshold=float(curve.threshold[i]),
                    coverage=float(curve.coverage[i]),
                    risk=float(curve.risk[i]),
                )
                for i in at
            ),
            area=curve.area,
            target=target,
            delta=None if target is None else delta,
            threshold=safe,
        )

    # -- calibration --------------------------------------------------------------------------

    def _check_fit(self) -> None:
        if self._judge.calibration is None:
            raise InvalidInput(
                f"{self._judge.name} takes no calibration",
                hint="Leave --fit out, or fit one for a judge that is a model.",
            )

    def _fitted(self) -> Fitted | None:
        method = self._options.fit
        if method is None:
            return None
        rows, now = self._probabilities()
        folds = _folds([self._units[i] for i in rows], FOLDS)
        if folds.max(initial=0) < 1:
            raise InvalidInput(
                f"a calibration cannot be fitted: {len(rows)} rows of {len(set(folds))} "
                f"{self._set.unit} have probabilities",
                hint="Give rows of at least two, and a judge with probabilities.",
            )
        labels, present = self._labels, self._judge.calibration or IDENTITY
        x = np.array([_values(present.undo(dict(zip(labels, p, strict=True)))) for p in now])
        gold = self._gold[rows]
        held_out = np.empty_like(now)
        for fold in range(int(folds.max()) + 1):
            rest, own = folds != fold, np.nonzero(folds == fold)[0]
            fitted = fit(x[rest], gold[rest].tolist(), labels, method=method)
            held_out[own] = _applied(fitted, x[own], labels)
        name = self._options.name or self._set.name
        return Fitted(
            method=method,
            folds=int(folds.max()) + 1,
            raw=self._scores(np.exp(x), rows),
            now=self._scores(now, rows),
            fitted=self._scores(held_out, rows),
            calibration=fit(x, gold.tolist(), labels, method=method, fitted_on=name),
        )

    def _budget(self, said: Indices, judge: Rater) -> Iterator[Budget]:
        """Labels for an interval of the first metric's rate, by either way to correct it."""
        width = self._options.budget
        if width is None or not judge.labelled or not judge.errors:
            return
        errors = judge.errors[0]
        sensitivity, specificity = errors.sensitivity.value, errors.specificity.value
        if math.isnan(sensitivity) or math.isnan(specificity):
            self._notes.append(f"No budget: people see no {errors.metric}, or nothing else.")
            return
        rows = np.nonzero(said >= 0)[0]
        hits = np.array([self._labels[i] in errors.labels for i in said[rows]])
        rate = measure.share(hits, [self._units[i] for i in rows], draws=self._draws)
        audit = self._options.budget_rows or len(self._gold)
        if audit < 2 * LEAST:
            self._notes.append(
                f"No budget: an audit of {audit} rows is too small for any interval. Say how many "
                f"it has (budget_rows, {2 * LEAST} or more)."
            )
            return
        for method in METHODS:
            yield labels_needed(
                width,
                errors.positives / len(rows),
                sensitivity,
                specificity,
                rows=audit,
                method=method,
                positive_share=errors.positives / len(rows),
                design_effect=_design_effect(rate, len(rows)),
            )

    # -- intervals ----------------------------------------------------------------------------

    def _estimates(
        self,
        statistics: Callable[[Indices], Sequence[float]],
        rows: Indices,
        units: Sequence[str] | None = None,
    ) -> list[Estimate]:
        """Figures of `rows` with their intervals; NaN where no rows, or no resamples, differ."""
        values = statistics(rows)
        if not len(rows):
            return [Estimate(value, math.nan, math.nan) for value in values]
        ends = measure.intervals(
            lambda drawn: statistics(rows[drawn]),
            units or [self._units[i] for i in rows],
            draws=self._draws,
        )
        ends[:, ends[1] - ends[0] < NO_WIDTH] = math.nan
        lows, highs = ends.tolist()
        return [Estimate(*one) for one in zip(values, lows, highs, strict=True)]

    def _share(self, of: Estimate, rows: Indices) -> Estimate:
        """A share of `rows`: with an interval that has a width where all of them count, or none."""
        if of.value not in (0.0, 1.0):
            return of
        every = np.full(len(rows), bool(of.value))
        return measure.share(every, [self._units[i] for i in rows])

    def _note_unknown(self, judge: _Voice, figures: Rater) -> None:
        """Why the judge's kappa has no interval, where it has none."""
        units = {self._units[i] for i in np.nonzero(judge.said >= 0)[0]}
        if len(units) == 1:
            self._notes.append(
                f"The judge labelled rows of one {self._set.unit} only. How others would vary is "
                "not known, so there are no intervals."
            )
        elif units and math.isnan(figures.agreement.kappa.low):
            self._notes.append(
                "Kappa has no interval: every resample gives the same, which does not make it "
                "certain."
            )


_OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "kappa", "alpha")


def _agreement(gold: Indices, said: Indices, size: int, *, labels: bool = False) -> list[float]:
    """The figures of `_OVERALL`; with `labels`, precision, recall and F1 of each label as well."""
    table = measure.confusion(gold, said, size)
    figures = [
        measure.accuracy(table),
        measure.balanced_accuracy(table),
        measure.macro_f1(table),
        measure.cohen_kappa(table),
        measure.krippendorff_alpha(np.stack([gold, said])),
    ]
    if labels:
        for of in (measure.precisions, measure.recalls, measure.f1s):
            figures += of(table).tolist()
    return figures


def _in_short(table: Indices) -> list[float]:
    return [measure.accuracy(table), measure.macro_f1(table), measure.cohen_kappa(table)]


def _design_effect(rate: Estimate, rows: int) -> float:
    """How many times a share's variance is that of independent rows (Kish 1965), at least 1."""
    alone = rate.value * (1 - rate.value) / rows
    if not alone or math.isnan(rate.low):
        return 1.0
    return max(1.0, ((rate.high - rate.low) / (2 * 1.96)) ** 2 / alone)


def _missing(verdicts: Sequence[Verdict]) -> tuple[Missing, ...]:
    """Rows without a label by status and reason, the most frequent first."""
    failures = [(v.status.value, v.failure) for v in verdicts if v.failure is not None]
    counts = Counter((status, failure.code) for status, failure in failures)
    first = {(status, failure.code): failure for status, failure in reversed(failures)}
    return tuple(
        Missing(
            status=status,
            code=code,
            rows=rows,
            message=first[status, code].message,
            hint=first[status, code].hint,
        )
        for (status, code), rows in counts.most_common()
    )


def _folded(taxonomy: Taxonomy, label: str, name: str) -> str | None:
    """A label's counterpart in the taxonomy of that name."""
    return label if taxonomy.name == name else taxonomy.crosswalk(label).get(name)


def _folds(units: Sequence[str], count: int, seed: int = 0) -> Indices:
    """A fold for each row, all rows of a unit in one; as many as there are units, at most."""
    codes = measure.codes(units)
    number = int(codes.max(initial=-1)) + 1
    turn = np.random.default_rng(seed).permutation(number) % max(1, min(count, number))
    found: Indices = turn[codes]
    return found


def _applied(calibration: Calibration, x: Floats, labels: Sequence[str]) -> Floats:
    return np.array([_values(calibration.apply(dict(zip(labels, row, strict=True)))) for row in x])


def _values(by_label: Mapping[str, float]) -> list[float]:
    return list(by_label.values())
