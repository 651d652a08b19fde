"""Distilling: refused with a reason where it cannot work; a judge that works where it can."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evenhand.api.cli.app import app
from evenhand.schemas import Taxonomy
from evenhand.schemas.errors import InvalidInput, ModelFileError
from evenhand.training.rows import Row

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs the `train` extra")
COLOURS = """
name = "colours"
version = "1"
title = "Colours"
[[categories]]
label = "red"
definition = "It is about red things."
[[categories]]
label = "blue"
definition = "It is about blue things."
"""
THINGS = {"red": ("tomato", "brick", "rose", "fire"), "blue": ("sky", "sea", "jeans", "whale")}


@pytest.fixture
def taxonomy(tmp_path: Path) -> Path:
    path = tmp_path / "colours.toml"
    path.write_text(COLOURS, encoding="utf-8")
    return path


def coloured(count: int) -> list[dict[str, str]]:
    rng = random.Random(1)
    out = []
    for i in range(count):
        label = ("red", "blue")[i % 2]
        thing, other = rng.choice(THINGS[label]), rng.randint(2, 99)
        out.append(
            {
                "prompt": f"Tell me about thing number {i}.",
                "response": f"I saw {other} times a {thing} this year.",
                "label": label,
            }
        )
    return out


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_without_torch_the_command_says_what_to_install(
    tmp_path: Path, taxonomy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    file = write(tmp_path / "rows.jsonl", coloured(4))
    out = str(tmp_path / "j.gguf")
    result = CliRunner().invoke(app, ["distill", str(file), "-t", str(taxonomy), "-o", out])
    assert result.exit_code != 0
    assert "training needs torch" in result.output
    assert "pip install" in result.output


@needs_torch
def test_rows_that_can_make_no_judge_are_refused(taxonomy: Path) -> None:
    from evenhand.training.distill import check

    colours = Taxonomy.load(taxonomy)
    rows = [Row(r["prompt"], r["response"], r["label"], "test") for r in coloured(60)]
    check(rows, colours)
    with pytest.raises(InvalidInput, match="does not have: refusal"):
        check([*rows, Row("p", "r", "refusal", "test")], colours)
    with pytest.raises(InvalidInput, match=r"too few rows of blue \(3\)"):
        check(
            [r for r in rows if r.label == "red"] + [r for r in rows if r.label == "blue"][:3],
            colours,
        )
    with pytest.raises(InvalidInput, match="too few prompts"):
        check(
            [Row("the same", f"{r.response} {i}", r.label, "test") for i, r in enumerate(rows)],
            colours,
        )


@needs_torch
def test_a_judge_is_made_that_knows_the_labels(tmp_path: Path, taxonomy: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*coloured(300), {"prompt": "no response"}])
    out = tmp_path / "colours.gguf"
    command = ["distill", str(file), "-t", str(taxonomy), "-o", str(out), "--draws", "4", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["rows"] == 300
    assert report["left_out"] == 1
    assert report["accuracy"] > 0.9 > report["majority"]
    from evenhand.judge import Judge

    with Judge(str(out), taxonomy) as judge:
        assert judge.judge("Tell me about it.", "I saw 7 times a tomato this year.").label == "red"
        assert judge.judge("Tell me about it.", "I saw 7 times a whale this year.").label == "blue"
    again = CliRunner().invoke(app, command)
    assert again.exit_code != 0
    assert "exists" in again.output


@needs_torch
def test_a_strangers_model_is_no_start(tmp_path: Path, taxonomy: Path) -> None:
    import gguf

    from evenhand.training.load import load

    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="not trained by evenhand"):
        load(path)
