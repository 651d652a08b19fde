"""Reads labels by people: which text of a file is which label, and whose.

Knows rows, columns and how people write labels (`2_full_refusal`, `Full refusal`). What it has to
guess it says in `read_as`; what it cannot read it counts, in `excluded` where a row is lost by it
and in `partial` where the rest of the row is used. It does not know judges.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evenhand.audit.datasets import open_rows
from evenhand.audit.rows import Row, dumps, kind
from evenhand.schemas.errors import DatasetError, InvalidInput, NotFound, TaxonomyError
from evenhand.schemas.taxonomy import Category, Taxonomy
from evenhand.schemas.text import clean
from evenhand.schemas.validation import Gold, GoldColumns, GoldRow, Unusable

PLACES = 5  # of excluded rows that are told
SHOWN = 8  # labels or columns named in a message

_ANNOTATOR = re.compile(r"(annotation|annotator|human|person|coder|expert)[ _-]?\d{1,3}", re.I)
_NUMBER = re.compile(r"^\d{1,3}\s*[_.:)-]\s*")
_MAP_HINT = (
    "Map them with --label-map: RAW=LABEL, or a TOML or JSON file of such pairs; "
    "--label-column names another column."
)


def read_gold(
    path: str | Path,
    judged_by: Taxonomy,
    columns: GoldColumns | None = None,
    *,
    known: Iterable[Taxonomy] = (),
    taxonomy: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Gold:
    """Read a CSV, JSON Lines or Parquet file. See `collect`, whose errors it raises, too."""
    columns = columns or GoldColumns()
    with open_rows(path, (columns.prompt, columns.response)) as rows:
        return collect(
            rows,
            judged_by,
            columns,
            name=Path(path).stem,
            known=known,
            taxonomy=taxonomy,
            label_map=label_map,
        )


def collect(
    rows: Iterable[Row],
    judged_by: Taxonomy,
    columns: GoldColumns,
    *,
    name: str,
    known: Iterable[Taxonomy] = (),
    taxonomy: str | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Gold:
    """Rows with labels of the taxonomy `judged_by`, or of one that it has a crosswalk to.

    `taxonomy` names which; left out, it is the one whose labels most rows have. `known` are
    taxonomies beside the built-in ones, for the order of their labels. `label_map` says what a text
    stands for; beside it, labels match whatever their case, spaces, hyphens or leading number.

    A row on which people disagree without a majority, or whose own label cannot be read while its
    annotators' can, is kept with the label None.

    Raises `DatasetError` for a file without labels that can be read, `InvalidInput` for a column,
    label or taxonomy that is named and not there, and for a column of labels that holds none.
    """
    rows = list(rows)
    if not rows:
        raise DatasetError("there are no rows", hint="Give at least one.")
    held = list(dict.fromkeys(key for row in rows for key in row.data))
    _check_named(columns, rows, held)
    read_as: list[str] = []
    label = columns.label or next((c for c in ("label", "gold") if c in held), None)
    candidates = _candidates(judged_by, known, taxonomy)
    annotators = columns.annotators
    likely = [c for c in held if c != label and _ANNOTATOR.fullmatch(c)]
    sources = [label] if label is not None else list(annotators or likely)
    if not sources:
        raise DatasetError(
            f"there is no column with labels; the columns are {_some(held)}",
            hint="Name it with --label-column, or annotators with --annotator.",
        )
    texts = Counter(text for row in rows for c in sources if (text := _text(row, c)) is not None)
    reading = max((_Reading(c, label_map or {}) for c in candidates), key=lambda r: r.rows(texts))
    if not reading.rows(texts):
        raise DatasetError(
            f"{_some(sources)} of {name!r} holds {_some(texts)}: no labels of "
            + " or ".join(f"{c.name} ({', '.join(c.labels)})" for c in candidates),
            hint=_MAP_HINT,
        )
    if annotators is None:
        annotators = tuple(c for c in likely if _holds_labels(rows, c, reading))
        if annotators:
            read_as.append(f"{_some(annotators)}: labels of single annotators")
    for column in (*(columns.annotators or ()), *columns.raters):
        _check_labels(rows, column, reading)
    whose = "" if label is not None else f", by majority of {len(annotators)} annotators"
    read_as[:0] = [
        f"{_some(sources)}: labels of the taxonomy {reading.taxonomy.name}{whose}",
        *reading.sentences(texts),
    ]
    model = columns.model or _found(rows, "model")
    group = columns.group or _found(rows, "group")
    unit = columns.unit or (_found(rows, "name") if group else None) or columns.prompt
    read_as += [f"{c}: the {what}" for c, what in ((model, "model"), (group, "group")) if c]
    read_as.append(f"{unit}: rows of one are not taken as independent")
    used = {columns.prompt, columns.response, *sources, *annotators, *columns.raters}
    unread = [c for c in held if c not in used | {model, group, unit}]
    if unread:
        also = [c for c in unread if _holds_labels(rows, c, reading)]
        hint = f"; {_some(also)} could be compared (--rater)" if also else ""
        read_as.append(f"not read: {_some(unread)}{hint}")
    return _gather(
        rows,
        reading,
        columns.model_copy(
            update={
                "label": label,
                "annotators": tuple(annotators),
                "model": model,
                "group": group,
                "unit": unit,
            }
        ),
        strict=columns.unit is not None,
        name=name,
        read_as=read_as,
    )


def rows_of(data: Sequence[Any]) -> list[Row]:
    """Rows from parsed JSON; what is no object is a bad row."""
    found = []
    for number, value in enumerate(data, 1):
        where = f"rows[{number}]"
        if isinstance(value, Mapping):
            found.append(Row(number, where, number, value))
            continue
        problem = DatasetError(f"{where} is not an object", hint="Send {...} for each row.")
        found.append(Row(number, where, number, {}, raw=str(value), problem=problem))
    return found


def read_label_map(words: Sequence[str]) -> dict[str, str]:
    """What the words of `--label-map` say: `RAW=LABEL` each, or the path of a TOML or JSON file.

    Raises `InvalidInput`.
    """
    found: dict[str, str] = {}
    for word in words:
        raw, equals, label = word.rpartition("=")
        if equals and not word.endswith((".toml", ".json")):
            found[raw.strip()] = label.strip()
            continue
        try:
            text = Path(word).read_text(encoding="utf-8-sig")
            data = json.loads(text) if word.endswith(".json") else tomllib.loads(text)
        except (OSError, ValueError) as exc:  # ValueError: not UTF-8, not JSON, not TOML
            raise InvalidInput(
                f"--label-map {word!r} cannot be read: {exc}",
                hint="Give RAW=LABEL, or the path of a TOML or JSON file of such pairs.",
            ) from exc
        if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
            raise InvalidInput(
                f"--label-map {word!r} is not a table of texts",
                hint='Write lines such as "2_full_refusal" = "full_refusal".',
            )
        found.update(data)
    return found


# -- labels ---------------------------------------------------------------------------------------


class _Reading:
    """How texts are read as labels of one taxonomy."""

    def __init__(self, taxonomy: Taxonomy, label_map: Mapping[str, str]):
        self.taxonomy = taxonomy
        self._map = label_map
        self._exact = {label: i for i, label in enumerate(taxonomy.labels)}
        loose = Counter(map(_loose, taxonomy.labels))
        self._loose = {_loose(w): i for w, i in self._exact.items() if loose[_loose(w)] == 1}

    def index(self, text: str) -> int | None:
        """The label's index; None for a text that is none."""
        text = self._map.get(text, text).strip()
        found = self._exact.get(text)
        return self._loose.get(_loose(text)) if found is None else found

    def rows(self, texts: Mapping[str, int]) -> int:
        """How many rows have a label."""
        return sum(n for text, n in texts.items() if self.index(text) is not None)

    def sentences(self, texts: Iterable[str]) -> list[str]:
        """Each text that is not a label to the letter, and what it is taken for."""
        found = ((text, self.index(text)) for text in sorted(texts))
        return [
            f"{text} is taken for {self.taxonomy.labels[i]}"
            for text, i in found
            if i is not None and text != self.taxonomy.labels[i]
        ]


