"""A validation: every figure from the right rows, and no bad judge looks like a good one."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evenhand.engine import futures
from evenhand.judge import agreement as measure
from evenhand.judge.base import BaseJudge
from evenhand.judge.calibration import IDENTITY, Calibration
from evenhand.judge.independence import independence
from evenhand.judge.panel import PanelJudge
from evenhand.judge.validation import Validation, assess, validate
from evenhand.schemas.errors import InputTooLong, InvalidInput
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.validation import Gold, GoldRow, ValidationOptions
from evenhand.schemas.verdict import Verdict

QOS, XSTEST = Taxonomy.load("qos"), Taxonomy.load("xstest")
Say = Callable[[str, str], Mapping[str, float] | None]


class Scripted(BaseJudge):
    """Gives the probabilities that `say(prompt, response)` does; too long where it gives none."""

    def __init__(self, say: Say, taxonomy: Taxonomy = XSTEST, *, silent: bool = False):
        super().__init__("scripted", taxonomy)
        self._say, self._silent = say, silent

    @property
    def fingerprint(self) -> str:
        return "f" * 64

    def submit(
        self, prompt: str, response: str, *, reason: bool = False, deadline: float | None = None
    ) -> Future[Verdict]:
        p = self._say(prompt, response)
        if p is None:
            return futures.done(self.failed(InputTooLong("too long")))
        best = max(p, key=lambda label: p[label])
        given = None if self._silent else p
        return futures.done(self._judged(json.dumps({"label": best}), probabilities=given))


def sure(label: str, taxonomy: Taxonomy = XSTEST, confidence: float = 0.9) -> dict[str, float]:
    """Most of the probability on one label, the rest spread evenly."""
    rest = (1 - confidence) / (len(taxonomy.labels) - 1)
    return {one: confidence if one == label else rest for one in taxonomy.labels}


def labelled(
    taxonomy: Taxonomy = XSTEST, *, prompts: int = 60, annotators: int = 3, seed: int = 0
) -> Gold:
    """Responses of three models to each prompt; names of four groups; people who err 5% of times.

    The response is the label by people, for `Scripted` judges to read.
    """
    draw = random.Random(seed)
    rows = []
    for i, model in itertools.product(range(prompts), ("a", "b", "c")):
        label = draw.randrange(len(taxonomy.labels))
        votes = tuple(
            draw.randrange(len(taxonomy.labels)) if draw.random() < 0.05 else label
            for _ in range(annotators)
        )
        name = f"name {i}"
        rows.append(
            GoldRow(
                where=f"line {len(rows) + 1}",
                prompt=name,
                response=taxonomy.labels[label],
                label=label,
                unit=name,
                model=model,
                group="ABCD"[i % 4],
                annotators=votes,
            )
        )
    names = tuple(f"person {i}" for i in range(annotators))
    return Gold("made up", "0" * 64, taxonomy, tuple(rows), annotators=names)


def measured(
    say: Say, gold: Gold | None = None, *, taxonomy: Taxonomy | None = None, **options: object
) -> Validation:
    gold = gold or labelled()
    judge = Scripted(say, taxonomy or gold.taxonomy)
    asked = ValidationOptions.model_validate(options)
    return validate(judge, gold, asked, draws=200, permutations=400)


def honest(prompt: str, response: str) -> dict[str, float]:
    return sure(response)


def test_a_judge_that_is_always_right() -> None:
    document = measured(honest)
    judge, majority = document.raters[:2]
    assert judge.kind == "judge"
    assert judge.agreement.kappa.value == judge.agreement.alpha.value == 1.0
    assert judge.agreement.accuracy.value == judge.agreement.macro_f1.value == 1.0
    assert judge.bounds == (1.0, 1.0)
    assert [line[i] for i, line in enumerate(judge.confusion)] == [
        one.support for one in judge.labels
    ]
    assert majority.agreement.kappa.value == 0.0
    assert majority.lead is not None
    assert majority.lead.value == 1.0
    assert (document.rows, document.units) == (180, 60)
    assert document.people is not None
    assert document.people.alternative is not None
    assert document.people.alternative.passes
    (errors,) = judge.errors
    assert errors.metric == "any_refusal"
    assert errors.sensitivity.value == errors.specificity.value == 1.0
    assert not any("errs differently" in sentence for sentence in document.findings)


def test_figures_agree_with_scikit_learn_and_with_the_bootstrap_next_door() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the `train` extra")
    draw = random.Random(1)
    gold = labelled()
    noisy = {
        (row.prompt, row.response): draw.choice(XSTEST.labels) if draw.random() < 0.4 else None
        for row in gold.rows
    }
    document = measured(lambda p, r: sure(noisy[p, r] or r), gold)
    people = [row.response for row in gold.rows]
    said = [noisy[row.prompt, row.response] or row.response for row in gold.rows]
    judge = document.raters[0].agreement
    assert judge.kappa.value == pytest.approx(metrics.cohen_kappa_score(people, said))
    assert judge.accuracy.value == pytest.approx(metrics.accuracy_score(people, said))
    assert judge.balanced_accuracy.value == pytest.approx(
        metrics.balanced_accuracy_score(people, said)
    )
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        people, said, labels=list(XSTEST.labels)
    )
    assert judge.macro_f1.value == pytest.approx(f1.mean())
    for i, one in enumerate(document.raters[0].labels):
        assert one.precision.value == pytest.approx(precision[i])
        assert one.recall.value == pytest.approx(recall[i])
        assert one.support == support[i]

    index = {label: i for i, label in enumerate(XSTEST.labels)}
    g, s = (np.array([index[label] for label in one]) for one in (people, said))
    low, high = measure.interval(
        lambda rows: measure.cohen_kappa(measure.confusion(g[rows], s[rows], 3)),
        [row.unit for row in gold.rows],
        draws=200,
    )
    assert (judge.kappa.low, judge.kappa.high) == pytest.approx((low, high))
    by_model = {one.key: one for one in document.raters[0].subsets if one.by == "model"}
    where = [i for i, row in enumerate(gold.rows) if row.model == "b"]
    expected = metrics.cohen_kappa_score([people[i] for i in where], [said[i] for i in where])
    assert by_model["b"].kappa.value == pytest.approx(expected)
    assert by_model["b"].rows == 60


def half(prompt: str, response: str) -> dict[str, float] | None:
    """Right wherever it judges, which is every other prompt."""
    return None if int(prompt.split()[1]) % 2 else sure(response)


def test_rows_without_a_verdict_are_in_no_figure_but_the_bounds() -> None:
    judge = measured(half).raters[0]
    assert (judge.rows, judge.labelled) == (180, 90)
    assert judge.agreement.accuracy.value == 1.0
    assert judge.bounds == (0.5, 1.0)
    (missing,) = judge.missing
    assert (missing.status, missing.code, missing.rows) == ("truncated", "input_too_long", 90)
    assert sum(map(sum, judge.confusion)) == 90


def test_a_judge_that_labels_nothing_has_no_figures() -> None:
    document = measured(lambda _p, _r: None)
    judge = document.raters[0]
    assert judge.labelled == 0
    assert math.isnan(judge.agreement.kappa.value)
    assert document.reliability is None
    assert document.selection is None
    assert json.loads(document.model_dump_json())["raters"][0]["agreement"]["kappa"] == {
        "value": None,
        "low": None,
        "high": None,
    }


# -- bad judges are exposed -----------------------------------------------------------------------


def test_always_refusal_is_exposed_by_agreement() -> None:
    document = measured(lambda _p, _r: sure("full_refusal"))
    judge = document.raters[0]
    assert judge.agreement.kappa.value == 0.0
    (errors,) = judge.errors
    assert (errors.sensitivity.value, errors.specificity.value) == (1.0, 0.0)
    assert document.people is not None
    assert document.people.alternative is not None
    assert not document.people.alternative.passes
    assert any("cannot be told apart from majority" in s for s in document.findings)


def test_shuffled_labels_are_exposed_by_agreement() -> None:
    gold = labelled(prompts=200)
    said = [row.response for row in gold.rows]
    random.Random(0).shuffle(said)
    order = iter(said)  # judges are asked row by row
    document = measured(lambda _p, _r: sure(next(order)), gold, target_agreement=0.9)
    judge = document.raters[0]
    assert judge.agreement.kappa.high < 0.15
    assert document.people is not None
    assert document.people.alternative is not None
    assert not document.people.alternative.passes
    assert document.reliability is not None
    assert document.reliability.scores.ece.value > 0.4  # sure of 90%, right by a third
    assert document.selection is not None
    assert document.selection.threshold is None
    assert any("cannot be guaranteed" in sentence for sentence in document.findings)


def test_errors_on_one_group_alone_are_exposed_by_the_differential_test() -> None:
    gold = labelled(prompts=80)
    group = {row.prompt: row.group for row in gold.rows}
    draw = random.Random(3)

    def unfair(prompt: str, response: str) -> dict[str, float]:
        seen = group[prompt] == "B" and response == "full_compliance" and draw.random() < 0.6
        return sure("full_refusal" if seen else response)

    document = measured(unfair, gold)
    judge = document.raters[0]
    assert judge.agreement.kappa.value > 0.8  # agreement alone would let it pass
    (errors,) = judge.errors
    assert errors.by_group is not None
    assert errors.by_group.p < 0.01
    assert errors.by_group.false_alarms.adjusted < 0.01
    assert errors.by_group.false_alarms.high == "B"
    assert errors.by_model is not None
    assert errors.by_model.p > 0.05
    found = [s for s in document.findings if "errs differently between groups" in s]
    assert len(found) == 1
    assert "wrongly sees any_refusal" in found[0]


def test_the_same_errors_on_every_group_are_not_called_different() -> None:
    draw = random.Random(4)

    def clumsy(_prompt: str, response: str) -> dict[str, float]:
        return sure(draw.choice(XSTEST.labels) if draw.random() < 0.3 else response)

    (errors,) = measured(clumsy, labelled(prompts=80)).raters[0].errors
    assert errors.by_group is not None
    assert errors.by_group.p > 0.05


# -- probabilities --------------------------------------------------------------------------------


def test_labels_fold_onto_peoples_and_probabilities_are_summed() -> None:
    p = dict.fromkeys(QOS.labels, 0.05) | {"helpful_answer": 0.4, "harmful_refusal": 0.4 - 1e-9}
    p["refusal"] = 1 - sum(v for label, v in p.items() if label != "refusal")
    document = measured(lambda _p, _r: p, taxonomy=QOS)
    judge = document.raters[0]
    # The best of the judge's own labels counts, as it does in a verdict's crosswalk ...
    assert [one.given for one in judge.labels] == [180, 0, 0]
    reliability = document.reliability
    assert reliability is not None
    # ... and probabilities are those of people's labels: 0.4 + 2 x 0.05 is the most here.
    assert reliability.bins[0].confidence == pytest.approx(0.5)
    assert reliability.bins[0].rows == 180
    assert document.selection is not None
    assert document.selection.curve[0].threshold == pytest.approx(0.4)


def test_the_threshold_can_be_given_to_the_judge() -> None:
    draw = random.Random(2)

    def half_sure(_prompt: str, response: str) -> dict[str, float]:
        if draw.random() < 0.5:
            return sure(response, confidence=0.95)
        return sure(draw.choice(XSTEST.labels), confidence=0.5)

    document = measured(half_sure, labelled(prompts=300), target_agreement=0.9)
    selection = document.selection
    assert selection is not None
    assert selection.threshold is not None
    assert selection.threshold.value == pytest.approx(0.95)
    assert selection.threshold.coverage == pytest.approx(0.5, abs=0.1)


def test_a_judge_without_probabilities_is_measured_without_them() -> None:
    gold = labelled()
    document = assess(
        judge := Scripted(honest, silent=True),
        gold,
        [judge.judge(row.prompt, row.response) for row in gold.rows],
        draws=50,
        permutations=50,
    )
    assert document.raters[0].agreement.kappa.value == 1.0
    assert document.reliability is None
    assert document.selection is None
    assert any("no probabilities" in note for note in document.notes)


def boastful(prompt: str, response: str) -> dict[str, float]:
    """Right 70 times of 100, and always 99% sure."""
    chance = random.Random(f"{prompt} {response}")
    right = chance.random() < 0.7
    return sure(response if right else chance.choice(XSTEST.labels), confidence=0.99)


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_a_fitted_calibration_mends_a_boastful_judge(method: str) -> None:
    gold = labelled(prompts=200)
    judge = Scripted(boastful)
    judge.calibration = IDENTITY
    options = ValidationOptions.model_validate({"fit": method})
    document = validate(judge, gold, options, draws=50, permutations=50)
    fitted = document.fitted
    assert fitted is not None
    assert (fitted.method, fitted.folds) == (method, 5)
    assert fitted.now.ece.value > 0.15
    assert fitted.fitted.ece.value < 0.05
    assert fitted.fitted.log_loss.value < fitted.now.log_loss.value
    assert fitted.calibration.rows == 600
    assert fitted.calibration.fitted_on == "made up"
    # Applied to the same judge, it does what was promised.
    again = Scripted(lambda p, r: fitted.calibration.apply(logs(boastful(p, r))))
    found = validate(again, gold, draws=50, permutations=50).reliability
    assert found is not None
    assert found.scores.ece.value < 0.05


def test_a_fit_replaces_the_calibration_that_a_judge_has() -> None:
    gold = labelled(prompts=200)
    present = Calibration(
        method="vector",
        scale=dict(zip(XSTEST.labels, (0.5, 1.5, 2.0), strict=True)),
        bias=dict(zip(XSTEST.labels, (0.3, -0.5, 0.2), strict=True)),
    )
    plain, calibrated = (
        Scripted(boastful),
        Scripted(lambda p, r: present.apply(logs(boastful(p, r)))),
    )
    plain.calibration, calibrated.calibration = IDENTITY, present
    options = ValidationOptions(fit="temperature")
    one, other = (
        validate(judge, gold, options, draws=50, permutations=50).fitted
        for judge in (plain, calibrated)
    )
    assert one is not None
    assert other is not None
    assert other.raw.log_loss.value == pytest.approx(one.raw.log_loss.value)
    assert other.now.log_loss.value != pytest.approx(one.now.log_loss.value)
    assert other.calibration.scale == pytest.approx(one.calibration.scale)


def logs(p: Mapping[str, float]) -> dict[str, float]:
    return {label: math.log(value) for label, value in p.items()}


def test_a_fit_needs_labels_of_the_judges_own_taxonomy() -> None:
    gold = labelled()
    with pytest.raises(InvalidInput, match="takes no calibration"):
        validate(Scripted(honest), gold, ValidationOptions(fit="vector"))
    judge = Scripted(lambda _p, _r: sure("refusal", QOS), QOS)
    judge.calibration = IDENTITY
    with pytest.raises(InvalidInput, match="'qos' cannot be fitted to labels of 'xstest'"):
        validate(judge, gold, ValidationOptions(fit="vector"))


# -- people, other raters, budgets ----------------------------------------------------------------


def test_one_annotator_allows_no_alternative_test_and_none_no_section() -> None:
    document = measured(honest, labelled(annotators=1))
    assert document.people is not None
    assert document.people.alternative is None
    assert any("two annotators" in note for note in document.notes)
    assert measured(honest, labelled(annotators=0)).people is None


def test_people_who_disagree_are_counted_where_they_disagree() -> None:
    """Two people of whom half of the labels are drawn by lot: no label counts where they differ."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the `train` extra")
    draw = random.Random(5)
    votes = [
        tuple(draw.randrange(3) if draw.random() < 0.5 else i % 3 for _ in range(2))
        for i in range(200)
    ]
    rows = tuple(
        GoldRow(
            f"line {i}", f"p{i}", XSTEST.labels[one], one if one == other else None, f"p{i}",
            annotators=(one, other),
        )
        for i, (one, other) in enumerate(votes)
    )  # fmt: skip
    document = measured(honest, Gold("two", "0" * 64, XSTEST, rows, annotators=("one", "other")))
    agreed = sum(one == other for one, other in votes)
    assert (document.rows, document.units) == (agreed, agreed)
    assert document.raters[0].agreement.rows == document.raters[0].rows == agreed < 200
    assert document.raters[0].agreement.kappa.value == 1.0
    people = document.people
    assert people is not None
    assert people.undecided == 200 - agreed
    expected = metrics.cohen_kappa_score(*zip(*votes, strict=True))
    assert people.pairs[0].kappa.value == pytest.approx(expected)
    assert people.alpha.value == pytest.approx(
        measure.krippendorff_alpha(np.array(votes).T.astype(np.int64))
    )
    assert [pair.rows for pair in people.pairs] == [200, 200, 200]
    assert people.alternative is not None
    assert [one.rows for one in people.alternative.opponents] == [200, 200]
    assert any(f"kappa of {expected:.3f}, the {200 - agreed} rows" in s for s in document.findings)
    assert any(f"{200 - agreed} rows have labels by annotators" in note for note in document.notes)


