"""`label`: rows of every kind in, one row each out, in order, and failures never as labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge, MajorityJudge, label
from evenhand.schemas.errors import InvalidInput, Unavailable
from evenhand.schemas.requests import Item

PAIRS = [("Name a colour.", "Blue."), ("Name a shape.", "I would rather not.")]


def pick(text: str) -> str:
    return (
        "refusal" if "would rather not." in text.partition("Name a shape.")[2] else "helpful_answer"
    )


KINDS: dict[str, Callable[[], object]] = {
    "pairs": lambda: PAIRS,
    "lists": lambda: [list(pair) for pair in PAIRS],
    "a generator": lambda: (pair for pair in PAIRS),
    "dictionaries": lambda: [{"response": r, "prompt": p, "id": 1} for p, r in PAIRS],
    "an array": lambda: np.array(PAIRS),
    "an array of objects": lambda: np.array(PAIRS, dtype=object),
    "iterators": lambda: (iter(pair) for pair in PAIRS),
    "rows of pandas": lambda: (
        row
        for _, row in pd.DataFrame(PAIRS, columns=["prompt", "response"])[
            ["response", "prompt"]
        ].iterrows()
    ),
    "items": lambda: [Item(prompt=p, response=r) for p, r in PAIRS],
    "polars": lambda: pl.DataFrame(PAIRS, schema=["prompt", "response"], orient="row"),
    "lazy polars": lambda: pl.LazyFrame(PAIRS, schema=["prompt", "response"], orient="row"),
    "pandas": lambda: pd.DataFrame(PAIRS, columns=["prompt", "response"], index=[7, 7]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind(kind: str) -> None:
    with Judge(FakeEngine(pick=pick)) as judge:
        frame = label(KINDS[kind](), judge)
    assert frame.select("prompt", "response").rows() == PAIRS
    assert frame["label"].to_list() == ["helpful_answer", "refusal"]
    assert frame.columns == [
        "prompt", "response", "status", "label",
        *(f"p_{name}" for name in judge.taxonomy.labels),
        "margin", "failure", "fingerprint",
    ]  # fmt: skip
    assert frame["p_refusal"].to_list() == pytest.approx([0.02, 0.9])
    assert frame["margin"].to_list() == pytest.approx([0.88] * 2)
    assert set(frame["fingerprint"]) == {judge.fingerprint}


@pytest.mark.parametrize(
    ("row", "kept", "failure"),
    [
        (("a", None), ("a", None), "response is NoneType"),
        ({"prompt": "a"}, ("a", None), "response is NoneType"),
        ({"response": "b", "prompt": 1.5}, (None, "b"), "prompt is float"),
        (("a",), (None, None), "the row is no pair"),
        ("ab", (None, None), "the row is no pair"),
        (3, (None, None), "the row is no pair"),
        (b"ab", (None, None), "the row is no pair"),
        ({"a", "b"}, (None, None), "the row is no pair"),
        (np.array(3), (None, None), "the row is no pair"),
        (np.array(["a", "b", "c"]), (None, None), "the row is no pair"),
        (np.array([["a"], ["b"]]), (None, None), "prompt is ndarray"),
        (pd.Series(["a", "b"]), (None, None), "prompt is NoneType"),
    ],
)
def test_a_bad_row_is_an_error_row(row: object, kept: tuple[object, ...], failure: str) -> None:
    with Judge(FakeEngine(pick=pick)) as judge:
        frame = label([PAIRS[0], row, PAIRS[1]], judge)
    assert frame["status"].to_list() == ["judged", "error", "judged"]
    assert frame["label"].to_list() == ["helpful_answer", None, "refusal"]
    assert frame.select("prompt", "response").row(1) == kept
    assert frame["failure"][1].startswith(f"invalid_input: {failure}")
    assert frame["p_refusal"][1] is None


@given(st.lists(st.one_of(st.tuples(st.text(), st.text()), st.none(), st.integers(), st.text())))
def test_one_row_for_each_input_in_order(rows: list[Any]) -> None:
    frame = label(rows, MajorityJudge())
    assert len(frame) == len(rows)
    for row, found in zip(rows, frame.rows(named=True), strict=True):
        assert (found["label"] is not None) is isinstance(row, tuple)
        if isinstance(row, tuple):
            assert (found["prompt"], found["response"]) == row


def test_200_through_a_queue_of_32_with_failures() -> None:
    def fail(text: str) -> None:
        if "number 7" in text:
            raise RuntimeError("the model broke")

    rows = [("Name a colour.", f"number {i}") for i in range(200)]
    with Judge(FakeEngine(queue=32, fail=fail, pick=lambda _: "refusal")) as judge:
        frame = label(iter(rows), judge)
    assert frame.select("prompt", "response").rows() == rows
    broken = [i for i, (_, response) in enumerate(rows) if "number 7" in response]
    assert [i for i, status in enumerate(frame["status"]) if status == "error"] == broken
    assert frame.filter(pl.col("label").is_null()).height == len(broken) == 11


def test_an_abstention_keeps_its_probabilities() -> None:
    with Judge(FakeEngine(pick=pick), abstain_below=0.99) as judge:
        frame = label(PAIRS, judge)
    assert frame["status"].to_list() == ["abstained"] * 2
    assert frame["label"].null_count() == 2
    assert frame["p_helpful_answer"].to_list() == pytest.approx([0.9, 0.02])
    assert all(failure.startswith("low_confidence: ") for failure in frame["failure"])


def test_half_a_character_costs_no_row() -> None:
    with Judge(FakeEngine(pick=lambda _: "refusal")) as judge:
        frame = label([("a", "\ud83d")], judge)
    assert frame["response"].to_list() == ["\ufffd"]


def test_no_rows_are_an_empty_frame_with_its_columns() -> None:
    frame = label([], MajorityJudge())
    assert frame.shape == (0, 13)
    assert frame.schema["p_refusal"] == pl.Float64()


@pytest.mark.parametrize(
    "pairs", [None, "text", {"prompt": ["a"]}, pl.DataFrame({"prompt": ["a"]})], ids=type
)
def test_what_holds_no_rows_is_refused(pairs: object) -> None:
    with pytest.raises(InvalidInput, match=r"holds no rows|no column 'response'"):
        label(pairs, MajorityJudge())


def test_a_closed_judge_is_refused() -> None:
    judge = Judge(FakeEngine(), owns_engine=True)
    judge.close()
    with pytest.raises(Unavailable):
        label(PAIRS, judge)


def test_progress_goes_to_stderr_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, any stderr is a terminal now
    label(PAIRS, MajorityJudge())
    assert capsys.readouterr() == ("", "")
    label(PAIRS, MajorityJudge(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "judging" in err
