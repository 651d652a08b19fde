"""Waiting for generators and judges in a way that Ctrl-C can end, with text as it comes."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evenhand.generator.base import BaseGenerator, OnText
    from evenhand.schemas.generation import Generation, Sampling


def generate_now(
    generator: BaseGenerator,
    prompt: str,
    *,
    system: str | None,
    n: int,
    sampling: Sampling,
    on_text: OnText,
) -> list[Generation]:
    """Sample `n` responses; `on_text(i, piece)` is called here, not on the engine's thread.

    So a closed pipe or a slow terminal is this caller's trouble alone. Whatever is raised
    meanwhile, Ctrl-C among it, cancels the work.
    """
    pieces: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
    future = generator.submit(
        prompt,
        system=system,
        sampling=sampling,
        n=n,
        on_text=lambda index, piece: pieces.put((index, piece)),
    )
    future.add_done_callback(lambda _future: pieces.put(None))
    try:
        while (piece := pieces.get()) is not None:
            on_text(*piece)
        return future.result()
    except BaseException:
        future.cancel()
        raise
