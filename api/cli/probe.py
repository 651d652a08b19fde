"""`evenhand probe`: how often a judge changes its verdict where nothing that matters changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenhand.api.services import Services
    from evenhand.judge.base import BaseJudge
    from evenhand.judge.probes import Pair, Reopen, Report
    from evenhand.prompts import Template
    from evenhand.schemas.taxonomy import Taxonomy

_FILE = "A file of rows"
_SHOWN = 5


def probe(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND]...",
            help="repeat, label-order, paraphrase, names, padding, style, language, typos, "
            "injection, reason. Left out: all of them.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            help="CSV, TSV, JSON Lines or Parquet to probe on, instead of the 36 pairs that ship.",
            rich_help_panel=_FILE,
        ),
    ] = None,
    prompt_column: Annotated[
        str, typer.Option(help="Column, or path such as doc.question.", rich_help_panel=_FILE)
    ] = "prompt",
    response_column: Annotated[
        str, typer.Option(help="Column, or path such as resps.0.0.", rich_help_panel=_FILE)
    ] = "response",
    name_column: Annotated[
        str,
        typer.Option(
            help="First name in the row, if there is such a column; else the built-in names are "
            "looked for.",
            rich_help_panel=_FILE,
        ),
    ] = "name",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="So many pairs at most, spread over the file. Not kept."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and pairs: same variants.")] = 0,
    show: Annotated[
        int, typer.Option(min=0, help="How many flipped pairs to print for each probe.")
    ] = 3,
    save: Annotated[
        bool,
        typer.Option("--save/--no-save", help="Keep what was found, for the judge card."),
    ] = True,
    model: options.JudgeModel = None,
    taxonomy: options.Taxonomy = None,
    judge_template: options.JudgeTemplate = None,
    json: options.Json = False,
) -> None:
    """Probe a judge: changes that must not change a verdict, and how often they do.

    Exit code 1 when the judge labelled none of the pairs.
    """
    import time

    from evenhand.api.cli import wiring
    from evenhand.api.cli.steps import Steps
    from evenhand.judge.probes import PROBES, digest, shipped_pairs
    from evenhand.judge.probes import probe as run

    left_out: list[str] = []
    pairs: Sequence[Pair] = shipped_pairs()
    if file is not None:
        pairs, left_out = _read(file, prompt_column, response_column, name_column)
        _tell(len(pairs), left_out)
    if limit is not None:
        pairs = [pairs[i * len(pairs) // limit] for i in range(limit)][: len(pairs)]
    started = time.monotonic()
    # A remembered verdict would always agree with itself.
    chosen = {"judge": model, "taxonomy": taxonomy, "judge_template": judge_template}
    with wiring.opened("judge", verdict_cache=0, **chosen) as services:
        judge = services.judge()
        with Steps() as steps:
            reports = list(
                run(
                    judge,
                    pairs,
                    kinds or tuple(PROBES),
                    seed=seed,
                    reopen=_reopen(services, judge),
                    on_progress=steps.show,
                )
            )
        data_dir = services.settings.data_dir
    template = getattr(judge, "template", None)
    about = {
        "judge": judge.name,
        "model_sha256": judge.model_sha256,
        "fingerprint": judge.fingerprint,
        "taxonomy": judge.taxonomy.name,
        "taxonomy_version": judge.taxonomy.version,
        "template": template.name if template is not None else None,
        "source": Path(file).name if file is not None else "shipped pairs",
        "pairs_sha256": digest(pairs),
        "pairs": len(pairs),
        "rows_left_out": len(left_out),
        "seed": seed,
    }
    folder = None
    if save and limit is None:
        folder = _save(data_dir, judge, reports, about, file)
    _report(reports, judge, about, time.monotonic() - started, folder, show=show, as_json=json)
    if all(sum(r.originals_unjudged.values()) == len(pairs) for r in reports):
        raise typer.Exit(1)


def _read(
    file: str, prompt_column: str, response_column: str, name_column: str
) -> tuple[list[Pair], list[str]]:
    """The rows that have both texts, and what is wrong with each of the others."""
    from evenhand.audit.datasets import open_rows
    from evenhand.judge.probes import Pair
    from evenhand.schemas.errors import DatasetError

    pairs, problems = [], []
    with open_rows(file, (prompt_column, response_column)) as rows:
        for row in rows:
            try:
                prompt, response = row.text_of(prompt_column), row.text_of(response_column)
            except DatasetError as exc:
                problems.append(str(exc))
                continue
            name = row.get(name_column) if row.has(name_column) else None
            name = name if isinstance(name, str) and name.strip() else None
            pairs.append(Pair(row.where, prompt, response, name=name))
    if not pairs:
        raise DatasetError(
            f"no row of {Path(file).name!r} has a prompt and a response: {problems[0]}",
            hint="Mend the rows, or name the columns.",
        )
    return pairs, problems


def _tell(count: int, problems: list[str]) -> None:
    from evenhand.api.cli.console import stderr

    stderr().print(f"{count:,} rows read", style="dim")
    if problems:
        first = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        stderr().print(f"note: {len(problems):,} left out: {first}", style="dim", soft_wrap=True)


def _reopen(services: Services, judge: BaseJudge) -> Reopen:
    """Opens the judge of the settings with another template or order of labels, on its engine.

    The calibration stays: with another one, a flip could be the calibration's.
    """
    from evenhand.judge.open import open_judge

    settings = services.settings
    secret = settings.judge_api_key

    def reopen(taxonomy: Taxonomy, template: Template) -> BaseJudge:
        return open_judge(
            settings.judge,
            taxonomy,
            engine_opener=lambda reference: services.engine(reference, "judge"),
            share_engine=True,
            template=template,
            calibration=judge.calibration,
            abstain_below=settings.abstain_below,
            api_key=secret.get_secret_value() if secret else None,
            timeout=settings.request_timeout,
        )

    return reopen


def _save(
    data_dir: Path,
    judge: BaseJudge,
    reports: Sequence[Report],
    about: dict[str, Any],
    file: str | None,
) -> Path:
    """Keep each probe under its kind and, for a file, that file's name. Returns the folder."""
    from evenhand.judge.evidence import kept_in

    evidence = kept_in(data_dir)
    for report in reports:
        name = report.kind if file is None else f"{report.kind} on {Path(file).name}"
        path = evidence.save(
            "probes", judge.fingerprint, name, {**about, "report": report.model_dump(mode="json")}
        )
    return path.parent


def _report(
    reports: Sequence[Report],
    judge: BaseJudge,
    about: dict[str, Any],
    seconds: float,
    folder: Path | None,
    *,
    show: int,
    as_json: bool,
) -> None:
    from evenhand.api.cli import console, panels, probes

    if as_json:
        console.emit(
            {
                **about,
                "seconds": round(seconds, 3),
                "kept_in": None if folder is None else str(folder),
                "probes": [report.model_dump(mode="json") for report in reports],
            }
        )
        return
    out = console.stdout()
    probes.show(out, reports, judge.taxonomy, flips=show)
    facts = f"{about['pairs']:,} pairs ({about['source']}) in {panels.seconds(seconds)}"
    out.print(f"{facts}, by {judge.name}", style="dim", soft_wrap=True)
    if folder is not None:
        out.print(f"kept in {folder}", style="dim", soft_wrap=True)
