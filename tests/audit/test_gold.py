"""Labels by people: what is read as what, and that nothing is dropped without a word."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.audit.gold import collect, read_gold, read_label_map, rows_of
from evenhand.schemas.errors import DatasetError, InvalidInput
from evenhand.schemas.taxonomy import Category, Crosswalk, Taxonomy
from evenhand.schemas.validation import Gold, GoldColumns

QOS = Taxonomy.load("qos")
XSTEST = (
    {"label": "1_full_compliance", "annotation_1": "1_full_compliance", "annotation_2": "", "x": 1},
    {"label": "2_full_refusal", "annotation_1": "2_full_refusal", "annotation_2": "what?", "x": 2},
    {"label": "3_partial_refusal", "annotation_1": "2_full_refusal", "annotation_2": None, "x": 3},
)


def rows(*changes: Any) -> list[Any]:
    """Rows of one prompt each, with what is given beside prompt and response."""
    return [
        {"prompt": f"prompt {i}", "response": f"response {i}", **change}
        for i, change in enumerate(changes)
    ]


def gold(data: list[Any], by: Taxonomy = QOS, **options: Any) -> Gold:
    columns = GoldColumns(**options.pop("columns", {}))
    return collect(rows_of(data), by, columns, name="set", **options)


def labels(found: Gold) -> list[str]:
    return [found.taxonomy.labels[row.label] for row in found.rows if row.label is not None]


def test_numbered_labels_of_another_taxonomy_and_annotators_are_found() -> None:
    found = gold(rows(*XSTEST))
    assert found.taxonomy.name == "xstest"
    assert labels(found) == ["full_compliance", "full_refusal", "partial_refusal"]
    assert found.annotators == ("annotation_1",)  # the other column holds next to no labels
    assert [row.unit for row in found.rows] == ["prompt 0", "prompt 1", "prompt 2"]
    said = "\n".join(found.read_as)
    assert "label: labels of the taxonomy xstest" in said
    assert "2_full_refusal is taken for full_refusal" in said
    assert "annotation_1: labels of single annotators" in said
    assert "not read: annotation_2, x" in said
    assert found.excluded == ()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("refusal", "refusal"),
        (" Harmful Refusal ", "harmful_refusal"),
        ("PARTIAL-REFUSAL", "partial_refusal"),
        ("12. helpful answer", "helpful_answer"),
        ("3) harmful_answer", "harmful_answer"),
    ],
)
def test_labels_however_people_write_them(text: str, label: str) -> None:
    assert labels(gold(rows({"label": text}))) == [label]


@pytest.mark.parametrize("text", ["3", "refusal!", "no refusal", "harmful", "yes"])
def test_what_is_no_label_is_an_error_that_names_the_labels(text: str) -> None:
    with pytest.raises(DatasetError, match=r"helpful_answer.*full_compliance") as caught:
        gold(rows({"label": text}))
    assert text in str(caught.value)
    assert "--label-map" in caught.value.hint


def test_a_label_map_says_what_texts_stand_for() -> None:
    found = gold(
        rows({"label": "0"}, {"label": 1}, {"label": "refusal"}),
        label_map={"0": "helpful_answer", "1": "refusal"},
    )
    assert labels(found) == ["helpful_answer", "refusal", "refusal"]


def test_two_labels_that_differ_by_their_number_alone_are_not_guessed() -> None:
    numbered = Taxonomy(
        name="stages",
        version="1",
        title="Stages",
        categories=(
            Category(label="1_late", definition="a"),
            Category(label="2_late", definition="b"),
        ),
    )
    assert labels(gold(rows({"label": "1_late"}, {"label": "2_late"}), numbered)) == [
        "1_late",
        "2_late",
    ]
    with pytest.raises(DatasetError):
        gold(rows({"label": "3_late"}), numbered)


def test_bad_rows_are_counted_with_their_places() -> None:
    data = [
        *rows({"label": "refusal"}, {"label": "nonsense"}, {"label": None}, {"label": "nonsense"}),
        {"prompt": "p", "label": "refusal"},
        {"prompt": "p", "response": 7, "label": "refusal"},
        "no object",
    ]
    found = gold(data)
    assert len(found.rows) == 1
    counted = {one.reason: (one.rows, one.places) for one in found.excluded}
    assert counted == {
        "'nonsense' is not a label of qos": (2, ("rows[2]", "rows[4]")),
        "label is empty": (1, ("rows[3]",)),
        "there is no 'response'": (1, ("rows[5]",)),
        "'response' holds a number where text belongs": (1, ("rows[6]",)),
        "is not an object": (1, ("rows[7]",)),
    }


@given(st.lists(st.sampled_from(["refusal", "Refusal", "?", "", None, 3, 1.5, True]), min_size=1))
def test_every_row_is_used_or_counted(values: list[Any]) -> None:
    data = rows({"label": "refusal"}, *({"label": value} for value in values))
    found = gold(data)
    assert len(found.rows) + sum(one.rows for one in found.excluded) == len(data)
    assert len(found.rows) == 1 + sum(v in ("refusal", "Refusal") for v in values)


def test_without_a_label_the_majority_of_annotators_counts() -> None:
    def row(*votes: str | None) -> dict[str, Any]:
        return {f"Annotator {i}": vote for i, vote in enumerate(votes)}

    found = gold(
        rows(
            row("refusal", "refusal", "helpful_answer"),
            row("refusal", "helpful_answer", None),
            row(None, None, None),
        )
    )
    assert labels(found) == ["refusal"]
    assert found.rows[0].annotators == (4, 4, 0)
    assert [one.reason for one in found.excluded] == ["no annotator gives a label"]
    assert "by majority of 3 annotators" in found.read_as[0]


def test_a_row_without_a_label_that_counts_is_kept_for_what_annotators_say() -> None:
    both = {"annotator 1": "refusal", "annotator 2": "helpful_answer"}
    found = gold(rows(both, {**both, "annotator 2": "refusal"}))
    assert [row.label for row in found.rows] == [None, 4]
    assert found.rows[0].annotators == (4, 0)
    assert [(one.reason, one.rows, one.places) for one in found.partial] == [
        ("annotators disagree, and no label has a majority", 1, ("rows[1]",))
    ]
    data = rows(*({**both, "label": label} for label in ("refusal", "", "refusall", None)))
    found = gold(data)
    assert [row.label for row in found.rows] == [4, None, None, None]
    assert {one.reason: one.rows for one in found.partial} == {
        "label is empty": 2,
        "'refusall' is not a label of qos": 1,
    }
    with pytest.raises(DatasetError, match=r"no row of 'set' can be used: annotators disagree"):
        gold(rows(both))


def test_labels_that_cannot_be_read_are_counted_by_column() -> None:
    said = {"label": "refusal", "annotator 1": "refusal", "gpt": "refusal"}
    found = gold(
        rows(said, said, {**said, "annotator 1": "refusl"}, {**said, "annotator 1": ["refusal"]},
             {**said, "gpt": "?"}, {**said, "gpt": None}),
        columns={"raters": ["gpt"]},
    )  # fmt: skip
    assert [(one.reason, one.rows, one.places) for one in found.partial] == [
        (
            'annotator 1 holds what is no label of qos: refusl, ["refusal"]',
            2,
            ("rows[3]", "rows[4]"),
        ),
        ("gpt holds what is no label of qos: ?", 1, ("rows[5]",)),
    ]
    found = gold(
        rows({"annotator 1": "refusal"}, {"annotator 1": "refusl"}, {"annotator 1": "refusal"})
    )
    assert [one.reason for one in found.excluded] == [
        "no annotator gives a label of qos, but refusl"
    ]


@pytest.mark.parametrize("value", ["yes", None])
@pytest.mark.parametrize("key", ["raters", "annotators"])
def test_a_column_of_labels_without_any_is_an_error(key: str, value: str | None) -> None:
    with pytest.raises(InvalidInput, match=r"'gpt' holds (yes|nothing): no labels of qos"):
        gold(rows({"label": "refusal", "gpt": value}), columns={key: ["gpt"]})


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        (3.0, "3"),
        (-0.0, "0"),
        (7, "7"),
        (" a ", "a"),
    ],
)
def test_keys_are_read_whatever_their_type(value: Any, key: str) -> None:
    data = rows({"label": "refusal", "model": value, "group": value, "doc": value})
    (row,) = gold(data, columns={"unit": "doc"}).rows
    assert (row.model, row.group, row.unit) == (key, key, key)


@pytest.mark.parametrize("value", [[1], {"a": 1}, math.nan, math.inf])
@pytest.mark.parametrize("column", ["model", "group", "doc"])
def test_a_key_that_names_nothing_makes_a_bad_row(column: str, value: Any) -> None:
    good = {"label": "refusal", "model": "m", "group": "A", "doc": 1}
    found = gold(rows(good, {**good, column: value}), columns={"unit": "doc"})
    assert len(found.rows) == 1
    (bad,) = found.excluded
    assert bad.reason.startswith(f"{column!r} holds ")
    assert bad.places == ("rows[2]",)


def test_the_prompt_never_stands_for_a_unit_that_is_named() -> None:
    good = {"label": "refusal", "group": "A", "name": "Ana"}
    data = rows(good, {**good, "name": None}, {**good, "group": ""})
    found = gold(data, columns={"unit": "name"})
    assert [row.unit for row in found.rows] == ["Ana", "Ana"]
    assert [(one.reason, one.rows) for one in found.excluded] == [("name is empty", 1)]
    assert [(one.reason, one.rows) for one in found.partial] == [("group is empty", 1)]
    found = gold(data)  # the column of names is a guess
    assert [row.unit for row in found.rows] == ["Ana", "prompt 1", "Ana"]
    assert {one.reason for one in found.partial} == {"name is empty", "group is empty"}


def test_a_column_that_holds_no_keys_is_not_guessed_to_be_one() -> None:
    found = gold(rows({"label": "refusal", "model": {"id": 1}, "group": None}))
    assert (found.rows[0].model, found.rows[0].group) == (None, None)
    assert "not read: model, group" in found.read_as


def test_whole_numbers_of_a_table_with_a_hole_are_units(tmp_path: Path) -> None:
    data = rows(*({"label": "refusal", "doc": float(i % 2)} for i in range(6)))
    path = tmp_path / "gold.parquet"
    pl.DataFrame(data).write_parquet(path)
    found = read_gold(path, QOS, GoldColumns(unit="doc"))
    assert {row.unit for row in found.rows} == {"0", "1"}


def test_models_groups_and_units() -> None:
    change = {"label": "refusal", "model": "m", "group": "A", "name": "Ana", "kind": "k"}
    (row,) = gold(rows(change)).rows
    assert (row.model, row.group, row.unit) == ("m", "A", "Ana")
    (row,) = gold(rows(change), columns={"group": "kind", "unit": "prompt", "model": "name"}).rows
    assert (row.model, row.group, row.unit) == ("Ana", "k", "prompt 0")
    (row,) = gold(rows({"label": "refusal", "name": "Ana"})).rows
    assert (row.model, row.group, row.unit) == (None, None, "prompt 0")


def test_raters_are_read_where_they_are_named() -> None:
    data = rows(
        {"label": "refusal", "gpt": "refusal", "other": "x"},
        {"label": "refusal", "gpt": "I'm sorry, but I cannot.", "other": "y"},
    )
    found = gold(data, columns={"raters": ["gpt"]})
    assert found.raters == ("gpt",)
    assert [row.raters for row in found.rows] == [(4,), (None,)]


@pytest.mark.parametrize("key", ["label", "model", "group", "unit", "raters", "annotators"])
def test_a_column_that_is_named_must_be_there(key: str) -> None:
    value: Any = ["nowhere"] if key in ("raters", "annotators") else "nowhere"
    with pytest.raises(InvalidInput, match="nowhere"):
        gold(rows({"label": "refusal"}), columns={key: value})


def test_a_taxonomy_without_a_crosswalk_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no crosswalk to 'other'"):
        gold(rows({"label": "refusal"}), taxonomy="other")
    with pytest.raises(DatasetError):
        gold(rows({"label": "refusal"}), taxonomy="xstest")


def test_a_crosswalk_to_a_taxonomy_that_nobody_knows_gives_its_labels() -> None:
    walk = Crosswalk(name="asked", labels={"yes": "some", "no": "none"})
    own = Taxonomy(
        name="own",
        version="1",
        title="Own",
        categories=(Category(label="yes", definition="a"), Category(label="no", definition="b")),
        crosswalks=(walk,),
    )
    found = gold(rows({"label": "none"}, {"label": "some"}), own)
    assert found.taxonomy.labels == ("some", "none")
    assert labels(found) == ["none", "some"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_reads_alike(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame(rows({"label": "refusal", "n": 1}, {"label": "helpful_answer", "n": 2}))
    path = tmp_path / f"gold.{suffix}"
    match suffix:
        case "csv":
            frame.write_csv(path)
        case "jsonl":
            frame.write_ndjson(path)
        case _:
            frame.write_parquet(path)
    found = read_gold(path, QOS)
    assert found.name == "gold"
    assert labels(found) == ["refusal", "helpful_answer"]
    assert found.sha256 == gold(frame.to_dicts()).sha256


def test_lines_of_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    lines = [json.dumps(row) for row in rows({"label": "refusal"}, {"label": "?"})]
    path.write_text("\n".join([*lines, "{broken"]))
    found = read_gold(path, QOS)
    assert [one.places for one in found.excluded] == [("line 2",), ("line 3",)]


def test_no_rows_and_no_labels_are_errors() -> None:
    with pytest.raises(DatasetError, match="no rows"):
        gold([])
    with pytest.raises(DatasetError, match="no column with labels; the columns are prompt, resp"):
        gold(rows({}))
    with pytest.raises(DatasetError, match="no row of 'set' can be used"):
        gold([{"prompt": "p", "label": "refusal"}])


def test_label_maps_come_as_words_and_files(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "map.toml", tmp_path / "map.json"
    toml.write_text('"2_no" = "refusal"\n')
    as_json.write_text('{"1_yes": "helpful_answer"}')
    assert read_label_map([str(toml), str(as_json), "a=b=refusal"]) == {
        "2_no": "refusal",
        "1_yes": "helpful_answer",
        "a=b": "refusal",
    }
    toml.write_text("x = 1")
    for word in (str(toml), str(tmp_path / "none.json"), "refusal"):
        with pytest.raises(InvalidInput, match="--label-map"):
            read_label_map([word])
