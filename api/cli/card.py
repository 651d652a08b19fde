"""`evenhand card`: what is known of a judge in five sections, and by name what is not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from evenhand.judge.base import BaseJudge
    from evenhand.judge.card import Card
    from evenhand.judge.evidence import Evidence


class Format(StrEnum):
    """How a card is written."""

    MD = "md"
    HTML = "html"
    JSON = "json"


def card(
    format: Annotated[
        Format, typer.Option("--format", "-f", rich_help_panel=options.OUTPUT_PANEL)
    ] = Format.MD,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file instead of stdout.",
            rich_help_panel=options.OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    about: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with what nobody can measure (intended_use, prompt_history, ...); "
            "kept for this judge.",
            show_default=False,
        ),
    ] = None,
    time: Annotated[
        bool,
        typer.Option("--time", help="Judge the 36 pairs that ship, and keep what that cost."),
    ] = False,
    model: options.JudgeModel = None,
    taxonomy: options.Taxonomy = None,
    judge_template: options.JudgeTemplate = None,
    calibration: options.Calibration = None,
    json: options.Json = False,
) -> None:
    """Write the card of a judge: what was measured and recorded, and the gaps by name.

    `validate` and `probe` measure; the card finds what they kept under the judge's fingerprint.
    """
    from evenhand.api.cards import card_of
    from evenhand.api.cli import wiring
    from evenhand.judge.evidence import kept_in
    from evenhand.judge.facts import About, keep_facts

    said = None if about is None else About.load(about)
    with wiring.opened(
        "judge",
        verdict_cache=0,  # what is remembered costs nothing
        judge=model,
        taxonomy=taxonomy,
        judge_template=judge_template,
        calibration=calibration,
    ) as services:
        judge, folder = services.judge(), services.settings.data_dir
        evidence = kept_in(folder)
        keep_facts(judge, evidence)
        if said is not None:
            evidence.save("about", judge.fingerprint, "makers", said.model_dump(exclude_none=True))
        if time:
            _time(judge, evidence)
        found = card_of(judge, folder)
    _write(_text(found, Format.JSON if json else format), output)


def _time(judge: BaseJudge, evidence: Evidence) -> None:
    from evenhand.api.cli.console import status
    from evenhand.judge.cost import measure
    from evenhand.judge.probes import shipped_pairs

    with status("judging the pairs that ship"):
        cost = measure(judge, shipped_pairs())
    document = {"judge": judge.name, "model_sha256": judge.model_sha256, **cost.model_dump()}
    evidence.save("cost", judge.fingerprint, "shipped pairs", document)


def _text(card: Card, format: Format) -> str:
    from evenhand.audit.judge_card import markdown, page

    match format:
        case Format.JSON:
            return card.model_dump_json(indent=2) + "\n"
        case Format.HTML:
            return page(card)
        case Format.MD:
            return markdown(card)


def _write(text: str, output: Path | None) -> None:
    import sys

    from evenhand.schemas.errors import StoreError

    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise StoreError(
            f"{str(output)!r} cannot be written: {exc.strerror or exc}",
            hint="Choose a place that this user may write to, on a disk with room.",
        ) from exc
