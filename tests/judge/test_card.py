"""The judge card: what is known stands in its section, what is not is a gap with a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from standin import stand_in

from evenhand.engine.fake import FakeEngine
from evenhand.engine.models import bundled
from evenhand.judge import BaseJudge, Calibration, Judge, MajorityJudge, PanelJudge, RemoteJudge
from evenhand.judge.card import Card, Entry, Figure, NamedGap, make_card, recorded_facts
from evenhand.judge.cost import measure
from evenhand.judge.evidence import Evidence, Record, shipped
from evenhand.judge.facts import About, Facts, facts_of, keep_facts
from evenhand.judge.probes import PROBES, Pair, probe
from evenhand.judge.validation import validate
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.validation import Gold, GoldRow

QOS, XSTEST = Taxonomy.load("qos"), Taxonomy.load("xstest")
PAIRS = [Pair(f"pair {i}", f"question {i}", f"answer {i}") for i in range(3)]
ABOUT = About(**dict.fromkeys(About.model_fields, "As it was."))


def open_judge(**options: Any) -> Judge:
    return Judge(FakeEngine(name="made up"), **options)


@pytest.fixture
def judge() -> Iterator[Judge]:
    with open_judge() as judge:
        yield judge


def record(kind: Any, judge: BaseJudge, document: Any, name: str = "x", **more: Any) -> Record:
    given = {"fingerprint": judge.fingerprint, "created": 1.0, "evenhand": "0", **more}
    return Record(kind=kind, name=name, document=json.loads(json.dumps(document)), **given)


def gold(taxonomy: Taxonomy = QOS, *, annotators: int = 2, grouped: bool = True) -> Gold:
    rows = tuple(
        GoldRow(
            where=f"line {i}",
            prompt=f"prompt {i}",
            response="text",
            label=i % len(taxonomy.labels),
            unit=f"prompt {i}",
            model="ab"[i % 2] if grouped else None,
            group="AB"[i // 2 % 2] if grouped else None,
            annotators=(i % len(taxonomy.labels),) * annotators,
        )
        for i in range(24)
    )
    names = tuple(f"person {i}" for i in range(annotators))
    return Gold("made up", "0" * 64, taxonomy, rows, annotators=names)


def validation(judge: BaseJudge, rows: Gold, **more: Any) -> Record:
    document = validate(judge, rows, draws=20, permutations=20).model_dump(mode="json")
    return record("validation", judge, document, rows.name, **more)


def probes(judge: BaseJudge, kinds: Sequence[str]) -> list[Record]:
    return [
        record(
            "probes",
            judge,
            {"source": "ours", "report": report.model_dump(mode="json")},
            report.kind,
        )
        for report in probe(judge, PAIRS, kinds)
    ]


def cost(judge: BaseJudge) -> Record:
    document = {"model_sha256": judge.model_sha256, **measure(judge, PAIRS).model_dump()}
    return record("cost", judge, document)


def gaps(card: Card) -> list[str]:
    return [gap.name for gap in card.gaps]


def entries(card: Card, name: str) -> list[Entry]:
    return [entry for section in card.sections for entry in section.entries if entry.name == name]


def words(card: Card, name: str) -> str:
    return "\n".join(line for entry in entries(card, name) for line in entry.text)


def test_there_are_five_sections_in_order(judge: Judge) -> None:
    card = make_card(facts_of(judge), [])
    assert [section.title for section in card.sections] == [
        "Context", "Evaluation Criteria", "LLJ Pipeline", "LLJ Evaluation", "LLJ Prototyping",
    ]  # fmt: skip
    assert Card.model_validate_json(card.model_dump_json()) == card


def test_what_nobody_measured_or_said_is_a_gap(judge: Judge) -> None:
    bare = facts_of(judge).model_copy(update={"about": About()})
    assert gaps(make_card(bare, [])) == [
        "no_intended_use",
        "no_stated_limits",
        "uncalibrated_probabilities",
        "no_validity_evidence",
        "no_reliability_evidence",
        "no_cost",
        "no_prompt_authors",
        "no_development_data",
        "no_prompt_history",
        "no_prompt_freeze",
        "no_model_history",
    ]
    for gap in make_card(bare, []).gaps:
        assert gap.means.endswith(".")
        assert gap.hint


def test_a_card_of_all_there_is_has_no_gap() -> None:
    scale = dict.fromkeys(QOS.labels, 2.0)
    fitted = Calibration(
        method="temperature",
        scale=scale,
        bias=dict.fromkeys(QOS.labels, 0.0),
        fitted_on="rows of ours",
        rows=7,
    )
    with open_judge(calibration=fitted) as judge:
        records = [
            validation(judge, gold()),
            *probes(judge, list(PROBES)),
            cost(judge),
            record("about", judge, ABOUT.model_dump()),
        ]
        card = make_card(facts_of(judge), records)
    assert gaps(card) == []
    assert "rows of ours (7 rows)" in words(card, "calibration")
    for name in About.model_fields:
        assert words(card, name) == "As it was."
        assert [entry.source for entry in entries(card, name)] == ["stated"]
    (agreement,) = entries(card, "agreement")
    assert (agreement.source, agreement.since) == ("measured", 1.0)
    captions = [table.caption for table in agreement.tables]
    assert captions[:3] == ["Agreement with people's labels", "By model", "By group"]
    document = records[0].document["raters"]
    kappa = agreement.tables[0].rows[0][2]
    assert isinstance(kappa, Figure)
    assert kappa.model_dump() == document[0]["agreement"]["kappa"]
    assert [row[0] for row in agreement.tables[0].rows] == [
        f"{rater['name']} ({rater['kind']})" for rater in document
    ]
    (found,) = entries(card, "probes")
    assert {row[0] for row in found.tables[0].rows} == set(PROBES)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (gold(XSTEST), "labels_not_validated"),
        (gold(annotators=1), "no_human_agreement"),
        (gold(annotators=0), "no_human_agreement"),
        (gold(grouped=False), "no_agreement_by_group"),
        (gold(grouped=False), "no_agreement_by_model"),
    ],
)
def test_what_a_validation_lacks_is_a_gap(judge: Judge, rows: Gold, expected: str) -> None:
    found = gaps(make_card(facts_of(judge), [validation(judge, rows)]))
    assert expected in found
    assert "no_validity_evidence" not in found
    complete = gaps(make_card(facts_of(judge), [validation(judge, gold())]))
    assert expected not in complete


def test_what_was_not_probed_is_named(judge: Judge) -> None:
    card = make_card(facts_of(judge), probes(judge, ["repeat", "reason"]))
    (gap,) = [gap for gap in card.gaps if gap.name == "probes_not_run"]
    missing = [kind for kind in PROBES if kind not in ("repeat", "reason")]
    assert gap.means == f"Not probed: {', '.join(missing)}."
    assert gap.hint.startswith(f"evenhand probe {' '.join(missing)},")


def test_a_probe_that_does_not_apply_has_no_figures() -> None:
    with MajorityJudge() as judge:
        (entry,) = entries(make_card(facts_of(judge), probes(judge, ["reason"])), "probes")
    (row,) = entry.tables[0].rows
    assert row[2:5] == ("does not apply", None, None)
    assert row[5]


def test_records_of_another_fingerprint_are_counted_and_not_shown(judge: Judge) -> None:
    of_another = validation(judge, gold(), fingerprint="e" * 64)
    elsewhere = of_another.document | {"model_sha256": "9" * 64}
    for document, told in ((of_another.document, True), (elsewhere, False)):
        other = of_another.model_copy(update={"document": document})
        card = make_card(facts_of(judge), [other])
        assert entries(card, "agreement") == []
        (gap,) = [gap for gap in card.gaps if gap.name == "no_validity_evidence"]
        assert ("1 record was made of the same model file" in gap.means) is told


def test_of_two_records_about_the_same_the_newer_counts(judge: Judge) -> None:
    old = validation(judge, gold())
    new = old.model_copy(update={"created": 2.0})
    for records in ([old, new], [new, old]):
        (entry,) = entries(make_card(facts_of(judge), records), "agreement")
        assert entry.since == 2.0


def test_what_its_user_says_goes_over_what_ships(judge: Judge) -> None:
    facts = facts_of(judge)
    assert facts.about.prompt_written_by
    said = record("about", judge, {"prompt_written_by": "Somebody else."})
    card = make_card(facts, [said])
    assert words(card, "prompt_written_by") == "Somebody else."
    assert words(card, "prompt_history") == facts.about.prompt_history


def test_the_prompt_stands_as_it_is_read(judge: Judge) -> None:
    (entry,) = entries(make_card(facts_of(judge), []), "prompt")
    assert judge.template.sha256 in entry.text[0]
    assert "<response>\n{{ response }}\n</response>" in (entry.verbatim or "")
    assert "6 of the 6 definitions" in words(make_card(facts_of(judge), []), "taxonomy")


def test_a_server_is_not_pinned() -> None:
    with stand_in() as server, RemoteJudge(server.url, "m") as judge:
        found = gaps(make_card(facts_of(judge), []))
    assert {"model_unpinned", "decoding_unpinned"} <= set(found)


def test_a_baseline_has_no_prompt_to_ask_about() -> None:
    with MajorityJudge() as judge:
        card = make_card(facts_of(judge), [])
    assert card.sections[4].gaps == ()
    assert entries(card, "prompt") == []
    assert "uncalibrated_probabilities" not in gaps(card)


def test_a_panel_has_the_cards_of_its_members() -> None:
    members = [open_judge(), open_judge(template="compact")]
    with PanelJudge(members) as panel:
        facts = facts_of(panel)
        records = [validation(panel, gold()), validation(members[1], gold(XSTEST))]
        card = make_card(facts, records)
    found = [one.fingerprint for one in (facts, *facts.members)]
    assert found == [j.fingerprint for j in (panel, *members)]
    assert [member.fingerprint for member in card.members] == [m.fingerprint for m in members]
    first, second = card.members
    assert "no_validity_evidence" in gaps(first)
    assert "no_validity_evidence" not in gaps(second)
    assert [len(entries(c, "agreement")) for c in (card, first, second)] == [1, 0, 1]
    (of_panel,), (alone,) = entries(card, "agreement"), entries(second, "agreement")
    (pairs,) = (table for table in of_panel.tables if "two by two" in table.caption)
    assert [row[:2] for row in pairs.rows] == [tuple(panel.member_names)]
    assert not any("two by two" in table.caption for table in alone.tables)


def test_facts_that_were_kept_make_the_same_card(judge: Judge, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    keep_facts(judge, evidence)
    kept = evidence.load(judge.fingerprint)
    facts = recorded_facts(judge.name, judge.fingerprint, judge.taxonomy, kept)
    assert facts == facts_of(judge)
    assert make_card(facts, kept) == make_card(facts_of(judge), [])


def test_of_a_judge_that_was_not_kept_the_card_says_so() -> None:
    facts = recorded_facts("gone", "a" * 64, QOS, [])
    card = make_card(facts, [])
    assert facts.kind == "unknown"
    assert {"no_model_hash", "no_prompt_recorded", "decoding_unpinned"} <= set(gaps(card))
    assert entries(card, "decoding") == entries(card, "prompt") == []


def test_gaps_have_names_that_programs_can_use() -> None:
    nothing = Facts(judge="j", kind="unknown", fingerprint="a" * 64, taxonomy=QOS)
    found: tuple[NamedGap, ...] = make_card(nothing, []).gaps
    assert len({gap.name for gap in found}) == len(found)
    assert all(gap.name.isidentifier() and gap.name.islower() for gap in found)


@pytest.mark.parametrize("text", ["colour = 'blue'", "intended_use = 1", "intended_use = ''", "["])
def test_a_file_about_a_judge_is_read_strictly(tmp_path: Path, text: str) -> None:
    path = tmp_path / "about.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as error:
        About.load(path)
    assert "prompt_history" in error.value.hint


def test_words_beside_a_template_of_ones_own_are_found(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text("{% block user %}{{ prompt }} {{ response }}{% endblock %}")
    (tmp_path / "own.toml").write_text('prompt_history = "Three versions."')
    with open_judge(template=str(tmp_path / "own.j2")) as judge:
        facts = facts_of(judge)
        assert facts.about == About(prompt_history="Three versions.")
        assert str(tmp_path) not in make_card(facts, []).model_dump_json()


def test_cost_is_told_for_a_thousand_verdicts(judge: Judge) -> None:
    document = {"rows": 50, "judged": 49, "seconds": 2.0, "tokens": 1234.4, "cores": 4,
                "load": 2.0}  # fmt: skip
    text = words(make_card(facts_of(judge), [record("cost", judge, document)]), "cost")
    assert "40.0 seconds, from 50 pairs" in text
    assert "(49 of them got a label) on 4 cores, with 2.0 processes at work" in text
    assert "1,234 tokens" in text
    measured = measure(judge, PAIRS)
    assert (measured.rows, measured.judged) == (3, 3)
    lengths = [judge.prompt_tokens(pair.prompt, pair.response) or 0 for pair in PAIRS]
    assert measured.tokens == pytest.approx(sum(lengths) / 3)


def test_a_judge_that_reads_no_tokens_tells_none() -> None:
    with MajorityJudge() as judge:
        assert measure(judge, PAIRS).tokens is None


def test_what_ships_is_of_the_model_that_ships_and_holds_no_texts() -> None:
    if "judge" not in bundled():
        pytest.skip("no bundled judge in this copy")
    records = shipped()
    assert {record.kind for record in records} == {"validation", "probes", "cost", "facts"}
    assert len({record.fingerprint for record in records}) == 1
    digest = hashlib.sha256(bundled()["judge"].read_bytes()).hexdigest()
    found = {record.document["model_sha256"] for record in records}
    assert found == {digest}, "measure again: make evidence GOLD=..."
    for record in records:
        if record.kind == "probes":
            assert record.document["report"]["flipped"] == []
