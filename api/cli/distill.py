"""`evenhand distill`: train a small judge on labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from evenhand.audit.rows import Row as FileRow
    from evenhand.training.rows import Row

_SHOWN = 5


def distill(
    file: Annotated[
        str, typer.Argument(help="CSV, TSV, JSON Lines or Parquet, one labelled response a row.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the judge goes: a new .gguf file.")
    ],
    taxonomy: options.Taxonomy = None,
    prompt_column: Annotated[
        str, typer.Option(help="Column, or path such as doc.question.")
    ] = "prompt",
    response_column: Annotated[
        str, typer.Option(help="Column, or path such as resps.0.0.")
    ] = "response",
    label_column: Annotated[
        str,
        typer.Option(help="Column, or path: verdict.label for what `evenhand judge` wrote."),
    ] = "label",
    start: Annotated[
        str, typer.Option("--from", help="The judge to start from: bundled:judge, or one of yours.")
    ] = "bundled:judge",
    draws: Annotated[
        int, typer.Option(min=1, max=1_000, help="How often each row is seen, on average.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, rows and machine: same judge.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    json: options.Json = False,
) -> None:
    """Train a small judge on labels of your own, and measure it on rows kept back.

    Labels may come from people or from a large judge. Needs torch: pip install 'evenhand[train]'
    torch.
    """
    from importlib.util import find_spec

    from evenhand.api.settings import Settings
    from evenhand.audit.datasets import open_rows
    from evenhand.engine.models import resolve
    from evenhand.schemas.errors import InvalidInput, SettingsError
    from evenhand.schemas.taxonomy import Taxonomy

    if missing := [name for name in ("torch", "tokenizers", "gguf") if find_spec(name) is None]:
        raise SettingsError(
            f"training needs {' and '.join(missing)}",
            hint="pip install 'evenhand[train]' torch",
        )
    if output.suffix != ".gguf":
        raise InvalidInput(f"{output.name!r} is no .gguf file", hint="Write to NAME.gguf.")
    if output.exists() and not force:
        raise InvalidInput(f"{str(output)!r} exists", hint="Choose another name, or add --force.")
    settings = Settings.load(taxonomy=taxonomy)
    labels = Taxonomy.load(settings.taxonomy)
    judge = resolve(start, offline=settings.offline, cache_dir=settings.cache_dir)
    with open_rows(file, (prompt_column, response_column)) as rows:
        read, problems = _read(rows, prompt_column, response_column, label_column)
    _tell(len(read), problems)

    from evenhand.training.distill import distill as train

    report = train(read, labels, judge.path, output, draws=draws, seed=seed)
    _report(report, labels, output, len(problems), as_json=json)


def _read(
    rows: Any, prompt_column: str, response_column: str, label_column: str
) -> tuple[list[Row], list[str]]:
    """The rows that have all three texts, and what is wrong with each of the others."""
    from evenhand.schemas.errors import DatasetError
    from evenhand.training.rows import Row

    def row(given: FileRow) -> Row:
        prompt, response = given.text_of(prompt_column), given.text_of(response_column)
        return Row(prompt, response, given.text_of(label_column), "yours", "yours")

    read, problems = [], []
    for given in rows:
        try:
            read.append(row(given))
        except DatasetError as exc:
            problems.append(str(exc))
    return read, problems


def _tell(count: int, problems: list[str]) -> None:
    from evenhand.api.cli.console import stderr

    stderr().print(f"{count:,} labelled rows read", style="dim")
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        stderr().print(f"note: {len(problems):,} left out: {shown}", style="dim", soft_wrap=True)


def _report(report: Any, labels: Any, output: Path, left_out: int, *, as_json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from evenhand.api.cli.console import stdout

    if as_json:
        typer.echo(dumps(asdict(report) | {"left_out": left_out, "output": str(output)}))
        return
    console = stdout()
    counts = ", ".join(f"{label} {report.labels[label]:,}" for label in labels.labels)
    console.print(f"{output}: {report.bytes:,} bytes, from {report.trained_on:,} rows ({counts})")
    console.print(
        f"on {report.measured_on:,} rows kept back: accuracy {report.accuracy:.3f} "
        f"(always the most frequent label: {report.majority:.3f}), kappa {report.kappa:.3f}, "
        f"macro-F1 {report.macro_f1:.3f}, calibration error {report.ece:.3f}",
        soft_wrap=True,
    )
    given = "" if labels.name == "qos" else " --taxonomy YOURS"
    console.print(f"use it: evenhand judge -j {output}{given} -p PROMPT -r RESPONSE")
