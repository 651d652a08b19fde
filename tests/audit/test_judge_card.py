"""How a card looks: Markdown and HTML that no text inside can break, alone and in a report."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from evenhand.audit.judge_card import cards, markdown, page
from evenhand.audit.report import render
from evenhand.audit.store import Store
from evenhand.audit.summary import summarise
from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge, PanelJudge
from evenhand.judge.card import Card, Entry, Figure, NamedGap, Section, Table, make_card
from evenhand.judge.evidence import Evidence
from evenhand.judge.facts import facts_of, keep_facts

NASTY = "<script>alert('|')</script>\n~~~\n# head"


def small(text: str = NASTY) -> Card:
    cells = (text, Figure(value=-0.25, low=-0.5, high=0.0), Figure(value=None), None, 1_000, 0.5)
    table = Table(caption=text, columns=tuple("abcdef"), rows=(cells,))
    entry = Entry(name="e", title=text, source="measured", since=0.0, text=(text,), tables=(table,),
                  verbatim=text)  # fmt: skip
    section = Section(name="s", title="Section", entries=(entry,),
                      gaps=(NamedGap(name="no_thing", means=text, hint=text),))  # fmt: skip
    return Card(judge=text, fingerprint="f" * 64, model_sha256=None, taxonomy="qos",
                taxonomy_version="1", evenhand="0", sections=(section,))  # fmt: skip


def test_text_in_html_stays_text() -> None:
    found = page(small())
    assert "<script" not in found
    assert found.count(html.escape("<script>alert('|')</script>", quote=False)[:14]) >= 6
    assert "default-src 'none'" in found


def test_text_in_markdown_stays_text() -> None:
    lines = markdown(small()).splitlines()
    open_at = lines.index("~~~~text")
    shut_at = lines.index("~~~~")
    assert "\n".join(lines[open_at + 1 : shut_at]) == NASTY
    rest = lines[:open_at] + lines[shut_at:]
    assert not [line for line in rest if re.search(r"(?<!\\)<script", line)]
    (row,) = [line for line in rest if "1,000" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "−0.250 (−0.500 to 0.000)" in row
    assert "unknown" in row


def test_every_entry_and_gap_is_in_both() -> None:
    with Judge(FakeEngine()) as one, Judge(FakeEngine(), template="compact") as two:
        card = make_card(facts_of(PanelJudge([one, two])), [])
    text, plain = page(card), markdown(card)
    for each in (card, *card.members):
        assert html.escape(each.judge) in text
        for section in each.sections:
            assert f"# {section.title}" in plain
            for entry in section.entries:
                assert html.escape(entry.title) in text
            for gap in section.gaps:
                assert f"<code>{gap.name}</code>" in text
                assert f"- `{gap.name}`: " in plain


@pytest.mark.parametrize("kept", [True, False])
def test_a_report_shows_the_card_of_its_judge(
    store: Store, fill: Any, names_plan: dict[str, Any], kept: bool
) -> None:
    with Judge(FakeEngine(name="fake:j")) as judge:
        evidence = Evidence(store.folder / "judges")
        evidence.save("validation", "0" * 64, "x", {"model_sha256": judge.model_sha256})
        if kept:
            keep_facts(judge, evidence)
        audit = fill(
            names_plan, lambda *_: "refusal", fingerprints={"judge fake:j": judge.fingerprint}
        )
    (card,) = cards(store, summarise(store, audit.id)).values()
    assert card.fingerprint == judge.fingerprint
    names = {gap.name for gap in card.gaps}
    assert "no_validity_evidence" in names
    (gap,) = (gap for gap in card.gaps if gap.name == "no_validity_evidence")
    assert ("1 record was made of the same model file" in gap.means) is kept
    assert ("no_prompt_recorded" in names) is not kept
    text = render(store, audit.id)
    assert 'href="#cards"' in text
    assert 'id="cards"' in text
    assert "<code>no_validity_evidence</code>" in text
    assert (judge.template.sha256 in text) is kept
