"""`evenhand validate`: measure a judge on responses that people have labelled."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from evenhand.judge.base import BaseJudge
    from evenhand.judge.validation import Validation
    from evenhand.schemas.validation import Gold, ValidationOptions
    from evenhand.schemas.verdict import Verdict

_COLUMNS = "Columns (or paths such as doc.question)"
_LABELS = "Labels"
_ASKED = "What is asked"


class Fit(StrEnum):
    """Kinds of calibration that can be fitted."""

    TEMPERATURE = "temperature"
    VECTOR = "vector"


def validate(
    gold: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV, JSON Lines or Parquet: prompt, response and label in each row.",
            metavar="GOLD",
            show_default=False,
        ),
    ],
    prompt_column: Annotated[str, typer.Option(rich_help_panel=_COLUMNS)] = "prompt",
    response_column: Annotated[str, typer.Option(rich_help_panel=_COLUMNS)] = "response",
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Left out: label, gold, or the majority of the annotators.",
            rich_help_panel=_COLUMNS,
            show_default=False,
        ),
    ] = None,
    annotator: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels by one person; give it once for each. Left out: columns such as "
            "annotation_1 or annotator 2.",
            rich_help_panel=_COLUMNS,
            show_default=False,
        ),
    ] = None,
    rater: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels by another judge, to set beside this one; once for each.",
            rich_help_panel=_COLUMNS,
            show_default=False,
        ),
    ] = None,
    model_column: Annotated[
        str | None,
        typer.Option(
            help="What responded. Left out: model.", rich_help_panel=_COLUMNS, show_default=False
        ),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            help="The group that a row is about. Left out: group.",
            rich_help_panel=_COLUMNS,
            show_default=False,
        ),
    ] = None,
    unit_column: Annotated[
        str | None,
        typer.Option(
            help="Rows of one value are not independent. Left out: name where there are groups, "
            "else the prompt.",
            rich_help_panel=_COLUMNS,
            show_default=False,
        ),
    ] = None,
    gold_taxonomy: Annotated[
        str | None,
        typer.Option(
            help="What the labels are of: the judge's taxonomy, or one that it has a crosswalk to. "
            "Left out, it is found out.",
            rich_help_panel=_LABELS,
            show_default=False,
        ),
    ] = None,
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            help="What a text stands for: RAW=LABEL, or a TOML or JSON file of such pairs.",
            rich_help_panel=_LABELS,
            show_default=False,
        ),
    ] = None,
    target_agreement: Annotated[
        float | None,
        typer.Option(
            help="Find the confidence from which on the judge agrees with people so often, as 0.9.",
            rich_help_panel=_ASKED,
            show_default=False,
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="The chance that it does not.", rich_help_panel=_ASKED)
    ] = 0.1,
    epsilon: Annotated[
        float,
        typer.Option(
            help="How much worse than a person the judge may be in the alternative annotator test.",
            rich_help_panel=_ASKED,
        ),
    ] = 0.2,
    budget: Annotated[
        float | None,
        typer.Option(
            help="How many labels make an interval of this width, as 0.05.",
            rich_help_panel=_ASKED,
            show_default=False,
        ),
    ] = None,
    budget_rows: Annotated[
        int | None,
        typer.Option(
            help="Responses of the audit that the labels are for. Left out: as many as in GOLD.",
            rich_help_panel=_ASKED,
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="Fit a calibration by cross-validation, to labels of the judge's own taxonomy.",
            rich_help_panel=_ASKED,
            show_default=False,
        ),
    ] = None,
    save_calibration: Annotated[
        Path | None,
        typer.Option(
            help="Where the fitted calibration goes; --calibration (EVENHAND_CALIBRATION) takes "
            "it.",
            rich_help_panel=options.OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write everything as one page of HTML.",
            rich_help_panel=options.OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the figures, as SVG, PNG and CSV.",
            rich_help_panel=options.OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What the report is kept as. Left out: the file's name.",
            rich_help_panel=options.OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save/--no-save",
            help="Keep the report in EVENHAND_DATA_DIR, for the judge's card.",
            rich_help_panel=options.OUTPUT_PANEL,
        ),
    ] = True,
    model: options.JudgeModel = None,
    taxonomy: options.Taxonomy = None,
    judge_template: options.JudgeTemplate = None,
    calibration: options.Calibration = None,
    json: options.Json = False,
) -> None:
    """Measure a judge on responses that people have labelled.

    How far it agrees with them, beside the baselines; whether it errs differently between models
    or groups; how far its probabilities can be believed. Labels may be of a taxonomy that the
    judge's folds onto (xstest for qos). Intervals count prompts, or names, not rows.

    Exit code 1 when nothing could be judged.
    """
    from evenhand.api.cli import console, wiring
    from evenhand.api.cli.validation import show
    from evenhand.api.services import Services
    from evenhand.api.settings import Settings
    from evenhand.audit.gold import read_gold, read_label_map
    from evenhand.judge.evidence import kept_in
    from evenhand.judge.validation import assess, check_fit
    from evenhand.schemas.errors import InvalidInput

    if save_calibration is not None and fit is None:
        raise InvalidInput(
            "there is no calibration to save", hint="Fit one: --fit temperature, or --fit vector."
        )
    asked = _options(
        name=name,
        gold_taxonomy=gold_taxonomy,
        columns={
            "prompt": prompt_column,
            "response": response_column,
            "label": label_column,
            "annotators": annotator or None,
            "raters": rater or (),
            "model": model_column,
            "group": group_column,
            "unit": unit_column,
        },
        label_map=read_label_map(label_map or ()),
        target_agreement=target_agreement,
        delta=delta,
        epsilon=epsilon,
        budget=budget,
        budget_rows=budget_rows,
        fit=None if fit is None else fit.value,
    )
    judges: dict[str, Any] = {
        "judge": model,
        "taxonomy": taxonomy,
        "judge_template": judge_template,
        "calibration": calibration,
    }
    # What is wrong with the file is found before a model is loaded.
    known = Services(Settings.load(**judges))
    rows = read_gold(
        gold,
        known.taxonomy(),
        asked.columns,
        known=known.taxonomies(),
        taxonomy=asked.gold_taxonomy,
        label_map=asked.label_map,
    )
    check_fit(known.taxonomy(), rows, asked)
    with wiring.opened("judge", **judges) as services:
        judge = services.judge()
        evidence = kept_in(services.settings.data_dir)
        verdicts = _judge(judge, rows)
        with console.status("drawing resamples for the intervals"):
            document = assess(judge, rows, verdicts, asked)
    kept = None
    if save and document.raters[0].labelled:
        kept = evidence.save(
            "validation", document.fingerprint, document.name, document.model_dump(mode="json")
        )
    _write(document, save_calibration, html, plots)
    if json:
        console.emit(document)
    else:
        show(console.stdout(), document)
        for what, path in (
            ("calibration", save_calibration),
            ("page", html),
            ("figures", plots),
            ("kept", kept),
        ):
            if path is not None:
                console.stdout().print(f"{what}: {path}", style="dim", soft_wrap=True)
    if not document.raters[0].labelled:
        raise typer.Exit(1)


def _options(**given: Any) -> ValidationOptions:
    from pydantic import ValidationError

    from evenhand.schemas.errors import InvalidInput
    from evenhand.schemas.taxonomy import describe
    from evenhand.schemas.validation import ValidationOptions

    try:
        return ValidationOptions.model_validate(given)
    except ValidationError as exc:
        raise InvalidInput(f"bad option: {describe(exc)}", hint="See --help.") from exc


def _judge(judge: BaseJudge, gold: Gold) -> list[Verdict]:
    """The verdicts, with a bar while they come."""
    from evenhand.api.cli.judge_file import Tally
    from evenhand.api.cli.progress import Progress

    tally = Tally()
    verdicts = []
    with Progress(len(gold.rows), judge.taxonomy) as progress:
        for verdict in judge.judge_many((row.prompt, row.response) for row in gold.rows):
            verdicts.append(verdict)
            tally.rows += 1
            tally.statuses[verdict.status.value] += 1
            if verdict.label is not None:
                tally.labels[verdict.label] += 1
            progress.show(tally.rows, tally)
    return verdicts


def _write(
    document: Validation, calibration: Path | None, html: Path | None, plots: Path | None
) -> None:
    """The files that were asked for. Raises `StoreError`."""
    from evenhand.schemas.errors import StoreError

    try:
        if calibration is not None and document.fitted is not None:
            fitted = document.fitted.calibration.model_dump_json(indent=1)
            calibration.write_text(fitted, encoding="utf-8")
        if html is not None or plots is not None:
            from evenhand.audit.validation_report import render, write_figures

            if html is not None:
                html.write_text(render(document), encoding="utf-8")
            if plots is not None:
                write_figures(document, plots)
    except OSError as exc:
        raise StoreError(
            f"{exc.filename!r} cannot be written: {exc.strerror or exc}",
            hint="Choose a place that this user may write to, on a disk with room.",
        ) from exc
