"""The chain's stages are kept, and taken up where a run was broken off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the `train` extra")
pytest.importorskip("gguf", reason="needs the `train` extra")
pytest.importorskip("tokenizers", reason="needs the `train` extra")

from evenhand.training import pipeline  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return {"weight": torch.full((2, 3), 0.5)}

    first = pipeline.kept(tmp_path, "stage", make)
    again = pipeline.kept(tmp_path, "stage", make)
    assert made == [1]
    assert torch.equal(first["weight"], again["weight"])
    pipeline.kept(tmp_path, "another", make)
    pipeline.kept(None, "stage", make)
    assert made == [1, 1, 1]


def test_a_stage_that_failed_is_made_again(tmp_path: Path) -> None:
    def broken_off() -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.kept(tmp_path, "stage", broken_off)
    (tmp_path / "stage.part").write_bytes(b"half a file")
    assert pipeline.kept(tmp_path, "stage", lambda: [1, 2]) == [1, 2]
    assert pipeline.kept(tmp_path, "stage", broken_off) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["stage.pt"]


def test_judges_are_kept_by_all_that_they_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed, share of rows, model to do without or start is another judge."""
    made: list[str] = []

    def kept(folder: Path | None, name: str, make: object) -> list[dict[str, Tensor]]:
        made.append(name)
        return [{"weight": torch.zeros(1)}]

    monkeypatch.setattr(pipeline, "kept", kept)
    bpe = pipeline.tokenizer.train(["some text to learn from"] * 3, [])
    base = pipeline.Llama(pipeline.Shape())
    pipeline.make_judges(bpe, base, [1, 2], rows=10)
    pipeline.make_judges(bpe, base, [1, 2], rows=10)
    assert made[0] == made[1]
    pipeline.make_judges(bpe, base, [1, 3], rows=10)
    pipeline.make_judges(bpe, base, [1, 2], rows=11)
    pipeline.make_judges(bpe, base, [1, 2], rows=10, without="llama2")
    pipeline.make_judges(bpe, pipeline.Llama(pipeline.Shape()), [1, 2], rows=10)
    assert len(set(made[1:])) == len(made) - 1
