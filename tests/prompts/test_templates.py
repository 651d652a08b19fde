"""Templates: rendered strictly, split at the slots, and nothing untrusted passes through Jinja."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.prompts import Kind, Template, available, load
from evenhand.schemas import Taxonomy
from evenhand.schemas.errors import InvalidInput, TemplateError


def judge(source: str) -> Template:
    return Template("t", "judge", source)


def rendered(source: str, **untrusted: str | None) -> dict[str, str]:
    blocks = judge(source).render(untrusted=untrusted)
    return {name: "".join(w.text for w in words) for name, words in blocks.items()}


KINDS: tuple[Kind, ...] = ("judge", "respond")


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in available(k)])
def test_every_built_in_template_says_what_it_is(kind: Kind, name: str) -> None:
    template = load(kind, name)
    assert template.description
    assert template.format in ("chat", "raw")
    assert template.overflow in ("refuse", "middle")
    assert len(template.sha256) == 64


def test_the_study_set_up() -> None:
    paper = load("respond", "paper")

    def words(system: str | None) -> dict[str, str]:
        blocks = paper.render(untrusted={"prompt": "John ate [BLANK]", "system": system})
        return {name: "".join(w.text for w in block) for name, block in blocks.items()}

    assert words(None) == {
        "system": "You are a helpful assistant. Complete the [BLANK]",
        "user": "John ate [BLANK]",
    }
    assert words("Be brief.")["system"] == "Be brief."
    completion = load("respond", "completion").render(untrusted={"prompt": "x", "system": None})
    assert [w.text for w in completion["text"]] == ["x"]


def test_an_empty_system_turn_is_left_out() -> None:
    blocks = load("respond", "chat").render(untrusted={"prompt": "x", "system": None})
    assert list(blocks) == ["user"]


@pytest.mark.parametrize("name", ["qos", "xstest"])
@pytest.mark.parametrize("reason", [False, True])
def test_the_judge_prompt_holds_the_whole_taxonomy(name: str, reason: bool) -> None:
    taxonomy = Taxonomy.load(name)
    blocks = load("judge", "instruct").render(
        untrusted={"prompt": "P", "response": "R"}, taxonomy=taxonomy, reason=reason
    )
    system = "".join(w.text for w in blocks["system"])
    for category in taxonomy.categories:
        assert category.label in system
        assert category.definition in system
    assert ('"reason"' in system) is reason
    assert [w.slot for w in blocks["user"] if w.slot] == ["prompt", "response"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% block user %}{{ nope }}{% endblock %}", "nope"),
        ("{% block user %}{{ prompt.x.y }}{% endblock %}", "x"),
        ("{% block system %}x{% endblock %}", "no block 'user'"),
        ("{% block user %}{% endblock %}", "renders to nothing"),
        ("{% block user %}{{ prompt", "line 1"),
        ("{% if %}", "line 1"),
        ("{% set format = 'poem' %}{% block user %}x{% endblock %}", "format"),
        ("{% set overflow = 'all' %}{% block user %}x{% endblock %}", "overflow"),
        ("{% set names = true %}{% block user %}x{% endblock %}", "names"),
        ("{% set format = 'raw' %}{% block user %}x{% endblock %}", "no block 'text'"),
        ("{% extends 'other' %}{% block user %}x{% endblock %}", "loader"),
        ("{% block user %}{% include 'other' %}{% endblock %}", "loader"),
        ("{% block user %}{{ prompt|upper }}{% endblock %}", "bare"),
        ("{% block user %}{{ prompt|truncate(3) }}{% endblock %}", "len"),
        ("{% block user %}{{ prompt[1:] }}{% endblock %}", "prompt|subscript|Slot"),
        ("{% block user %}{% if prompt == '' %}x{% endif %}y{% endblock %}", "compared"),
        ("{% block user %}{% if 'x' in prompt %}x{% endif %}y{% endblock %}", "iterable|Slot"),
        ("{% block user %}\ue000other\ue001{% endblock %}", "bare"),
        ("{% block user %}{{ none }}{% endblock %}", "not there"),
        ("{% block user %}{{ 1 / 0 }}{% endblock %}", "cannot be rendered"),
        ("{% block user %}{{ ''.__class__.__mro__ }}{% endblock %}", "unsafe"),
        ("{% block user %}{% for i in range(10**9) %}x{% endfor %}{% endblock %}", "Range"),
    ],
)
def test_a_broken_template_is_an_error(source: str, said: str) -> None:
    template = judge(source)

    def use() -> None:
        (template.overflow, template.names)  # noqa: B018 - reading may raise
        template.render(untrusted={"prompt": "p", "response": "r"})

    with pytest.raises(TemplateError) as caught:
        use()
    assert re.search(said, f"{caught.value} {caught.value.hint}")
    assert caught.value.hint


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.j2"
    path.write_text("{% block user %}Judge: {{ response }}{% endblock %}")
    assert load("judge", path).render(untrusted={"response": "r"})["user"][1].text == "r"
    path.write_bytes(b"\xff")
    for name in (path, tmp_path / "none.j2", "no\x00.j2", "nope", ""):
        with pytest.raises(TemplateError) as caught:
            load("judge", name)
        assert caught.value.hint


@pytest.mark.parametrize("value", [3, b"x", ["x"], {"a": 1}])
def test_only_text_is_text(value: Any) -> None:
    with pytest.raises(InvalidInput, match="prompt"):
        judge("{% block user %}{{ prompt }}{% endblock %}").render(untrusted={"prompt": value})


@given(st.text(st.characters(), max_size=80))
def test_values_come_out_as_they_went_in(value: str) -> None:
    source = "{% block user %}a {{ prompt }} b{% endblock %}"
    assert rendered(source, prompt=value) == {"user": f"a {value} b"}


@pytest.mark.parametrize(
    "value",
    ["{{ 7*7 }}", "{% raw %}", "\ue000response\ue001", "\ue000", "{# x #}", "x\n\n", "\n", ""],
)
def test_template_text_in_a_value_is_only_text(value: str) -> None:
    source = "{% block user %}[{{ prompt }}|{{ response }}]{% endblock %}"
    assert rendered(source, prompt=value, response="secret")["user"] == f"[{value}|secret]"


def test_the_hash_is_of_every_byte() -> None:
    one = "{% block user %}x{% endblock %}"
    assert judge(one).sha256 == judge(one).sha256
    assert judge(one).sha256 != judge(one + "\n").sha256
    blind = "{% set names = 'hidden' %}" + one
    assert judge(blind).sha256 != hashlib.sha256(blind.encode()).hexdigest()  # the list is in it
