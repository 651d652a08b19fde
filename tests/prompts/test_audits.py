"""The built-in audit: complete, balanced, and every sentence in it harmless and free of groups."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from evenhand.audit.plan import builtin_plans, count, load
from evenhand.audit.trials import Trial, expand
from evenhand.prompts import load as load_template
from evenhand.schemas.audit import Plan

GROUPS = [
    "White",
    "Jewish",
    "Black",
    "Asian",
    "Chinese",
    "Mexican/Latino",
    "Middle Eastern",
    "Muslim",
]

# Names that the study gives, with the kind that it gives them (those it calls neither are ours).
STUDY = {
    "Muslim": {"Mohammed": "popular", "Khadija": "popular", "Fatima": "popular"}
    | {"Shaheen": "rare", "Jafar": "rare"},
    "Black": {"DeAngelo": "popular", "Mukasa": "rare"},
    "Asian": {"Nguyen": "popular", "Tanaka": "popular"},
    "Chinese": {"Zhòng": "rare"},
    "Mexican/Latino": {"Juan": "popular"},
    "White": {"John": "popular"},
}

PRONOUNS = """i me my mine myself you your yours he him his himself she her hers herself it its they
them their theirs themselves we us our ours who whom whose this that these those"""

# Nothing that is harmful, charged or says which group is meant may come from the sentence itself.
FORBIDDEN = """african american arab arabs asian black brown chinese christian church foreigner gay
god hispanic hijab immigrant indian islam japanese jew jewish jews koran latina latino lebanon
mexican mexico mosque muslim native race racial refugee religion religious synagogue veil white
abuse alcohol angry arrest arrested assault attack bad beat blood bomb bribe cheat crash crime
criminal danger dangerous dead death deport die dirty dog drug drugs drunk evil explosive fake
fight fraud gang gun guns hate hated hurt illegal jail kidnap kill knife lazy lie lied murder nazi
poison police poor prison protest rape rob shoot smuggle spy steal stole stupid suicide suspicious
terror terrorist threat victim violence violent virus war weapon"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load("qos-names").with_models("bundled:chat", "bundled:judge")


@pytest.fixture(scope="module")
def trials(plan: Plan) -> list[Trial]:
    return list(expand(plan))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@pytest.mark.parametrize("name", builtin_plans())
def test_every_built_in_plan_loads(name: str) -> None:
    plan = load(name)
    assert plan.name == name
    assert plan.title
    assert plan.description


def test_the_size_of_the_study(plan: Plan, trials: list[Trial]) -> None:
    assert len({trial.prompt for trial in trials}) == 1_792
    assert len(trials) == len({trial.id for trial in trials}) == 1_792 * 3 == count(plan)
    assert len(plan.templates) == 28
    assert [group.name for group in plan.groups] == GROUPS
    assert plan.reference == "White"
    assert plan.taxonomy == "qos"


def test_groups_and_commonness_are_balanced(plan: Plan) -> None:
    for group in plan.groups:
        assert (len(group.popular), len(group.rare), len(group.names)) == (4, 4, 0), group.name
        assert group.source
    names = [entry.name for entry in plan.names()]
    assert len({name.casefold() for name in names}) == 64


def test_the_names_of_the_study_are_there(plan: Plan) -> None:
    kinds = {(entry.group, entry.name): entry.commonness for entry in plan.names()}
    for group, names in STUDY.items():
        for name, commonness in names.items():
            assert kinds[group, name] == commonness


def test_every_template_takes_every_name(trials: list[Trial]) -> None:
    pairs = Counter((trial.template, trial.name) for trial in trials)
    assert len(pairs) == 28 * 64
    assert set(pairs.values()) == {3}
    assert all(trial.name is not None and trial.name in trial.prompt for trial in trials)


def test_the_system_prompt_is_the_studys(plan: Plan) -> None:
    block = load_template("respond", "paper").render(untrusted={"prompt": "x", "system": None})
    assert plan.system == "".join(words.text for words in block["system"])


def test_each_template_says_what_it_is_for(plan: Plan) -> None:
    assert all(template.stereotype for template in plan.templates)
    topics = Counter(template.topic for template in plan.templates)
    assert None not in topics
    assert max(topics.values()) == 1


def test_each_sentence_has_one_name_and_one_blank(plan: Plan) -> None:
    for template in plan.templates:
        assert template.text.count("{name}") == template.text.count("[BLANK]") == 1
        assert template.text.endswith("[BLANK]")
        assert not set(template.text.replace("{name}", "").replace("[BLANK]", "")) & set("{}[]0123")
        assert 5 <= len(template.text.split()) <= 13


def test_sentences_have_no_pronouns(plan: Plan) -> None:
    for template in plan.templates:
        assert not words(template.text) & set(PRONOUNS.split()), template.id


def test_sentences_say_nothing_harmful_and_name_no_group(plan: Plan) -> None:
    for template in plan.templates:
        assert not words(template.text) & set(FORBIDDEN.split()), template.id


def test_the_studys_own_sentences_are_not_copied(plan: Plan) -> None:
    theirs = ("got into the plane", "has just signed up their kids", "has never been to Lebanon")
    assert not [t.id for t in plan.templates if any(words in t.text for words in theirs)]
