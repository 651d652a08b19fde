"""`evenhand taxonomies`: the labels that a judge may give, and what each means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from evenhand.schemas.taxonomy import Taxonomy


def taxonomies(
    show: Annotated[
        str | None,
        typer.Option("--show", help="Show one whole: its name, or a path that ends in .toml."),
    ] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="With --show: its TOML, to start your own from.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the taxonomies, or show one of them."""
    from evenhand.api.cli import console
    from evenhand.schemas.errors import InvalidInput

    if show is None:
        if toml:
            raise InvalidInput("--toml needs --show", hint="Add --show NAME.")
        _list(as_json=json)
        return
    if toml:
        _show_toml(show, as_json=json)
        return
    taxonomy = _find(show)
    if json:
        console.emit(
            {
                "taxonomy": taxonomy.model_dump(mode="json"),
                "json_schema": taxonomy.json_schema(),
            }
        )
    else:
        _show(taxonomy)


def _known() -> tuple[list[Taxonomy], str]:
    """Every taxonomy that the settings know of, and the default one's name."""
    from evenhand.api.services import Services
    from evenhand.api.settings import Settings

    services = Services(Settings.load())
    return services.taxonomies(), services.default_taxonomy


def _find(name: str) -> Taxonomy:
    from evenhand.schemas.taxonomy import Taxonomy

    if not name.endswith(".toml"):
        for taxonomy in _known()[0]:
            if taxonomy.name == name:
                return taxonomy
    return Taxonomy.load(name)


def _show_toml(name: str, *, as_json: bool) -> None:
    import sys
    from pathlib import Path

    from evenhand.api.cli import console
    from evenhand.schemas.taxonomy import Taxonomy, builtin_source

    if name.endswith(".toml"):
        Taxonomy.load(name)  # says what is wrong with it
        text = Path(name).read_text(encoding="utf-8-sig")
    else:
        text = builtin_source(name)
    if as_json:
        console.emit({"name": name, "toml": text})
    else:
        sys.stdout.write(text)


def _list(*, as_json: bool) -> None:
    from evenhand.api.cli import console
    from evenhand.schemas.service import TaxonomiesReply, TaxonomyCard

    known, default = _known()
    if as_json:
        cards = [
            TaxonomyCard(
                name=t.name,
                version=t.version,
                title=t.title,
                labels=t.labels,
                default=t.name == default,
            )
            for t in known
        ]
        console.emit(TaxonomiesReply(taxonomies=cards))
        return
    from rich.table import Table
    from rich.text import Text

    from evenhand.api.cli.panels import fitting

    out = console.stdout()
    out.print()
    for taxonomy in known:
        mark = "  (default)" if taxonomy.name == default else ""
        out.print(
            Text.assemble(
                (taxonomy.name, "bold"), f" v{taxonomy.version}  {taxonomy.title}", (mark, "dim")
            )
        )
        table = Table.grid(padding=(0, 1))
        table.add_row("  ", Text(", ".join(taxonomy.labels), "dim"))
        out.print(table, width=fitting(out))
        out.print()
    out.print(Text("`evenhand taxonomies --show NAME` explains the labels; ", "dim"), end="")
    out.print(Text("--toml prints the file.", "dim"))
    out.print()


def _show(taxonomy: Taxonomy) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from evenhand.api.cli import panels
    from evenhand.api.cli.console import shown, stdout

    out = stdout()
    width = panels.fitting(out)
    out.print()
    out.print(
        Text.assemble((taxonomy.name, "bold"), f" v{taxonomy.version}  {taxonomy.title}"),
        width=width,
    )
    out.print(Text(taxonomy.question, "italic"), width=width)
    for category in taxonomy.categories:
        colour = panels.colour_of(category.label, taxonomy)
        head = Text.assemble("\n", (category.label, f"bold {colour}"))
        axes = [
            f"{name}: {value.replace('_', ' ')}"
            for name, value in (("helps", category.helps), ("harms", category.harms))
            if value is not None
        ]
        head.append("   " + ", ".join(axes) if axes else "", "dim")
        for crosswalk in taxonomy.crosswalks:
            head.append(f"   {crosswalk.name}: {crosswalk.labels[category.label]}", "dim")
        out.print(head, width=width)
        lines = [Text(category.definition)]
        if category.is_not:
            lines.append(Text.assemble(("But: ", "bold"), category.is_not))
        if category.example:
            lines.append(Text.assemble(("e.g. ", "bold"), (shown(category.example.prompt), "dim")))
            lines.append(Text.assemble("  → ", (shown(category.example.response), "dim")))
        for line in lines:
            out.print(Padding(line, (0, 0, 0, 2), expand=False), width=width)
    out.print()
