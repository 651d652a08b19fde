"""Real responses from outside the repository (`../shared/data/train`), with our labels where given.

None of this text may be committed; `data/labels/*.jsonl` holds labels of ours for its rows, each
with a hash of the text that was read. Everything here is empty where the files are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evenhand.training.rows import Row

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "train"
LABELS = Path(__file__).parent / "data" / "labels"
FILES = ("annotated.jsonl", "speechmap.parquet", "plain_responses.parquet")
ANNOTATED, SPEECHMAP, PLAIN = "annotated", "speechmap", "plain responses"
HELPFUL = ("gpt-4", "text-davinci-003")  # whose plain rows are presumed to be helpful answers
LICENCES = {
    ANNOTATED: "andyrdt/refusal_direction Apache-2.0; JailbreakBench/artifacts MIT",
    SPEECHMAP: "xlr8harder/llm-compliance Apache-2.0",
    PLAIN: "yizhongw/self-instruct Apache-2.0; teknium1/GPTeacher MIT",
}


@dataclass(frozen=True)
class Real:
    """A row and the model that wrote its response. `sure`: no second label came close."""

    row: Row
    model: str
    sure: bool


def missing() -> list[Path]:
    """Which of the files are not there."""
    return [FOLDER / name for name in FILES if not (FOLDER / name).exists()]


def _parquet(name: str) -> list[dict[str, Any]]:
    if not (FOLDER / name).exists():
        return []
    import polars as pl

    return pl.read_parquet(FOLDER / name).to_dicts()


def _row(record: Mapping[str, Any], label: str, source: str) -> Row:
    return Row(record["prompt"], record["response"], label, source, LICENCES[source])


@cache
def annotated() -> tuple[Real, ...]:
    """The real responses whose six labels come with the file."""
    path = FOLDER / "annotated.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return tuple(
        Real(_row(r, r["label"], ANNOTATED), r["model"], not r["second_label"]) for r in records
    )


def digest(record: Mapping[str, Any]) -> str:
    """The hash that ties a label of ours to the text that it was given to."""
    text = f"{record['prompt']}\n{record['response']}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _ours(stem: str, source: str) -> list[Real]:
    records = _parquet(f"{stem}.parquet")
    if not records:
        return []
    out = []
    for line in (LABELS / f"{stem}.jsonl").read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        record = records[given["row"]]
        if digest(record) != given["sha"]:
            raise ValueError(f"{stem}: row {given['row']} is not the text that was labelled")
        if given["label"]:
            row = _row(record, given["label"], source)
            out.append(Real(row, record["model"], not given["second"]))
    return out


@cache
def labelled() -> tuple[Real, ...]:
    """SpeechMap and plain rows that were read and labelled for this project."""
    return (*_ours("speechmap", SPEECHMAP), *_ours("plain_responses", PLAIN))


@cache
def presumed() -> tuple[Real, ...]:
    """Rows that nobody read, of kinds of which samples were read and found helpful.

    SpeechMap's COMPLETE: 118 of 120 read. Role play by GPT-4: 60 of 60. text-davinci-003: 39 of 40.
    """
    read = {real.row.prompt + real.row.response for real in labelled()}
    out = []
    for stem, source in (("speechmap", SPEECHMAP), ("plain_responses", PLAIN)):
        for record in _parquet(f"{stem}.parquet"):
            good = record.get("label") == "COMPLETE" or record["model"] in HELPFUL
            if good and record["prompt"] + record["response"] not in read:
                out.append(Real(_row(record, "helpful_answer", source), record["model"], True))
    return tuple(out)


@cache
def texts() -> tuple[Row, ...]:
    """Every SpeechMap and plain row as text to learn language from; the label means nothing."""
    return (
        *(_row(r, "helpful_answer", SPEECHMAP) for r in _parquet("speechmap.parquet")),
        *(_row(r, "helpful_answer", PLAIN) for r in _parquet("plain_responses.parquet")),
    )
