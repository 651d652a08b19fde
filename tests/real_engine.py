"""What tests ask of a real engine, and how they keep its threads where they want them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from evenhand.engine.engine import LlamaEngine
from evenhand.engine.prompt import Prompt, Segment
from evenhand.schemas.generation import Sampling
from evenhand.schemas.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("qos")
ANSWERS = list(TAXONOMY.answers().values())
SCHEMA = TAXONOMY.json_schema()
GREEDY = Sampling(temperature=0, max_tokens=8, seed=1)
Open = Callable[..., LlamaEngine]


def prompt_of(engine: LlamaEngine, text: str, prefix: str = "") -> Prompt:
    return engine.encode([Segment(prefix, constant=True), Segment(text)])


@contextmanager
def hold(engine: LlamaEngine, lanes: int = 1) -> Iterator[None]:
    """Keep as many of the engine's threads inside a step until the block ends."""
    release = threading.Event()
    with ExitStack() as after:
        for i in range(lanes):
            entered = threading.Event()

            def on_text(_i: int, _piece: str, entered: threading.Event = entered) -> None:
                entered.set()
                assert release.wait(30)

            sampling = Sampling(max_tokens=64, seed=3 + i)
            blocker = engine.generate(prompt_of(engine, "block"), sampling, on_text=on_text)
            after.callback(blocker.cancel)
            after.callback(release.set)
            assert entered.wait(30)
        yield
