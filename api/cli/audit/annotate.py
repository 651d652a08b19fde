"""`evenhand audit annotate`: people label a random sample, and rates are corrected with that."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenhand.api.cli import options as shared
from evenhand.api.cli.audit import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenhand.audit.annotate import Design
    from evenhand.audit.annotation_files import Item, Labels
    from evenhand.audit.store import Audit, Drawn, Store
    from evenhand.audit.summary import Annotation
    from evenhand.schemas.taxonomy import Taxonomy

_SAMPLE, _ANSWERS = "The sample", "What people answer"
_SHOWN = 10  # bad rows told on a terminal


class Strata(StrEnum):
    """What a sample is divided by."""

    NONE = "none"
    GROUP = "group"
    LABEL = "label"
    GROUP_LABEL = "group-label"


class Share(StrEnum):
    """How a sample is shared out between strata."""

    PROPORTIONAL = "proportional"
    EQUAL = "equal"


def annotate(
    id: options.Id,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="More files for --import.", show_default=False),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Draw so many responses, or so many more.",
            rich_help_panel=_SAMPLE,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where items.csv, items.jsonl and guide.txt go; annotate-ID if left out. Without "
            "--sample: the whole sample again.",
            rich_help_panel=shared.OUTPUT_PANEL,
            show_default=False,
        ),
    ] = None,
    strata: Annotated[
        Strata | None,
        typer.Option(
            help="Draw from each group, label or pair of these apart.",
            rich_help_panel=_SAMPLE,
            show_default=False,
        ),
    ] = None,
    allocation: Annotated[
        Share | None,
        typer.Option(
            help="As many from each stratum as it is large (proportional), or equally many.",
            rich_help_panel=_SAMPLE,
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            "-j",
            help="Draw from what this judge labelled; left out, any of them.",
            rich_help_panel=_SAMPLE,
            show_default=False,
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            "--generator",
            "-g",
            help="Draw from this model's responses; left out, all of them.",
            rich_help_panel=_SAMPLE,
            show_default=False,
        ),
    ] = None,
    include_unjudged: Annotated[
        bool,
        typer.Option(
            "--include-unjudged",
            help="Draw from responses without a verdict, too.",
            rich_help_panel=_SAMPLE,
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The seed of the draw; the plan's if left out.",
            rich_help_panel=_SAMPLE,
            show_default=False,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Draw anew, by another design. Labels stay, for texts that are drawn again.",
            rich_help_panel=_SAMPLE,
        ),
    ] = False,
    import_: Annotated[
        list[Path] | None,
        typer.Option(
            "--import",
            metavar="FILE...",
            help="Take labels: one file a person, .csv, .jsonl or .parquet.",
            rich_help_panel=_ANSWERS,
            show_default=False,
        ),
    ] = None,
    annotator: Annotated[
        list[str] | None,
        typer.Option(
            help="Who labelled, once for each file; the file's name if left out.",
            rich_help_panel=_ANSWERS,
            show_default=False,
        ),
    ] = None,
    disagreements: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what they disagree on for a third, .csv or .jsonl.",
            rich_help_panel=_ANSWERS,
            show_default=False,
        ),
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="ANNOTATOR",
            help="Remove all labels of this person first.",
            rich_help_panel=_ANSWERS,
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
    json: shared.Json = False,
) -> None:
    """Let people label a random sample of an audit, and correct its rates with their labels.

    Nothing that is written for them tells a judge's label. Once labels are imported, `report` has
    corrected figures beside the uncorrected ones. Without options: how far people have come.

    Exit code 1 when no row of the files could be used.
    """
    from evenhand.api.cli import console
    from evenhand.api.cli.audit.common import opened_store
    from evenhand.audit.annotate import Design
    from evenhand.audit.annotation_files import check_free, files_in, write
    from evenhand.audit.summary import people_of
    from evenhand.schemas.errors import Conflict, InvalidInput
    from evenhand.schemas.taxonomy import Taxonomy

    given = [*(import_ or ()), *(files or ())]
    wishes = (strata, allocation, judge, generator, seed, include_unjudged or None, restart or None)
    if files and not import_:
        raise InvalidInput(
            f"{str(files[0])!r} is given, and not what for", hint="Put --import before the files."
        )
    if sample is None and any(wish is not None for wish in wishes):
        raise InvalidInput("nothing is to be drawn", hint="Say with --sample how many responses.")
    if sample is not None and given:
        raise InvalidInput(
            "--sample and --import do not go together", hint="Run the command once for each."
        )
    said: dict[str, Any] = {}
    with opened_store() as store:
        audit = store.audit(id)
        taxonomy = Taxonomy.load(audit.plan.taxonomy)
        said["audit"] = audit.id
        folder = output or (Path(f"annotate-{audit.id}") if sample is not None else None)
        check_free(
            [
                *(files_in(folder).values() if folder else ()),
                *([disagreements] if disagreements else ()),
            ],
            force=force,
        )
        if forget is not None:
            said["forgotten"] = store.forget_annotator(audit.id, forget)
        asked: list[Drawn] = []
        if sample is not None:
            asked = _draw(
                store,
                audit,
                sample,
                strata=None if strata is None else _STRATA[strata],
                allocation=None if allocation is None else allocation.value,
                judge=judge,
                model=generator,
                unjudged=include_unjudged or None,
                seed=seed,
                restart=restart,
            )
            said["drawn"] = len(asked)
        found = store.sample(audit.id)
        if found is None:
            raise Conflict(
                f"no sample of audit {audit.id} is drawn",
                hint=f"`evenhand audit annotate {audit.id} --sample 200` draws one.",
            )
        design, drawn = Design.model_validate_json(found[0]), found[1]
        if folder is not None:
            items = _items(store, audit, drawn if sample is None else asked, design)
            paths = write(items, taxonomy, folder)
            said["files"] = {kind: str(path) for kind, path in paths.items()}
        imported = _import(store, audit, drawn, given, annotator or [], taxonomy)
        if imported:
            said["imported"] = [_document(one) for one in imported]
        if disagreements is not None:
            said["disagreements"] = {
                "file": str(disagreements),
                "items": _export_disputed(store, audit, drawn, design, disagreements),
            }
        people, _ = people_of(store, audit.id, store.table(audit.id))
    assert people is not None
    if json:
        console.emit({**said, "people": people.model_dump(mode="json")})
    else:
        _show(said, imported, people)
    if imported and not any(one.labels for one in imported):
        raise typer.Exit(1)


# -- the sample -----------------------------------------------------------------------------------

_STRATA: dict[Strata, tuple[str, ...]] = {
    Strata.NONE: (),
    Strata.GROUP: ("group",),
    Strata.LABEL: ("label",),
    Strata.GROUP_LABEL: ("group", "label"),
}


def _draw(
    store: Store, audit: Audit, number: int, *, seed: int | None, restart: bool, **wishes: Any
) -> list[Drawn]:
    """Draw a sample, or so many more; returns what is new in it.

    Raises `Conflict` while the audit runs, where all is drawn, or for another design than before.
    """
    from evenhand.audit.annotate import Design, draw, frame, item_of, sizes
    from evenhand.audit.store import Drawn
    from evenhand.schemas.errors import Conflict, InvalidInput

    if audit.state == "running":
        raise Conflict(
            f"audit {audit.id} is running, and what it has not judged yet could not be drawn",
            hint="Wait for its end, or cancel it.",
        )
    table = store.table(audit.id)
    found = store.sample(audit.id)
    asked = {name: wish for name, wish in {**wishes, "seed": seed}.items() if wish is not None}
    before: list[Drawn] = []
    if found is None or restart:
        asked.setdefault("seed", audit.plan.seed)
        judges = table["judge"].unique()
        if "label" in asked.get("strata", ()) and len(judges) == 1:
            asked.setdefault("judge", judges[0])  # and so it stays, if another is heard later
        design = Design(**asked)
    else:
        design, before = Design.model_validate_json(found[0]), found[1]
        _check_same(design, asked, audit)
    rows = frame(table, design)
    if rows.is_empty():
        raise InvalidInput(
            f"audit {audit.id} has no response that could be drawn",
            hint="Only responses with a verdict are; --include-unjudged adds the others.",
        )
    if len(before) >= len(rows):
        raise Conflict(
            f"all {len(rows):,} responses are drawn already",
            hint=f"`evenhand audit annotate {audit.id} -o DIR` writes them again.",
        )
    drawn = draw(rows, design, len(before) + number)
    texts = {
        trial: (prompt, response)
        for trial, prompt, response in store.texts(audit.id, drawn["trial"])
    }
    every = [
        Drawn(trial, item_of(audit.id, *texts[trial]), stratum, weight)
        for trial, stratum, weight in drawn.iter_rows()
    ]
    design = design.model_copy(update={"sizes": sizes(rows)})
    store.set_sample(audit.id, design.model_dump_json(), every)
    known = {one.item for one in before}
    return [one for one in every if one.item not in known]


def _check_same(design: Design, asked: dict[str, Any], audit: Audit) -> None:
    """Raise `Conflict` for a wish that the sample at hand was not drawn by."""
    from evenhand.schemas.errors import Conflict

    for name, wish in asked.items():
        if getattr(design, name) != wish:
            raise Conflict(
                f"the sample of audit {audit.id} was drawn with {name} = {getattr(design, name)!r},"
                f" and {wish!r} is another design: the two cannot be added up",
                hint="Leave the option out to draw more by the same design, or start over with "
                "--restart.",
            )


def _items(store: Store, audit: Audit, asked: Sequence[Drawn], design: Design) -> list[Item]:
    """The texts of what was drawn, each once, shuffled."""
    from evenhand.audit.annotate import shuffled
    from evenhand.audit.annotation_files import Item

    trials = {one.item: one.trial for one in asked}
    texts = {trial: rest for trial, *rest in store.texts(audit.id, trials.values())}
    order = shuffled(trials, design.seed)
    return [Item(item, *texts[trials[item]]) for item in order]


# -- what people answer ---------------------------------------------------------------------------


def _import(
    store: Store,
    audit: Audit,
    drawn: Sequence[Drawn],
    files: Sequence[Path],
    names: Sequence[str],
    taxonomy: Taxonomy,
) -> list[Labels]:
    """Take each file's labels. All files are read before the first label is stored."""
    from evenhand.audit.annotation_files import read
    from evenhand.schemas.errors import InvalidInput

    if names and len(names) != len(files):
        raise InvalidInput(
            f"{len(names)} names of annotators for {len(files)} files",
            hint="Give --annotator once for each file, in their order, or not at all.",
        )
    people = [name.strip() for name in names] or [file.stem for file in files]
    if not all(people):
        raise InvalidInput(
            "the name of an annotator is empty", hint="Give --annotator a name, or leave it out."
        )
    if twice := sorted({name for name in people if people.count(name) > 1}):
        raise InvalidInput(
            f"two files are by {twice[0]!r}", hint="Name the people with --annotator."
        )
    known: dict[str, set[str]] = {one.item: set() for one in drawn}
    for label in store.human_labels(audit.id):
        if not label.third and label.item in known:
            known[label.item].add(label.annotator)
    read_ = [read(file, name, taxonomy, known) for file, name in zip(files, people, strict=True)]
    for one in read_:
        store.set_labels(audit.id, one.annotator, one.items, one.labels)
    return read_


