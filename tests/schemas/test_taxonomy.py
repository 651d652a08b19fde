"""Promise 6: one taxonomy object yields labels, schema, answers and crosswalk; TOML is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evenhand.schemas import Taxonomy, builtin_taxonomies
from evenhand.schemas.errors import NotFound, TaxonomyError
from evenhand.schemas.taxonomy import builtin_source

GOOD = """
name = "mood"
version = "1"
title = "Mood"

[[categories]]
label = "glad"
definition = "The response sounds glad."

[[categories]]
label = "sad"
definition = "The response sounds sad."
is_not = "Sober is not sad."
example = { prompt = "p", response = "Alas." }

[[crosswalks]]
name = "tone"
labels = { glad = "up", sad = "down" }
"""


def test_the_built_in_taxonomies() -> None:
    assert builtin_taxonomies() == ["qos", "xstest"]
    qos, xstest = Taxonomy.load("qos"), Taxonomy.load("xstest")
    assert len(qos.labels) == 6
    assert {qos.crosswalk(label)["xstest"] for label in qos.labels} == set(xstest.labels)
    assert all(c.example and c.is_not for c in qos.categories)
    assert Taxonomy.load(qos) is qos


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mood.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())  # some editors put a byte-order mark first
    for source in (path, str(path)):
        mood = Taxonomy.load(source)
        assert mood.labels == ("glad", "sad")
        assert mood.crosswalk("sad") == {"tone": "down"}
        assert mood.answers() == {"glad": '{"label":"glad"}', "sad": '{"label":"sad"}'}


def test_the_schema_admits_the_answers_alone() -> None:
    mood = Taxonomy.from_toml(GOOD)
    assert mood.json_schema()["properties"]["label"]["enum"] == ["glad", "sad"]
    assert list(mood.json_schema(reason=True)["properties"]) == ["reason", "label"]
    assert mood.json_schema()["additionalProperties"] is False
    for answer in mood.answers().values():
        assert mood.answer_model.model_validate_json(answer).model_dump_json() == answer
    wrong: list[Any] = [{"label": "x"}, {"label": "glad", "x": 1}, {}, [], {"label": None}]
    for data in wrong:
        with pytest.raises(ValidationError):
            mood.answer_model.model_validate_json(json.dumps(data))
    with pytest.raises(ValidationError):
        mood.reasoned_model.model_validate({"label": "glad"})


def test_everything_in_it_counts_for_fingerprints() -> None:
    base = Taxonomy.from_toml(GOOD).digest_text()
    for old, new in [
        ("Mood", "Moods"),
        ('version = "1"', 'version = "2"'),
        ("sounds glad", "is glad"),
        ("Alas.", "Alas!"),
        ('"up"', '"high"'),
        ("Sober", "Calm"),
    ]:
        assert Taxonomy.from_toml(GOOD.replace(old, new)).digest_text() != base


@pytest.mark.parametrize(
    ("old", "new", "key", "mend"),
    [
        ('version = "1"', "version = 1", "version", "in quotes"),
        ('version = "1"', "", "version", "Add the key 'version'"),
        ('name = "mood"', 'name = "My Mood"', "name", "lower-case"),
        ('title = "Mood"', 'titel = "Mood"', "titel", "Did you mean 'title'?"),
        ('is_not = "', 'isnot = "', "categories[2] (sad).isnot", "Did you mean 'is_not'?"),
        ('label = "sad"', 'label = "glad"', "categories", "message names"),
        ('label = "sad"', 'label = "Glad"', "categories", "message names"),
        ('label = "sad"', 'label = "säd"', "categories[2] (säd).label", "letters, digits"),
        ('label = "sad"', 'label = "sad "', "categories[2] (sad ).label", "not ending with"),
        ('label = "sad"', 'label = "a\\"b"', "label", "letters, digits"),
        ('label = "sad"', "", "categories[2].label", "Add the key 'label'"),
        (
            'definition = "The response sounds glad."',
            'definition = "  "',
            "categories[1] (glad).definition",
            "Write something",
        ),
        ('response = "Alas."', 'respons = "Alas."', "example.respons", "Did you mean 'response'?"),
        ('prompt = "p", ', "", "categories[2] (sad).example.prompt", "Add the key 'prompt'"),
        (
            'is_not = "Sober is not sad."',
            'helps = "maybe"',
            "categories[2] (sad).helps",
            "Use one of 'yes'",
        ),
        (', sad = "down"', "", "crosswalks.tone.labels", "message names"),
        ('sad = "down"', 'sad = "down", mad = "x"', "crosswalks.tone.labels", "message names"),
        ("[[crosswalks]]", "[crosswalks]", "crosswalks", "[[crosswalks]]"),
        ('example = { prompt = "p", response = "Alas." }', 'example = "x"', "example", "table"),
        ("[[categories]]", "[[category]]", "category", "Did you mean 'categories'?"),
        ('name = "mood"', 'name = "mood', "line 2", "line"),
    ],
)
def test_a_broken_file_names_the_key_and_the_mend(old: str, new: str, key: str, mend: str) -> None:
    assert old in GOOD
    with pytest.raises(TaxonomyError) as caught:
        Taxonomy.from_toml(GOOD.replace(old, new), origin="mood.toml")
    assert str(caught.value).startswith("mood.toml: ")
    assert key in str(caught.value)
    assert mend in caught.value.hint


def test_a_taxonomy_of_one_label_is_none() -> None:
    one = GOOD[: GOOD.index("[[categories]]", GOOD.index("[[categories]]") + 1)]
    with pytest.raises(TaxonomyError, match="categories") as caught:
        Taxonomy.from_toml(one)
    assert "two categories" in caught.value.hint


@pytest.mark.parametrize("source", ["nope", "", "nope.toml", "qos.toml\x00", "../qos"])
def test_what_is_not_there(source: str) -> None:
    with pytest.raises((NotFound, TaxonomyError)) as caught:
        Taxonomy.load(source)
    assert caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.mkdir()
    with pytest.raises(TaxonomyError):
        Taxonomy.load(path)
    (tmp_path / "y.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(TaxonomyError, match="cannot be read"):
        Taxonomy.load(tmp_path / "y.toml")


def test_the_source_of_a_built_in_one_is_itself() -> None:
    assert Taxonomy.from_toml(builtin_source("qos")) == Taxonomy.load("qos")
    with pytest.raises(NotFound):
        builtin_source("nope")