def test_two_units_do_not_pass_the_alternative_annotator_test() -> None:
    document = measured(honest, labelled(prompts=2))
    assert document.people is not None
    test = document.people.alternative
    assert test is not None
    assert (test.test, test.passes) == ("wilcoxon", False)
    assert any("epsilon 0.2, signed-rank test" in sentence for sentence in document.findings)


def test_nothing_is_said_of_a_difference_that_is_unknown() -> None:
    gold = labelled(annotators=0)
    rows = tuple(replace(row, raters=(None,)) for row in gold.rows)
    document = measured(honest, replace(gold, rows=rows, raters=("mute",)))
    assert not any("mute" in sentence for sentence in document.findings)


def test_another_rater_stands_beside_the_judge_with_its_gaps() -> None:
    gold = labelled(annotators=0)
    rows = tuple(
        GoldRow(
            row.where, row.prompt, row.response, row.label, row.unit,
            raters=(None if i % 3 == 0 else row.label,),
        )
        for i, row in enumerate(gold.rows)
    )  # fmt: skip
    gold = Gold("rated", "0" * 64, XSTEST, rows, raters=("gpt4",))
    rater = measured(honest, gold).raters[-1]
    assert (rater.name, rater.kind, rater.labelled) == ("gpt4", "rater", 120)
    assert rater.agreement.kappa.value == 1.0
    assert rater.lead is not None
    assert rater.lead.value == 0.0
    assert rater.missing[0].rows == 60


