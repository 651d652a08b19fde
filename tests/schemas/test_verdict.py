"""Promise 1: no verdict is never a verdict."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evenhand.schemas import Failure, Generation, Status, Verdict
from evenhand.schemas.errors import InputTooLong

BASE: dict[str, Any] = {
    "status": "judged",
    "label": "a",
    "taxonomy": "t",
    "taxonomy_version": "1",
    "labels": ["a", "b"],
    "judge": "j",
    "fingerprint": "f",
}
FAILURE = {"code": "c", "message": "m"}
UNJUDGED = {**BASE, "label": None, "failure": FAILURE}

DISHONEST: list[dict[str, Any]] = [
    {"label": None},
    {"label": "c"},
    {"label": "A"},
    {"label": "a "},
    {"failure": FAILURE},
    {"status": "done"},
    {"status": "error"},
    {"status": "error", "failure": FAILURE},
    {"status": "truncated", "failure": FAILURE},
    {"status": "abstained", "failure": FAILURE},
    {"status": "error", "label": None},
    {"status": "error", "label": None, "failure": FAILURE, "crosswalk": {"x": "y"}},
    {"status": "error", "label": None, "failure": FAILURE, "probabilities": {"a": 0.5, "b": 0.5}},
    {"status": "truncated", "label": None, "failure": FAILURE, "probabilities": {"a": 1, "b": 0}},
    {"probabilities": {"a": 0.6, "b": 0.3}},
    {"probabilities": {"a": 1.0}},
    {"probabilities": {"a": 0.5, "b": 0.4, "c": 0.1}},
    {"probabilities": {"a": 0.4, "b": 0.6}},
    {"probabilities": {"a": math.nan, "b": 1.0}},
    {"probabilities": {"a": 1.5, "b": -0.5}},
    {"probabilities": {}},
    {"probabilities": {"a": 0.7, "b": 0.3}, "margin": 0.5},
    {"margin": 0.5},
    {"mass": math.nan},
    {"mass": 1.1},
    {"seconds": -1},
    {"seconds": math.inf},
    {"seconds": math.nan},
    {"labels": ["a"]},
    {"labels": ["a", "a"]},
    {"extra": 1},
]


@pytest.mark.parametrize("change", DISHONEST, ids=str)
def test_a_dishonest_verdict_cannot_be_built(change: dict[str, Any]) -> None:
    fields = {**BASE, **change}
    with pytest.raises(ValidationError):
        Verdict(**fields)
    with pytest.raises(ValidationError):
        Verdict.model_validate(fields)
    with pytest.raises(ValidationError):
        Verdict.model_validate_json(json.dumps(fields))
    with pytest.raises(ValidationError):
        Verdict(**BASE).model_copy(update=change)


@pytest.mark.parametrize("status", ["error", "truncated", "abstained"])
def test_a_failure_can_never_be_given_a_label(status: str) -> None:
    verdict = Verdict(**{**UNJUDGED, "status": status})
    with pytest.raises(ValidationError):
        verdict.label = "a"
    with pytest.raises(ValidationError):
        verdict.model_copy(update={"label": "a"})


def test_verdicts_travel_as_json() -> None:
    verdict = Verdict(
        **BASE,
        probabilities={"a": 0.75, "b": 0.25},
        margin=0.5,
        reason="half \ud83d",
        notes=["\udc00"],
    )
    assert verdict.reason == "half \ufffd"
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert verdict.model_copy() == verdict
    assert verdict.model_copy(update={"seconds": 2.0}).seconds == 2.0


def test_an_abstention_may_show_its_probabilities() -> None:
    verdict = Verdict(
        **{**UNJUDGED, "status": "abstained"}, probabilities={"a": 0.5, "b": 0.5}, margin=0.0
    )
    assert verdict.status is Status.ABSTAINED


def test_failures_describe_any_exception() -> None:
    ours = Failure.of(InputTooLong("too long", hint="cut"))
    assert (ours.code, ours.message, ours.hint) == ("input_too_long", "too long", "cut")
    theirs = Failure.of(ValueError("half \ud800"))
    assert (theirs.code, theirs.message) == ("internal_error", "ValueError: half \ufffd")


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_can_be_recorded(text: str) -> None:
    generation = Generation(text=text, finish_reason="stop", generator="g", fingerprint="f")
    assert Generation.model_validate_json(generation.model_dump_json()) == generation
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert generation.text == text
