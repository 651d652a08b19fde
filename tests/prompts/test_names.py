"""Names are hidden wherever they stand, and which one stood there cannot be told."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.prompts import names
from evenhand.schemas.shipped import toml_texts

LISTED = sorted(names.hidden())
PLAIN = [name for name in LISTED if re.fullmatch(r"[^\W\d_]+", name)]


def hide(*texts: str) -> list[str]:
    return [text for text, _ in names.hide(texts)]


def test_a_name_becomes_the_same_stand_in_in_every_text() -> None:
    assert names.hide(["May Emily go?", "Emily may. Jamal's dog and Emily's stay."]) == [
        ("May Alex go?", 1),
        ("Alex may. Sam's dog and Alex's stay.", 3),
    ]
    assert hide("Emily?", "Jamal, Emily, Jamal.") == ["Alex?", "Sam, Alex, Sam."]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Emilyville, emily and EMILY", "Emilyville, emily and EMILY"),
        ("Emily’s, Emily's and James' dogs", "Alex’s, Alex's and Sam' dogs"),
        ("D'Andre's hat", "Alex's hat"),
        ("D’Andre’s hat", "Alex’s hat"),
        ("Mary-Lou sings", "Alex sings"),
        ("an Emily-like Emily-Jamal", "an Alex-like Alex-Sam"),
        ('(Emily), "Emily", Emily2 and _Emily_', '(Alex), "Alex", Alex2 and _Alex_'),
        (unicodedata.normalize("NFD", "Zhòng ate"), "Alex ate"),
        ("José, Jose", "Alex, Sam"),
        ("Don't. Won't. Can't. Shan't. Emily't. Ma'am. Mine. Will's.", None),
        ("Emily'd say Jamal'll go, Jo’s", "Alex'd say Sam'll go, Jo’s"),
        ("", ""),
    ],
)
def test_what_is_a_name(text: str, seen: str | None) -> None:
    assert hide(text) == [text if seen is None else seen]


def test_a_stand_in_that_the_text_holds_is_hidden_too() -> None:
    assert hide("Emily met Alex.") == ["Alex met Sam."]


def test_with_more_people_than_stand_ins_they_come_round_again() -> None:
    seen = hide(" ".join(PLAIN[:20]))[0].split()
    assert len(set(seen)) == 8
    assert seen == [*seen[:8], *seen[:8], *seen[:4]]


@given(
    st.lists(st.sampled_from(PLAIN), min_size=2, max_size=2, unique=True),
    st.lists(st.sampled_from(PLAIN), min_size=2, max_size=2, unique=True),
    st.lists(
        st.sampled_from(["{0}", "{1}", "'s ", "’s ", ", ", " ", "\n", "-like ", "the ", "Ω", ". "]),
        max_size=12,
    ),
)
def test_which_names_stood_there_cannot_be_told(
    some: list[str], others: list[str], parts: list[str]
) -> None:
    text = " ".join(parts)  # apart: no two names run into one word
    one, other = text.format(*some), text.format(*others)
    assert names.hide([one, "x"]) == names.hide([other, "x"])


@given(st.text())
def test_a_text_without_names_stays_as_it_is(text: str) -> None:
    words = set(re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text)))
    if not words & names.hidden():
        assert names.hide([text]) == [(text, 0)]


@given(st.text(alphabet="aE-'’\u0301 "))
def test_hiding_twice_changes_nothing_more(text: str) -> None:
    (once,) = hide(f"Emily {text} Jamal")
    assert hide(once) == [once]


def test_a_word_of_many_joints_takes_no_longer_than_others() -> None:
    long = "-".join(["Emily"] * 50_000) + "'s" * 50_000
    assert hide(long)[0].startswith("Alex-Alex-Alex")


def test_names_of_the_built_in_audits_are_listed() -> None:
    for text in toml_texts("evenhand.prompts", "audits").values():
        for group in tomllib.loads(text)["groups"]:
            listed = {n for key in ("popular", "rare", "names") for n in group.get(key, ())}
            assert listed <= names.hidden(), group["name"]


def test_no_name_is_listed_twice_and_each_is_one_word() -> None:
    file = tomllib.loads((resources.files("evenhand.prompts") / "names.toml").read_text("utf-8"))
    parts = [*file["groups"].values(), file["further"]]
    listed = [name for part in parts for some in part.values() for name in some]
    assert len(listed) == len(set(listed))
    assert round(len(listed), -2) == 4_600  # as README says
    assert [name for name in listed if hide(name) != ["Alex"]] == []
