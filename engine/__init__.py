"""llama.cpp, driven for many sequences at once; outlines constraints; exact scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evenhand.engine.base import Completion, Engine, ModelInfo, Scores
from evenhand.engine.prompt import Message, Prompt, Segment
from evenhand.engine.settings import EngineSettings

__all__ = [
    "Completion",
    "Engine",
    "EngineSettings",
    "Message",
    "ModelInfo",
    "Prompt",
    "Scores",
    "Segment",
    "open_engine",
]


def open_engine(
    reference: str,
    settings: EngineSettings | None = None,
    *,
    offline: bool = False,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Engine:
    """Find the model behind a reference, check its file, load it and start its owner thread.

    `reference` is `bundled:NAME`, a path to a GGUF file, or `hf:OWNER/REPO:FILE[@REVISION]`.
    `offline` forbids downloads. `progress` is told in words what takes long. Raises
    `ModelNotFound`, `ModelFileError`, or `RemoteError` where a download fails.
    """
    # Imported here, so that judges and generators of remote servers never load llama.cpp.
    from evenhand.engine.engine import LlamaEngine
    from evenhand.engine.models import resolve

    model = resolve(reference, offline=offline, cache_dir=cache_dir, progress=progress)
    return LlamaEngine(model, settings or EngineSettings(), cache_dir=cache_dir)
