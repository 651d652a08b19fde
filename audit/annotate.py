"""Which of an audit's responses people are asked about, and what they agree on: pure functions.

Knows tables of trials and labels by people. It does not know the store, files, judges or figures.

Each trial has a number of its own, a hash of the seed and its id (a permanent random number:
Ohlsson 1995), and of each stratum those with the lowest numbers are drawn. That is a simple random
sample of the stratum, the same one whenever it is drawn, and a larger one holds it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from evenhand.audit.store import Drawn, HumanLabel
from evenhand.judge import agreement
from evenhand.schemas.errors import InvalidInput

Stratum = Literal["group", "label"]
Allocation = Literal["proportional", "equal"]
NOTHING = "(none)"  # the stratum of what has no group or label
_SEPARATOR = " | "


class Design(BaseModel):
    """How a sample is drawn.

    `judge` and `model` narrow what it is drawn from to responses that this judge has labelled, and
    that this model gave; `unjudged` adds responses without a label. `sizes` is how many trials each
    stratum held when it was drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    strata: tuple[Stratum, ...] = ()
    allocation: Allocation = "proportional"
    judge: str | None = None
    model: str | None = None
    unjudged: bool = False
    sizes: dict[str, int] = {}


def frame(table: pl.DataFrame, design: Design) -> pl.DataFrame:
    """What can be drawn: `trial` and `stratum`, a row for each trial.

    `table` has a row for each verdict, as `Store.table` gives it. Raises `InvalidInput` for a model
    or judge that has no rows, and for strata of labels by several judges.
    """
    for column, name in (("judge", design.judge), ("model", design.model)):
        if name is not None:
            found = sorted(table[column].drop_nulls().unique())
            if name not in found:
                raise InvalidInput(
                    f"no response is by the {column} {name!r}", hint=f"Use one of {found}."
                )
            table = table.filter(pl.col(column) == name)
    if "label" in design.strata and table["judge"].n_unique() > 1:
        raise InvalidInput(
            f"there are labels by {table['judge'].n_unique()} judges",
            hint="Say with --judge whose labels are the strata.",
        )
    keep = pl.col("label").is_not_null()
    if design.unjudged:
        keep |= pl.col("answered")
    parts = [pl.col(part).fill_null(NOTHING) for part in design.strata]
    stratum = pl.concat_str(parts, separator=_SEPARATOR) if parts else pl.lit("all")
    return (
        table.filter(keep)
        .select("trial", stratum=stratum)
        .unique("trial", keep="first", maintain_order=True)
    )


def sizes(rows: pl.DataFrame) -> dict[str, int]:
    """How many rows of a frame each stratum has."""
    return dict(rows.group_by("stratum").len().sort("stratum").iter_rows())


def allocate(sizes: Mapping[str, int], number: int, allocation: Allocation) -> dict[str, int]:
    """How many to draw from each stratum: one each, then one by one until `number` are.

    The next is of the stratum that has the fewest so far, or the fewest for its size (the divisor
    method of Webster). A larger `number` never takes from a stratum. Raises `InvalidInput` where
    there are fewer than one for each.
    """
    if number < len(sizes):
        raise InvalidInput(
            f"a sample of {number} cannot have each of {len(sizes)} strata in it",
            hint="Draw more, or use fewer strata: what has no chance to be drawn cannot be "
            "corrected for.",
        )
    found = dict.fromkeys(sizes, 0)

    def turn(stratum: str) -> tuple[float, int, str]:
        drawn, size = found[stratum], sizes[stratum]
        by_size = (drawn + 0.5) / size if allocation == "proportional" and drawn else drawn
        return by_size, -size, stratum

    queue = [turn(stratum) for stratum, size in sizes.items() if size]
    heapq.heapify(queue)
    while queue and number:
        stratum = heapq.heappop(queue)[2]
        found[stratum] += 1
        number -= 1
        if found[stratum] < sizes[stratum]:
            heapq.heappush(queue, turn(stratum))
    return found


def draw(rows: pl.DataFrame, design: Design, number: int) -> pl.DataFrame:
    """A sample of a frame, without replacement: `trial`, `stratum` and `weight`."""
    populations = sizes(rows)
    taken = allocate(populations, number, design.allocation)
    found = []
    for stratum, trials in rows.group_by("stratum"):
        name = str(stratum[0])
        if taken[name]:
            weight = populations[name] / taken[name]
            ranked = sorted(trials["trial"], key=lambda trial: _rank(design.seed, "draw", trial))
            found += [(trial, name, weight) for trial in ranked[: taken[name]]]
    schema = {"trial": pl.String, "stratum": pl.String, "weight": pl.Float64}
    return pl.DataFrame(sorted(found), schema=schema, orient="row")


def item_of(audit: str, prompt: str, response: str) -> str:
    """The id of a text. It tells nothing of who or what it is about."""
    text = json.dumps([audit, prompt, response])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shuffled(items: Iterable[str], seed: int) -> list[str]:
    """Each item once, in an order that the seed alone decides."""
    return sorted(set(items), key=lambda item: _rank(seed, "order", item))


def _rank(seed: int, what: str, key: str) -> bytes:
    return hashlib.sha256(json.dumps([seed, what, key]).encode()).digest()