def _loose(text: str) -> str:
    """The text without a number before it, in one case, words joined by underscores."""
    return re.sub(r"[\s_-]+", "_", _NUMBER.sub("", text.strip().casefold()))


def _candidates(
    judged_by: Taxonomy, known: Iterable[Taxonomy], wanted: str | None
) -> list[Taxonomy]:
    """The taxonomies that the labels may be of: the judge's own first."""
    by_name = {taxonomy.name: taxonomy for taxonomy in known}
    found = [judged_by]
    for walk in judged_by.crosswalks:
        labels = tuple(dict.fromkeys(walk.labels[label] for label in judged_by.labels))
        target = by_name.get(walk.name)
        if target is None:
            try:
                target = Taxonomy.load(walk.name)
            except (NotFound, TaxonomyError):
                target = None
        if target is None or not set(labels) <= set(target.labels):
            target = _bare(walk.name, labels)
        found.append(target)
    if wanted is None:
        return found
    named = [taxonomy for taxonomy in found if taxonomy.name == wanted]
    if not named:
        raise InvalidInput(
            f"the taxonomy {judged_by.name!r} has no crosswalk to {wanted!r}",
            hint=f"Use one of {', '.join(t.name for t in found)}, or judge by {wanted!r} itself.",
        )
    return named


