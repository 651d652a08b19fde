"""What the card of an open judge counts of the records that a folder holds."""

from __future__ import annotations

from pathlib import Path

from evenhand.api.cards import card_of
from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge
from evenhand.judge.evidence import Evidence


def test_local_records_of_the_same_model_file_are_counted(tmp_path: Path) -> None:
    """Under other fingerprints, where the file is the same; other files are other judges."""
    evidence = Evidence(tmp_path / "judges")
    with Judge(FakeEngine(name="made up")) as judge:
        for i, sha256 in enumerate((judge.model_sha256, judge.model_sha256, "9" * 64)):
            evidence.save("validation", str(i) * 64, "x", {"model_sha256": sha256})
        (gap,) = [g for g in card_of(judge, tmp_path).gaps if g.name == "no_validity_evidence"]
    assert "2 records were made of the same model file under another fingerprint" in gap.means
