"""A judge's card as Markdown, as one HTML page that needs no network, and as a part of a page.

Knows how a card looks. What it says comes from `judge/card.py`. Text by people and files is
escaped, and the page holds no script and forbids itself any.
"""

from __future__ import annotations

import re
import time
from typing import Any

import jinja2
from markupsafe import Markup

from evenhand.audit.page import environment, style
from evenhand.audit.store import Store
from evenhand.audit.summary import Summary
from evenhand.judge.card import CITATION, Card, Cell, Figure, make_card, recorded_facts
from evenhand.judge.evidence import known
from evenhand.schemas.taxonomy import Taxonomy

_SPECIAL = re.compile(r"([\\|*<>`\[\]#~])")


def cards(store: Store, summary: Summary) -> dict[str, Card]:
    """The card of each judge that an audit used, by the judge's name in the plan.

    Made of what was kept beside the audits and what ships. A judge that was not opened yet has
    none. Raises `StoreError` for records that cannot be read.
    """
    records = known(store.folder)
    taxonomy = Taxonomy.load(summary.plan.taxonomy)
    found = {}
    for one in summary.judges:
        fingerprint = summary.fingerprints.get(f"judge {one.judge}")
        if fingerprint is None:
            continue
        facts = recorded_facts(one.judge, fingerprint, taxonomy, records)
        found[one.judge] = make_card(facts, records)
    return found


def markdown(card: Card) -> str:
    """The card as Markdown, with tables as GitHub draws them."""
    return _environment(escape=False).get_template("card.md.j2").render(
        card=card, citation=CITATION
    )  # fmt: skip


def page(card: Card) -> str:
    """The card as one page of HTML."""
    return _environment().get_template("card.html.j2").render(
        card=card,
        citation=CITATION,
        body=body(card),
        **style(),
    )  # fmt: skip


def body(card: Card, level: int = 2) -> Markup:
    """The five sections as HTML, with headings from this level on (2 to 4)."""
    return Markup(_environment().get_template("card_body.html.j2").render(card=card, level=level))


def _environment(*, escape: bool = True) -> jinja2.Environment:
    found = environment(escape=escape)
    found.filters.update(cell=_cell, day=_day, md=_escaped, fence=_fence)
    found.tests["numeric"] = _numeric
    return found


def _cell(value: Cell) -> str:
    if isinstance(value, Figure):
        if value.value is None:
            return "unknown"
        ends = ""
        if value.low is not None and value.high is not None:
            ends = f" ({value.low:.3f} to {value.high:.3f})"
        return f"{value.value:.3f}{ends}".replace("-", "−")
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else value


def _numeric(value: Any) -> bool:
    return isinstance(value, Figure | int | float)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def _escaped(text: str) -> str:
    """Plain text on one line of Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _fence(text: str) -> str:
    """A fence that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"~+", text)), default=0)
    return "~" * max(3, longest + 1)