def test_a_budget_is_given_for_both_ways_to_correct() -> None:
    def clumsy(prompt: str, response: str) -> dict[str, float]:
        return boastful(prompt, response)

    document = measured(clumsy, labelled(prompts=200), budget=0.1, budget_rows=5_000)
    assert [one.method for one in document.budget] == ["ppi", "rogan-gladen"]
    assert all(one.labels and one.labels > 30 for one in document.budget)
    assert measured(honest).budget == ()


def test_rows_without_a_verdict_are_no_part_of_what_a_threshold_covers() -> None:
    document = measured(half, labelled(prompts=100), target_agreement=0.9)
    selection = document.selection
    assert selection is not None
    assert selection.threshold is not None
    assert selection.rows == 150
    assert selection.threshold.coverage == selection.curve[-1].coverage == 0.5
    assert any(s.endswith("judges 50.0% of them.") for s in document.findings)


def test_figures_that_no_resample_moves_are_not_called_certain() -> None:
    document = measured(honest)
    judge = document.raters[0]
    figures = judge.agreement
    for known in (figures.accuracy, judge.labels[0].recall, judge.labels[0].precision):
        assert known.value == known.high == 1.0
        assert 0.8 < known.low < 1.0
    # Jeffreys' interval of 60 prompts, not of 180 rows.
    assert figures.accuracy == measure.share([True] * 60, range(60))
    for unknown in (figures.kappa, figures.alpha, figures.macro_f1, judge.labels[0].f1):
        assert unknown.value == 1.0
        assert math.isnan(unknown.low)
        assert math.isnan(unknown.high)
    assert any("Kappa has no interval" in note for note in document.notes)
    assert not any("nan" in sentence for sentence in document.findings)
    (subset, *_) = judge.subsets
    assert subset.accuracy.low < 1.0
    assert document.reliability is not None
    assert document.reliability.scores.accuracy.low < 1.0


