"""The measuring of a judge: classes and name swaps, on judges whose answers are known."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge
from evenhand.prompts.names import hide
from evenhand.schemas import Taxonomy
from evenhand.training import calibrate, evaluate, names
from evenhand.training.rows import LABELS, Row

ROWS = [
    Row(
        f"{name} went to the bank to [BLANK]", f"{name} went to pay in money.", "helpful_answer", ""
    )
    for name in ("Emily", "Latoya", "Mohammed", "Yuki")
]


def test_probabilities_come_in_the_order_of_the_training_labels() -> None:
    assert Taxonomy.load("qos").labels == LABELS


def test_six_labels_become_three_classes() -> None:
    classes = evaluate.three_way(np.eye(len(LABELS)))
    assert classes.sum(1).tolist() == [1.0] * len(LABELS)
    named = dict(zip(LABELS, (evaluate.CLASSES[i] for i in classes.argmax(1)), strict=True))
    assert named["harmful_refusal"] == named["refusal"] == "full_refusal"
    assert named["partial_refusal"] == "partial_refusal"
    assert {named[f"{kind}_answer"] for kind in ("helpful", "unhelpful", "harmful")} == {
        "full_compliance"
    }


def test_a_judge_that_reads_names_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    pairs: list[evaluate.Swap] = [
        (pair, [names.swap(*pair, rng) for _ in range(evaluate.SWAPS)])
        for pair in ((r.prompt, r.response) for r in ROWS)
    ]
    assert all(other != pair for pair, others in pairs for other in others)
    blind = Judge(FakeEngine(pick=lambda _: "refusal"))
    assert evaluate.flips(blind, pairs, "test")["rate"] == 0.0
    biased = Judge(FakeEngine(pick=lambda text: "refusal" if "Emily" in text else "helpful_answer"))
    found = evaluate.flips(biased, pairs, "test")
    assert 0.2 < found["rate"] < 0.4  # one name in four is Emily, and becomes another
    assert found["pairs"] == len(ROWS) * evaluate.SWAPS
    assert "name swaps, test" in capsys.readouterr().out


def test_named_completions_are_swapped_under_their_own_name() -> None:
    cases = evaluate.named_completions()
    assert len(cases) == 240
    swapped = evaluate.swaps(random.Random(1))["named completions"]
    assert [pair for pair, _ in swapped] == [(row.prompt, row.response) for row, _ in cases]
    for (row, name), (_, others) in zip(cases, swapped, strict=True):
        assert len(others) == evaluate.SWAPS
        if names.find(name) is None:  # else it may be drawn again
            # Its own name is gone from each (Rami, though Ramiro may have come).
            assert all(names.replace(*pair, name, "-") == pair for pair in others), row.prompt


def test_nobodys_names_are_seen_and_listed_ones_hidden() -> None:
    swapped = evaluate.swaps(random.Random(1))
    for title in ("held-out rows", "named completions"):
        # One name less is hidden: the one that was swapped, in prompt or response.
        for (_, listed), (_, unlisted) in zip(
            swapped[title], swapped[f"{title}, for nobody's"], strict=True
        ):
            assert len({tuple(hide(pair)) for pair in listed}) == 1
            assert max(map(_places, unlisted)) < min(map(_places, listed))


def _places(pair: evaluate.Pair) -> int:
    return sum(places for _, places in hide(pair))


def test_gender_is_read_off_the_first_pronoun() -> None:
    assert names.gender("Ann said that He left") == "m"
    assert names.gender("the sheet, hers") == "f"
    assert names.gender("Sheila and Theo") is None


def test_a_name_is_replaced_where_it_stands_alone() -> None:
    assert names.replace("Mei met Mei-Ling.", "Mei's", "Mei", "Ana") == (
        "Ana met Mei-Ling.",
        "Ana's",
    )


def test_xstest_measures_agreement_not_labels(capsys: pytest.CaptureFixture[str]) -> None:
    """A judge that agrees in every class scores 1, whatever its six labels are."""
    said = {"1_full_compliance": "harmful_answer", "2_full_refusal": "harmful_refusal"}
    rows = [
        {
            "model": "m",
            "prompt": f"p{i % 7}",
            "response": "r",
            "label": label,
            "gpt4_judge": "2_full_refusal",
            "string_match": label,
            "annotation_2": label if i % 5 else "3_partial_refusal",
        }
        for i, label in enumerate(["1_full_compliance", "2_full_refusal"] * 20)
    ]
    data = evaluate.Xstest(rows, np.array([0, 1] * 20))
    p = np.full((len(rows), len(LABELS)), 0.02)
    for row, line in zip(rows, p, strict=True):
        line[LABELS.index(said[row["label"]])] = 0.9
    out = evaluate.xstest(p, data)
    assert out["this judge"]["kappa"] == (1.0, 1.0)
    assert out["string matching"]["kappa"] == (1.0, 1.0)
    assert out["GPT-4 as judge"]["kappa"] == (0.0, 0.0)
    three, two = out["second human"]["kappa"]
    assert 0 < three < 1
    assert 0 < two < 1
    assert "this judge" in capsys.readouterr().out


def test_text_that_is_no_class_agrees_with_nobody() -> None:
    rows: list[Mapping[str, str]] = [{"label": "1_full_compliance"}, {"label": "2_full_refusal"}]
    data = evaluate.Xstest([dict(r) for r in rows], np.array([0, 1]))
    assert evaluate._class("I'm sorry, but I can't") == 3
    assert data.kappas(np.array([0, 3]))[0] < 1.0


def test_probabilities_are_never_made_up() -> None:
    judge = Judge(FakeEngine(), abstain_below=0.0)
    p = calibrate.probabilities(judge, [("p", "r"), ("q", "s")])
    assert p.shape == (2, len(LABELS))
    assert p.sum(1) == pytest.approx([1.0, 1.0])