def _bare(name: str, labels: Sequence[str]) -> Taxonomy:
    """A taxonomy of which no more is known than its labels."""
    if len(labels) == 1:
        labels = (*labels, f"not {labels[0]}")
    categories = tuple(Category(label=label, definition=label) for label in labels)
    return Taxonomy(name=name, version="0", title=name, categories=categories)


def _holds_labels(rows: Sequence[Row], column: str, reading: _Reading) -> bool:
    """Whether a column is filled with labels, but for a few cells."""
    texts = [text for row in rows if (text := _text(row, column)) is not None]
    return 2 * sum(reading.index(text) is not None for text in texts) > len(texts) > 0


# -- columns --------------------------------------------------------------------------------------


def _check_named(columns: GoldColumns, rows: Sequence[Row], held: Sequence[str]) -> None:
    """Raise `InvalidInput` for a column that is named and in no row."""
    named = (columns.label, columns.model, columns.group, columns.unit)
    for column in (*(c for c in named if c), *(columns.annotators or ()), *columns.raters):
        if not any(row.has(column) for row in rows):
            raise InvalidInput(
                f"there is no column {column!r}; the columns are {_some(held)}",
                hint="Name one that is there.",
            )


def _check_labels(rows: Sequence[Row], column: str, reading: _Reading) -> None:
    """Raise `InvalidInput` for a column of labels without a single one."""
    texts = Counter(text for row in rows if (text := _text(row, column)) is not None)
    if not reading.rows(texts):
        held = _some(texts) if texts else "nothing"
        raise InvalidInput(
            f"{column!r} holds {held}: no labels of {reading.taxonomy.name} "
            f"({', '.join(reading.taxonomy.labels)})",
            hint="Map them with --label-map: RAW=LABEL, or leave the column out.",
        )


def _found(rows: Sequence[Row], column: str) -> str | None:
    """The column, where there is one and it holds keys."""
    for row in rows:
        try:
            if _key(row, column) is not None:
                return column
        except DatasetError:
            continue
    return None


def _key(row: Row, column: str) -> str | None:
    """A cell that says to which model, group or unit a row belongs; None where it is empty.

    Whole numbers lose their `.0`, which tables write where a column of them has a hole. Raises
    `DatasetError` for what names nothing: a list, an object, a number that is not finite.
    """
    try:
        value = row.get(column)
    except KeyError:
        return None
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, str | int):
        return clean(str(value)).strip() or None
    held = "a number that is not finite" if isinstance(value, float) else kind(value)
    raise DatasetError(
        f"{column!r} holds {held}, which names nothing",
        hint="Write a text or a number, or name another column.",
    )


def _text(row: Row, column: str) -> str | None:
    """A cell with a label, as text; None where it is empty. What is no text stands as JSON."""
    try:
        return _key(row, column)
    except DatasetError:
        value = row.get(column)
        return str(value) if isinstance(value, float) else dumps(value)


def _some(names: Iterable[str]) -> str:
    """The first few names of a list."""
    found = [name if len(name) <= 60 else f"{name[:60]}…" for name in names]
    return ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")


# -- rows -----------------------------------------------------------------------------------------