def _export_disputed(
    store: Store, audit: Audit, drawn: Sequence[Drawn], design: Design, path: Path
) -> int:
    """Write what nobody has decided; returns how many items that are."""
    from evenhand.audit.annotate import merge
    from evenhand.audit.annotation_files import write_disputed

    open_ = set(merge(store.human_labels(audit.id)).open)
    items = _items(store, audit, [one for one in drawn if one.item in open_], design)
    write_disputed(items, path)
    return len(items)


# -- what is shown --------------------------------------------------------------------------------


def _document(one: Labels) -> dict[str, Any]:
    return {
        "annotator": one.annotator,
        "labels": len(one.labels),
        "empty": one.empty,
        "bad": [
            {
                "file": b.file,
                "line": b.line,
                "error": {"code": "invalid_dataset", "message": b.message, "hint": b.hint},
            }
            for b in one.bad
        ],
    }


def _show(said: dict[str, Any], imported: Sequence[Labels], people: Annotation) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from evenhand.api.cli import console
    from evenhand.api.cli.panels import YELLOW, fitting
    from evenhand.audit.findings import number, of_people

    out = console.stdout()
    if "forgotten" in said:
        out.print(f"{number(said['forgotten'], 'label')} removed")
    for path in said.get("files", {}).values():
        out.print(Text.assemble("written: ", (path, "bold")), soft_wrap=True)
    for one in imported:
        out.print(
            f"{console.shown(one.annotator)}: {number(len(one.labels), 'label')}, {one.empty:,} "
            f"empty, {number(len(one.bad), 'bad row')}"
        )
        for row in one.bad[:_SHOWN]:
            out.print(Text(f"  {row.file}, {console.shown(row.message)}. {row.hint}", YELLOW))
        if len(one.bad) > _SHOWN:
            out.print(Text(f"  and {len(one.bad) - _SHOWN:,} more; --json has all", YELLOW))
    if "disagreements" in said:
        found = said["disagreements"]
        out.print(f"{number(found['items'], 'text')} for a third: {found['file']}", soft_wrap=True)
    for sentence in of_people(people):
        out.print(Padding(Text(sentence), (1, 0, 1, 2)), width=fitting(out))
    if people.open and "disagreements" not in said:
        out.print(Text("`--disagreements FILE` writes those for a third", "dim"))
    if people.labelled:
        out.print(
            Text(
                f"`evenhand audit report {said['audit']} -o DIR` has the corrected figures", "dim"
            ),
            soft_wrap=True,
        )
