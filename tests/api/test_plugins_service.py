"""A service as a judge: many items, a limit of time, and what is asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from evenhand.api.client import Client
from evenhand.api.plugins.service import ServiceJudge
from evenhand.schemas.errors import DeadlineExceeded, Unavailable
from evenhand.schemas.verdict import Failure, Status, Verdict

PAIRS = [(f"Name colour {i}.", "No." if i % 2 else "Blue.") for i in range(20)]
LABELS = ["helpful_answer", "refusal"] * 10

Connect = Callable[[], ServiceJudge]
JudgeMany = Callable[..., Iterator[Verdict]]


def pick(text: str) -> str:
    return "refusal" if "No." in text else "helpful_answer"


@pytest.fixture
def connect(start_server: Any) -> Connect:
    return lambda: ServiceJudge(start_server({"pick": pick}).url, retries=0)


def late(verdict: Verdict) -> Verdict:
    """What a service says of an item that it had no time for."""
    failure = Failure.of(DeadlineExceeded("the deadline passed"))
    nothing = dict.fromkeys(("label", "probabilities", "mass", "margin"))
    return verdict.model_copy(
        update={**nothing, "crosswalk": {}, "status": Status.ERROR, "failure": failure}
    )


def answering(monkeypatch: pytest.MonkeyPatch, at_most: Iterable[int]) -> list[int]:
    """Let each request get so many verdicts, and the rest be late; gives the requests' sizes."""
    asked: list[int] = []
    limits = iter(at_most)
    judge_many: JudgeMany = Client.judge_many

    def limited(self: Client, items: list[Any], **options: Any) -> Iterator[Verdict]:
        asked.append(len(items))
        limit = next(limits)
        for i, verdict in enumerate(judge_many(self, items, **options)):
            yield verdict if i < limit else late(verdict)

    monkeypatch.setattr(Client, "judge_many", limited)
    return asked


def test_what_was_late_is_asked_for_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, [7, 1, 30])
    with connect() as judge:
        found = list(judge.judge_many(PAIRS))
    assert [verdict.label for verdict in found] == LABELS
    assert asked == [20, 13, 12]


def test_without_a_verdict_in_time_it_gives_up(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, [4, 0, 10, 10])
    with connect() as judge:
        found = list(judge.judge_many(PAIRS, in_flight=10))
    assert [verdict.label for verdict in found] == [*LABELS[:4], *[None] * 6, *LABELS[10:]]
    codes = {verdict.failure.code for verdict in found if verdict.failure}
    assert codes == {"deadline_exceeded"}
    assert asked == [10, 6, 10]


def test_a_service_that_goes_down_meanwhile_costs_what_is_left(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limits() -> Iterator[int]:
        yield 7
        raise Unavailable("gone")

    answering(monkeypatch, limits())
    with connect() as judge:
        found = list(judge.judge_many(PAIRS))
    assert [verdict.label for verdict in found] == [*LABELS[:7], *[None] * 13]
    assert {v.failure.code for v in found if v.failure} == {"unavailable"}


def test_many_items_take_longer_than_the_limit_for_one(start_server: Any) -> None:
    service = start_server({"pick": pick, "delay": 0.02, "queue": 32})
    with ServiceJudge(service.url, timeout=1.0) as judge:
        found = list(judge.judge_many(PAIRS * 10))
    assert [verdict.label for verdict in found] == LABELS * 10


def test_the_fingerprint_is_that_of_the_last_verdict(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_many: JudgeMany = Client.judge_many

    def restarted(self: Client, items: list[Any], **options: Any) -> Iterator[Verdict]:
        for verdict in judge_many(self, items, **options):
            yield verdict.model_copy(update={"fingerprint": "f" * 64})

    monkeypatch.setattr(Client, "judge_many", restarted)
    with connect() as judge:
        assert judge.fingerprint != "f" * 64
        list(judge.judge_many(PAIRS))
        assert judge.fingerprint == "f" * 64
