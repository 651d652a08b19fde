"""One call for a whole data set: pairs in, a frame with their verdicts out.

Knows how rows of many kinds become pairs, and how verdicts become columns. It holds everything in
memory; for files larger than that there is `evenhand judge FILE`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any

from evenhand.judge.base import BaseJudge, check_texts
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.requests import Item
from evenhand.schemas.text import clean
from evenhand.schemas.verdict import Verdict

if TYPE_CHECKING:
    import polars as pl

IN_FLIGHT = 64
_COLUMNS = ("prompt", "response")
_Texts = tuple[str | None, str | None]


def label(pairs: object, judge: BaseJudge, *, progress: bool | None = None) -> pl.DataFrame:
    """Label every pair; give a frame with one row for each, in order.

    `pairs` is an iterable of `(prompt, response)` (tuples, lists, rows of an array), of mappings
    with these keys or of `Item`s, or a polars or pandas frame with these columns. What is no pair
    of texts becomes a row with the status `error`, and the rest go on.

    The columns: `prompt`, `response`, `status`, `label`, `p_LABEL` for each label of the taxonomy
    (null where the judge gives none), `margin`, `failure` (why there is no label) and
    `fingerprint`. Only the status `judged` has a label.

    `progress` shows a bar on stderr; left out, it is shown where that is a terminal. Raises
    `InvalidInput` for what holds no rows, and `Unavailable` where the judge is closed.

        with Judge("bundled:judge") as judge:
            frame = label([("Name a colour.", "Blue.")], judge)
    """
    import polars as pl

    rows, total = _rows(pairs)
    texts: list[_Texts] = []
    bad: dict[int, Verdict] = {}

    def good() -> Iterator[tuple[str, str]]:
        for row in _tracked(rows, total, progress):
            prompt, response, problem = _read(row)
            if problem is not None:
                bad[len(texts)] = judge.failed(problem)
            texts.append((_text(prompt), _text(response)))
            if problem is None:
                yield prompt, response

    judged = iter(list(judge.judge_many(good(), in_flight=IN_FLIGHT)))
    verdicts = [bad[i] if i in bad else next(judged) for i in range(len(texts))]
    text, number = pl.String(), pl.Float64()
    schema = {
        **dict.fromkeys(("prompt", "response", "status", "label"), text),
        **{f"p_{name}": number for name in judge.taxonomy.labels},
        "margin": number,
        "failure": text,
        "fingerprint": text,
    }
    return pl.DataFrame(
        [_cells(*pair, verdict) for pair, verdict in zip(texts, verdicts, strict=True)],
        schema=schema,
        orient="row",
    )


def _cells(prompt: str | None, response: str | None, verdict: Verdict) -> tuple[object, ...]:
    probabilities, failure = verdict.probabilities or {}, verdict.failure
    return (
        prompt,
        response,
        verdict.status.value,
        verdict.label,
        *(probabilities.get(name) for name in verdict.labels),
        verdict.margin,
        failure and f"{failure.code}: {failure.message}",
        verdict.fingerprint,
    )


def _rows(pairs: Any) -> tuple[Iterable[object], int | None]:
    """The rows, and how many there are where that is known."""
    if hasattr(pairs, "collect"):  # a lazy frame of polars
        pairs = pairs.collect()
    if hasattr(pairs, "columns"):
        missing = [name for name in _COLUMNS if name not in pairs.columns]
        if missing:
            raise InvalidInput(
                f"the frame has no column {missing[0]!r}",
                hint="Rename its columns to prompt and response.",
            )
        return zip(*(pairs[name] for name in _COLUMNS), strict=True), len(pairs)
    if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
        raise InvalidInput(
            f"a {type(pairs).__name__} holds no rows",
            hint="Give pairs of prompt and response, dictionaries, or a frame.",
        )
    return pairs, len(pairs) if isinstance(pairs, Sized) else None


def _read(row: object) -> tuple[Any, Any, InvalidInput | None]:
    """Prompt and response, whatever they are, and what is wrong with them."""
    if isinstance(row, Item):
        return row.prompt, row.response, None
    if isinstance(row, Mapping) or hasattr(row, "get"):  # as a row of pandas has
        prompt, response = (row.get(name) for name in _COLUMNS)
    elif len(texts := _texts(row)) == 2:
        prompt, response = texts
    else:
        hint = "Give each row as (prompt, response)."
        return None, None, InvalidInput(f"the row is no pair: {str(row)[:80]!r}", hint=hint)
    try:
        check_texts(prompt, response)
    except InvalidInput as exc:
        return prompt, response, exc
    return prompt, response, None


def _texts(row: object) -> list[object]:
    """What an iterable in the place of a pair holds, up to three; nothing for what is none."""
    if isinstance(row, str | bytes | Set):  # a set has no order
        return []
    try:
        return list(islice(row, 3))  # type: ignore[call-overload]
    except TypeError:  # such as an array without dimensions
        return []


def _text(value: object) -> str | None:
    return clean(value) if isinstance(value, str) else None


def _tracked(rows: Iterable[object], total: int | None, progress: bool | None) -> Iterable[object]:
    if not (sys.stderr.isatty() if progress is None else progress):
        return rows
    from rich.console import Console
    from rich.progress import track

    return track(rows, "judging", total=total, console=Console(stderr=True), transient=True)