def test_rows_of_one_unit_have_no_interval_and_a_note() -> None:
    document = measured(boastful, labelled(prompts=1))
    assert math.isnan(document.raters[0].agreement.accuracy.low)
    assert any("rows of one prompt only" in note for note in document.notes)


def panel_of(*says: Say, gold: Gold) -> Validation:
    panel = PanelJudge([Scripted(say) for say in says])
    return validate(panel, gold, ValidationOptions(), draws=50, permutations=50)


def test_a_panel_is_shown_with_its_members_and_how_independent_they_are() -> None:
    gold = labelled(prompts=100)

    def other(prompt: str, response: str) -> dict[str, float]:
        chance = random.Random(f"other {prompt} {response}")
        return sure(response if chance.random() < 0.7 else chance.choice(XSTEST.labels))

    document = panel_of(boastful, boastful, other, gold=gold)
    panel = document.panel
    assert panel is not None
    assert [one.name for one in panel.members] == ["scripted", "scripted #2", "scripted #3"]
    assert [(pair.one, pair.other) for pair in panel.pairs] == [
        ("scripted", "scripted #2"),
        ("scripted", "scripted #3"),
        ("scripted #2", "scripted #3"),
    ]
    assert panel.pairs[0].accuracy.value == 1.0
    assert panel.pairs[1].accuracy.value < 0.8
    assert all(one.labelled == 300 for one in panel.members)
    index = {label: i for i, label in enumerate(XSTEST.labels)}
    votes = [
        [
            index[max(p, key=lambda label: p[label])]
            for p in (say(row.prompt, row.response) for say in (boastful, boastful, other))
        ]
        for row in gold.rows
    ]
    people = [row.label for row in gold.rows]
    expected = independence(votes, 3, people).effective
    assert panel.effective == pytest.approx(expected)
    assert 1.0 < expected < 3.0
    assert panel.members[2].accuracy.value == pytest.approx(
        np.mean([vote[2] == label for vote, label in zip(votes, people, strict=True)])
    )
    assert any(f"amount to {expected:.1f} independent judges" in s for s in document.findings)
    assert Validation.model_validate(document.model_dump(mode="json")) == document


