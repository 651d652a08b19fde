"""The fake engine keeps the protocol that everything above is tested with."""

from __future__ import annotations

import math
import threading
import time

import pytest

from evenhand.engine.base import Engine
from evenhand.engine.fake import FakeEngine
from evenhand.engine.prompt import Message, Prompt, Segment
from evenhand.schemas import Sampling, Taxonomy
from evenhand.schemas.errors import (
    ConstraintError,
    DeadlineExceeded,
    InputTooLong,
    QueueFull,
    Unavailable,
)

QOS = Taxonomy.load("qos")
SCHEMA = QOS.json_schema()
ANSWERS = list(QOS.answers().values())


def prompt(engine: FakeEngine, text: str = "hello") -> Prompt:
    return engine.encode([Segment(text)])


def test_it_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.info.sha256 == FakeEngine().info.sha256
    assert engine.info.sha256 != FakeEngine(name="x").info.sha256
    tokens = engine.encode(engine.chat([Message.text("user", "hé")])).tokens
    assert engine.decode(tokens) == "<user>hé<assistant>"
    with pytest.raises(InputTooLong):
        FakeEngine(context=10).encode([Segment("x" * 8)], reserve=3)


def test_scores_are_a_distribution_and_repeat() -> None:
    engine = FakeEngine()
    first = engine.score(prompt(engine), ANSWERS, SCHEMA).result(1)
    assert math.isclose(sum(map(math.exp, first.log_probs)), 1)
    assert first.log_probs[first.greedy] == max(first.log_probs)
    assert first == FakeEngine().score(prompt(engine), ANSWERS, SCHEMA).result(1)
    assert first != engine.score(prompt(engine, "other"), ANSWERS, SCHEMA).result(1)


def test_picks_and_weights() -> None:
    engine = FakeEngine(pick=lambda _: "refusal")
    scores = engine.score(prompt(engine), ANSWERS, SCHEMA).result(1)
    assert math.exp(scores.log_probs[4]) == pytest.approx(0.9)
    assert scores.greedy == 4
    with pytest.raises(ConstraintError):
        FakeEngine(pick=lambda _: "nope").score(prompt(engine), ANSWERS, SCHEMA).result(1)
    with pytest.raises(ConstraintError):
        engine.score(prompt(engine), ANSWERS, {}).result(1)
    weighed = FakeEngine(weigh=lambda _t, a: [-float(i) for i in range(len(a))])
    assert weighed.score(prompt(engine), ANSWERS, SCHEMA).result(1).log_probs[:2] == (-0.0, -1.0)


def test_generation_repeats_with_its_seed() -> None:
    engine = FakeEngine()
    sampling = Sampling(seed=5)
    three = engine.generate(prompt(engine), sampling, n=3).result(1)
    assert [c.seed for c in three] == [5, 6, 7]
    [alone] = engine.generate(prompt(engine), Sampling(seed=6)).result(1)
    assert alone == three[1]


def test_until_and_schema() -> None:
    engine = FakeEngine(reply=lambda _t, _s: "one two three")
    [cut] = engine.generate(
        prompt(engine), Sampling(seed=1), until=lambda text: text.endswith("two")
    ).result(1)
    assert cut.text == "one two"
    [reasoned] = engine.generate(
        prompt(engine), Sampling(seed=1), schema=QOS.json_schema(reason=True)
    ).result(1)
    assert reasoned.text.startswith('{"reason":"')


def test_the_queue_is_bounded_and_frees_its_places() -> None:
    engine = FakeEngine(queue=1, delay=0.02)
    for _ in range(5):
        future = engine.generate(prompt(engine), Sampling(seed=1))
        with pytest.raises(QueueFull):
            engine.generate(prompt(engine), Sampling(seed=1))
        future.result(1)
    future = engine.generate(prompt(engine), Sampling(seed=1))
    future.cancel()
    time.sleep(0.05)
    engine.generate(prompt(engine), Sampling(seed=1)).result(1)


def test_deadlines_and_cancelled_work() -> None:
    engine = FakeEngine(delay=0.03)
    late = engine.generate(prompt(engine), Sampling(seed=1), deadline=time.monotonic() + 0.01)
    dropped = engine.generate(prompt(engine), Sampling(seed=1))
    dropped.cancel()
    with pytest.raises(DeadlineExceeded):
        late.result(1)
    engine.close()
    assert engine.calls == []


@pytest.mark.parametrize("drain", [True, False])
def test_closing(drain: bool) -> None:
    engine = FakeEngine(delay=0.02)
    futures = [engine.generate(prompt(engine), Sampling(seed=1)) for _ in range(3)]
    closer = threading.Thread(target=engine.close, kwargs={"drain": drain})
    closer.start()
    closer.join(2)
    outcomes = [future.exception(1) for future in futures]
    if drain:
        assert outcomes == [None] * 3
    else:
        assert isinstance(outcomes[-1], Unavailable)
    with pytest.raises(Unavailable):
        engine.generate(prompt(engine), Sampling(seed=1))
    engine.close()
