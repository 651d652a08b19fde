"""The cards of judges, as the service and the command line make them.

Knows where evidence is kept and what ships. It opens no model.
"""

from __future__ import annotations

from pathlib import Path

from evenhand.judge.base import BaseJudge
from evenhand.judge.card import Card, make_card
from evenhand.judge.evidence import known
from evenhand.judge.facts import facts_of


def card_of(judge: BaseJudge, data_dir: Path) -> Card:
    """The card of an open judge, from what was measured here and what ships.

    Raises `StoreError` for a folder of evidence that cannot be read.
    """
    return make_card(facts_of(judge), known(data_dir))