def labelled(
    table: pl.DataFrame, design: Design, drawn: Iterable[Drawn], gold: Mapping[str, str]
) -> pl.DataFrame:
    """What people say of the trials of a table, a row for each: `trial`, `human` (null where nobody
    labelled it), `weight` and `barred`.

    The weight is the trials of its stratum by those with a label: that not all of a sample is
    labelled yet does no harm, since its order is random. `barred` says why trials such as this one
    cannot be labelled, null where they can. `gold` is by item.
    """
    rows = frame(table, design)
    said = {one.trial: gold[one.item] for one in drawn if one.item in gold}
    rows = rows.with_columns(
        human=pl.col("trial").replace_strict(said, default=None, return_dtype=pl.String)
    )
    seen, every = pl.col("human").count().over("stratum"), pl.len().over("stratum")
    late = pl.lit(
        "responses were judged after the sample was drawn and had no chance to be in it; draw some "
        "more with --sample"
    )
    unseen = pl.format("nobody has labelled any response of the stratum {} yet", "stratum")
    rows = rows.with_columns(
        weight=pl.when(seen > 0).then(every / seen),
        barred=late if sizes(rows) != design.sizes else pl.when(seen == 0).then(unseen),
    )
    out = pl.lit("some of the responses had no chance to be in the sample, which is narrower")
    return (
        table.select(pl.col("trial").unique(maintain_order=True))
        .join(rows.with_columns(inside=True), on="trial", how="left", maintain_order="left")
        .with_columns(barred=pl.when(pl.col("inside")).then("barred").otherwise(out))
        .select("trial", "human", "weight", "barred")
    )


# -- what people say ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far annotators agree on the `items` that two or more of them labelled.

    `coefficient` is Cohen's kappa for two, and Krippendorff's alpha for more; `same` is the share
    of these items that all gave one label.
    """

    coefficient: Literal["kappa", "alpha"]
    items: int
    same: agreement.Estimate
    value: agreement.Estimate


@dataclass(frozen=True, slots=True)
class Merged:
    """Labels by several people as one.

    `gold` is by item. `disputed` items have no majority, and `ruled` are those of them that a third
    has decided. `annotators` and `thirds` say how many labels each gave.
    """

    gold: dict[str, str]
    disputed: tuple[str, ...]
    ruled: tuple[str, ...]
    annotators: dict[str, int]
    thirds: dict[str, int]

    @property
    def open(self) -> tuple[str, ...]:
        """The disputed items that nobody has decided."""
        return tuple(item for item in self.disputed if item not in self.gold)


def merge(labels: Iterable[HumanLabel]) -> Merged:
    """One label for each item: what more than half of its annotators said.

    Where they disagree, what more than half of the thirds said; else there is none.
    """
    votes: dict[bool, dict[str, Counter[str]]] = {False: {}, True: {}}
    people: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for one in labels:
        votes[one.third].setdefault(one.item, Counter())[one.label] += 1
        people[one.third][one.annotator] += 1
    majority = {item: found for item, v in votes[False].items() if (found := _majority(v))}
    disputed = tuple(item for item in votes[False] if item not in majority)
    ruled = {
        item: found
        for item in disputed
        if item in votes[True] and (found := _majority(votes[True][item]))
    }
    return Merged(
        gold=majority | ruled,
        disputed=disputed,
        ruled=tuple(ruled),
        annotators=dict(sorted(people[False].items())),
        thirds=dict(sorted(people[True].items())),
    )


def _majority(votes: Counter[str]) -> str | None:
    label, count = votes.most_common(1)[0]
    return label if 2 * count > votes.total() else None


def agree(
    labels: Sequence[HumanLabel], clusters: Mapping[str, str], level: float = 0.95
) -> Agreement | None:
    """How far annotators agree; None where no item has labels by two. Thirds do not count: they saw
    nothing but what others disagreed on.

    `clusters` says which items resemble each other (by item); intervals draw whole clusters.
    """
    own = [one for one in labels if not one.third]
    people, seen = sorted({one.annotator for one in own}), Counter(one.item for one in own)
    items = sorted(item for item, count in seen.items() if count > 1)
    if not items:
        return None
    index = {label: i for i, label in enumerate(sorted({one.label for one in own}))}
    place = {item: i for i, item in enumerate(items)}
    ratings = np.full((len(people), len(items)), -1, np.int64)
    for one in own:
        if one.item in place:
            ratings[people.index(one.annotator), place[one.item]] = index[one.label]
    ratings = ratings[(ratings >= 0).any(1)]
    keys = [clusters.get(item, item) for item in items]
    two = len(ratings) == 2

    def coefficient(rows: agreement.Indices) -> float:
        if two:
            one, other = ratings[:, rows]
            return agreement.cohen_kappa(agreement.confusion(one, other, len(index)))
        return agreement.krippendorff_alpha(ratings[:, rows])

    given = np.where(ratings < 0, ratings.max(0), ratings)
    low, high = agreement.interval(coefficient, keys, level=level)
    return Agreement(
        coefficient="kappa" if two else "alpha",
        items=len(items),
        same=agreement.share((given == given[0]).all(0), keys, level=level),
        value=agreement.Estimate(coefficient(np.arange(len(items))), low, high),
    )
