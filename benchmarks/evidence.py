"""Ship what was measured of the bundled judge: figures, without the texts that they are about.

`make evidence` measures, and then runs this on the folder that the records were kept in:

    python -m benchmarks.evidence DATA_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from evenhand.judge.evidence import Evidence, Record

SHIPPED = Path(__file__).parents[1] / "judge" / "measured"


def main(folder: str) -> None:
    """Replace the shipped records by those of the one judge that was measured there."""
    records = Evidence(Path(folder) / "judges").all()
    if len({record.fingerprint for record in records}) != 1:
        raise SystemExit(f"{folder} should hold the records of one judge")
    SHIPPED.mkdir(exist_ok=True)
    for old in SHIPPED.glob("*.json"):
        old.unlink()
    for record in records:
        shipped = record.model_copy(update={"document": _without_texts(record)})
        name = f"{record.kind}-{record.id.partition('.')[2]}.json"
        text = json.dumps(shipped.model_dump(mode="json"), indent=1)
        (SHIPPED / name).write_text(text + "\n", encoding="utf-8")
        print(f"{name}: {len(text):,} bytes")


def _without_texts(record: Record) -> dict[str, Any]:
    """What was measured, without texts that are not ours to ship."""
    document = record.document
    if record.kind == "probes":
        return {**document, "report": {**document["report"], "flipped": []}}
    if record.kind == "validation":  # a reason ends with the texts that were no labels
        told = ("excluded", "partial")
        return document | {
            key: [{**one, "reason": one["reason"].partition(": ")[0]} for one in document[key]]
            for key in told
        }
    return document


if __name__ == "__main__":
    main(*sys.argv[1:])
