"""The webhook of promptfoo: a grade for each label, and an HTTP error for whatever is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from evenhand.schemas.errors import DecodeError, ModelNotFound
from evenhand.schemas.taxonomy import Taxonomy

PATH = "/v1/plugins/promptfoo"
QOS = Taxonomy.load("qos").labels
BODY = {"output": "No.", "context": {"prompt": "Name a colour.", "vars": {"a": "Really?", "n": 1}}}
REFUSES = {"pick": lambda _: "refusal"}


def ask(service: Any, body: Any = BODY, **query: Any) -> Any:
    return service.http.post(PATH, json=body, params={"pass": "refusal", **query})


@pytest.mark.parametrize(
    ("wanted", "passed", "labels"),
    [
        ("refusal", True, ["refusal"]),
        ("helpful_answer", False, ["helpful_answer"]),
        ("helpful_answer, partial_refusal,refusal", True,
         ["helpful_answer", "partial_refusal", "refusal"]),
        ("refusal,refusal", True, ["refusal"]),
        (",".join(QOS), True, QOS),
    ],
)  # fmt: skip
def test_a_grade(start: Any, wanted: str, passed: bool, labels: list[str]) -> None:
    reply = ask(start(REFUSES), **{"pass": wanted})
    assert reply.status_code == 200
    grade = reply.json()
    assert grade["pass"] is passed
    probabilities = grade["namedScores"]
    assert set(probabilities) == set(QOS)
    assert grade["score"] == pytest.approx(sum(probabilities[label] for label in labels))
    assert 0 <= grade["score"] <= 1
    assert grade["reason"].startswith("refusal (refusal 0.900, ")
    assert grade["metadata"]["verdict"]["label"] == "refusal"


@pytest.mark.parametrize(
    ("wanted", "passed"),
    [
        (["helpful_answer", "refusal"], True),
        (["refusal", "helpful_answer"], True),
        (["helpful_answer,refusal", "partial_refusal"], True),
        (["helpful_answer", "partial_refusal"], False),
    ],
)
def test_pass_may_be_said_several_times(start: Any, wanted: list[str], passed: bool) -> None:
    grade = ask(start(REFUSES), **{"pass": wanted}).json()
    assert grade["pass"] is passed
    labels = ",".join(wanted).split(",")
    assert grade["score"] == pytest.approx(sum(grade["namedScores"][label] for label in labels))


@pytest.mark.parametrize(
    ("name", "values"), [("prompt", ["a", "b"]), ("taxonomy", ["qos"] * 2), ("timeout", [9, 9])]
)
def test_what_else_is_said_twice_is_refused(service: Any, name: str, values: list[Any]) -> None:
    reply = ask(service, **{name: values})
    assert reply.status_code == 422
    assert f"query.{name} stands twice" in reply.json()["detail"]
    assert not service.fakes.judge.calls


def test_another_taxonomy(start: Any) -> None:
    service = start({"pick": lambda _: "full_refusal"})
    grade = ask(service, taxonomy="xstest", **{"pass": "full_compliance"}).json()
    assert grade["pass"] is False
    assert set(grade["namedScores"]) == set(Taxonomy.load("xstest").labels)


def test_what_the_judge_reads(start: Any) -> None:
    service = start()
    ask(service)
    ask(service, prompt="a")
    ask(service, {**BODY, "output": {"said": "Nö."}})
    texts = [text for _, text in service.fakes.judge.calls]
    assert len(texts) == 3
    assert "Name a colour." in texts[0]
    assert "Really?" in texts[1]
    assert "Name a colour." not in texts[1]
    assert '{"said": "Nö."}' in texts[2]


def test_a_judge_without_probabilities_scores_by_its_label(start: Any) -> None:
    service = start(judge="baseline:majority=refusal")
    assert ask(service).json()["score"] == 1.0
    grade = ask(service, **{"pass": "helpful_answer"}).json()
    assert (grade["pass"], grade["score"], grade["namedScores"]) == (False, 0.0, {})
    assert "gives no probabilities" in grade["reason"]


def broken(_: str) -> None:
    raise DecodeError("llama.cpp has a secret")


@pytest.mark.parametrize(
    ("fakes", "settings", "status", "code"),
    [
        ({}, {"abstain_below": 1.0}, 422, "low_confidence"),
        ({"context": 5_000}, {}, 422, "input_too_long"),
        ({"fail": broken}, {}, 500, "decode_error"),
        ({"delay": 1.0}, {}, 504, "deadline_exceeded"),
    ],
)
def test_what_is_no_label_is_an_error(
    start: Any, fakes: Any, settings: Any, status: int, code: str
) -> None:
    long = {**BODY, "output": "No. " * 2_000}
    reply = ask(start(fakes, **settings), long, timeout=0.2)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert "pass" not in reply.json()
    assert "secret" not in reply.text


def test_a_full_queue_is_waited_for_and_then_an_error(start: Any, gate: Any) -> None:
    service = start({"fail": gate, "queue": 1})
    ahead = service.services.judge().submit("a", "b")
    reply = ask(service, timeout=0.2)
    assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")
    gate.open()
    assert ahead.result().label is not None
    assert ask(service).status_code == 200


def test_a_judge_that_is_not_loaded_is_an_error(start: Any) -> None:
    def missing(reference: str) -> None:
        raise ModelNotFound(f"no {reference}")

    reply = ask(start({"opening": missing}, load=False))
    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize(
    ("body", "query", "told"),
    [
        (BODY, {"pass": "helpful"}, "'helpful' is no label of the taxonomy 'qos'"),
        (BODY, {"pass": " , "}, "no label"),
        (BODY, {"pass": "full_refusal"}, "no label of the taxonomy 'qos'"),
        (BODY, {"prompt": "b"}, "there is no text in the variable 'b'"),
        (BODY, {"prompt": "n"}, "there is no text in the variable 'n'"),
        (BODY, {"timeout": 0}, "greater than 0"),
        (BODY, {"taxonmy": "xstest"}, "query.taxonmy"),
        ({**BODY, "output": None}, {}, "the output is null"),
        ({"context": BODY["context"]}, {}, "body.output"),
        ({"output": "No."}, {}, "body.context"),
        ({"output": "No.", "context": {"vars": {}}}, {}, "the context has no prompt"),
    ],
)
def test_what_cannot_be_graded_is_refused(service: Any, body: Any, query: Any, told: str) -> None:
    reply = ask(service, body, **query)
    assert reply.status_code == 422
    assert told in reply.text
    assert not service.fakes.judge.calls


def test_pass_must_be_said(service: Any) -> None:
    assert service.post(PATH, BODY).status_code == 422


def test_an_unknown_taxonomy_is_not_found(service: Any) -> None:
    assert ask(service, taxonomy="nope").status_code == 404


def test_two_hundred_at_once_through_a_queue_of_32(start_server: Any) -> None:
    label = {True: "refusal", False: "helpful_answer"}
    service = start_server({"queue": 32, "pick": lambda text: label["number odd" in text]})

    def one(i: int) -> Any:
        body = {"output": f"number {'odd' if i % 2 else 'even'}", "context": {"prompt": f"{i}"}}
        return ask(service, body, timeout=15)

    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(one, range(200)))
    assert [reply.status_code for reply in replies] == [200] * 200
    assert [reply.json()["pass"] for reply in replies] == [bool(i % 2) for i in range(200)]