def _gather(
    rows: Sequence[Row],
    reading: _Reading,
    columns: GoldColumns,
    *,
    strict: bool,
    name: str,
    read_as: list[str],
) -> Gold:
    kept: list[GoldRow] = []
    used: list[Row] = []
    lost: dict[str, list[str]] = {}
    partial: dict[str, list[str]] = {}
    digest = hashlib.sha256()
    for row in rows:
        try:
            made, gaps = _row(row, reading, columns, strict)
        except DatasetError as exc:
            reason = exc.message.removeprefix(row.where).removeprefix(":").strip()
            lost.setdefault(reason, []).append(row.where)
            continue
        kept.append(made)
        used.append(row)
        for gap in gaps:
            partial.setdefault(gap, []).append(row.where)
        digest.update(json.dumps([made.prompt, made.response, made.label]).encode())
    excluded = _told(lost)
    if all(row.label is None for row in kept):
        first = (*excluded, *_told(partial))[0]
        raise DatasetError(
            f"no row of {name!r} can be used: {first.reason} ({first.places[0]})",
            hint="Mend the rows, or name other columns.",
        )
    for column in (*(columns.annotators or ()), *columns.raters):
        texts = [(row.where, text) for row in used if (text := _text(row, column)) is not None]
        wrong = [(where, text) for where, text in texts if reading.index(text) is None]
        if wrong:
            held = _some(dict.fromkeys(text for _, text in wrong))
            reason = f"{column} holds what is no label of {reading.taxonomy.name}: {held}"
            partial[reason] = [where for where, _ in wrong]
    return Gold(
        name=name,
        sha256=digest.hexdigest(),
        taxonomy=reading.taxonomy,
        rows=tuple(kept),
        annotators=columns.annotators or (),
        raters=columns.raters,
        unit=columns.unit or columns.prompt,
        excluded=excluded,
        partial=_told(partial),
        read_as=tuple(read_as),
    )


def _told(places: Mapping[str, Sequence[str]]) -> tuple[Unusable, ...]:
    return tuple(
        Unusable(reason=reason, rows=len(found), places=tuple(found[:PLACES]))
        for reason, found in places.items()
    )


def _row(
    row: Row, reading: _Reading, columns: GoldColumns, strict: bool
) -> tuple[GoldRow, list[str]]:
    """The row, and what of it is not there. Raises `DatasetError` where it cannot be used.

    A row without a unit cannot, where that is `strict`; else its prompt stands for the unit.
    """
    prompt, response = row.text_of(columns.prompt), row.text_of(columns.response)
    gaps: list[str] = []

    def labels(names: Iterable[str]) -> tuple[int | None, ...]:
        texts = (_text(row, column) for column in names)
        return tuple(None if text is None else reading.index(text) for text in texts)

    def key(column: str | None) -> str | None:
        found = None if column is None else _key(row, column)
        if column is not None and found is None:
            gaps.append(f"{column} is empty")
        return found

    unit = prompt if columns.unit in (None, columns.prompt) else key(columns.unit)
    if unit is None and strict:
        raise _unusable(f"{columns.unit} is empty")
    annotators = labels(columns.annotators or ())
    label, why = _label(row, reading, columns, annotators)
    if label is None:
        if all(vote is None for vote in annotators):
            raise _unusable(why)
        gaps.append(why)
    made = GoldRow(
        where=row.where,
        prompt=prompt,
        response=response,
        label=label,
        unit=prompt if unit is None else unit,
        model=key(columns.model),
        group=key(columns.group),
        annotators=annotators,
        raters=labels(columns.raters),
    )
    return made, gaps


def _label(
    row: Row, reading: _Reading, columns: GoldColumns, annotators: Sequence[int | None]
) -> tuple[int | None, str]:
    """The label that counts, or why there is none."""
    if columns.label is not None:
        text = _text(row, columns.label)
        if text is None:
            return None, f"{columns.label} is empty"
        return reading.index(text), f"{_some([text])!r} is not a label of {reading.taxonomy.name}"
    votes = Counter(vote for vote in annotators if vote is not None).most_common(2)
    if not votes:
        texts = [text for c in columns.annotators or () if (text := _text(row, c)) is not None]
        said = f" of {reading.taxonomy.name}, but {_some(dict.fromkeys(texts))}" if texts else ""
        return None, f"no annotator gives a label{said}"
    if len(votes) == 2 and votes[0][1] == votes[1][1]:
        return None, "annotators disagree, and no label has a majority"
    return votes[0][0], ""


def _unusable(reason: str) -> DatasetError:
    return DatasetError(reason, hint="Mend the row, or name another column.")