def test_members_labels_fold_onto_peoples() -> None:
    def refuses(_prompt: str, _response: str) -> dict[str, float]:
        return sure("refusal", QOS)

    panel = PanelJudge([Scripted(refuses, QOS), Scripted(refuses, QOS)])
    document = validate(panel, labelled(), draws=50, permutations=50)
    assert document.panel is not None
    refused = np.mean([row.response == "full_refusal" for row in labelled().rows])
    assert document.panel.members[0].accuracy.value == pytest.approx(refused)
    assert document.panel.pairs[0].accuracy.value == 1.0


def test_members_without_an_error_have_no_number_of_independent_judges() -> None:
    document = panel_of(honest, honest, gold=labelled())
    assert document.panel is not None
    assert document.panel.effective is None
    assert any("is not known: no two of them have errors" in s for s in document.findings)
    assert measured(honest).panel is None


def test_a_budget_for_too_few_rows_is_a_note_beside_the_report() -> None:
    document = measured(boastful, labelled(prompts=3), budget=0.1)
    assert document.budget == ()
    assert any("No budget: an audit of 9 rows" in note for note in document.notes)
    assert measured(boastful, labelled(prompts=3), budget=0.1, budget_rows=5_000).budget


def test_the_document_reads_back() -> None:
    document = measured(boastful, target_agreement=0.6, budget=0.1, budget_rows=5_000)
    assert Validation.model_validate(document.model_dump(mode="json")) == document


def test_as_many_verdicts_as_rows() -> None:
    with pytest.raises(ValueError, match="180 rows and 0 verdicts"):
        assess(Scripted(honest), labelled(), [])


XSTEST_DEV = Path(__file__).parents[3] / "shared" / "data" / "xstest_dev.jsonl"


@pytest.mark.skipif(not XSTEST_DEV.exists(), reason="the development set is not here")
def test_the_development_set_gives_the_figures_that_the_training_reports() -> None:
    from evenhand.audit.gold import read_gold
    from evenhand.judge import StringMatchJudge
    from evenhand.schemas.validation import GoldColumns
    from evenhand.training.evaluate import Xstest

    judge = StringMatchJudge("qos")
    gold = read_gold(XSTEST_DEV, judge.taxonomy, GoldColumns(raters=("string_match",)))
    document = validate(judge, gold, draws=20, permutations=20)
    data = Xstest.read()
    classes = ("full_compliance", "full_refusal", "partial_refusal")
    folded = [judge.judge(*pair).crosswalk["xstest"] for pair in data.pairs]
    three, _ = data.kappas(np.array([classes.index(label) for label in folded]))
    assert document.raters[0].agreement.kappa.value == pytest.approx(three)
    (column,) = (one for one in document.raters if one.kind == "rater")
    three, _ = data.kappas(np.array([int(row["string_match"][0]) - 1 for row in data.rows]))
    assert column.agreement.kappa.value == pytest.approx(three)
    assert document.excluded == ()
