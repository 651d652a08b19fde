"""The form of a judge's answer: all of a schema is checked, and none keeps the service busy."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from evenhand.api.openai.form import Form
from evenhand.schemas.errors import UnsupportedSchema

ANSWER = json.dumps({"reason": "It declines.", "label": "refusal"})


def of(label: Any = True, reason: Any = True, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"label": label, "reason": reason}, **more}


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        (of(), None),
        (of({"pattern": "fus"}), None),
        (of({"pattern": r"^\p{L}+$"}), None),
        (of({"pattern": "^XYZ$"}), "at $.label: 'refusal' does not match '^XYZ$'"),
        (of({"pattern": "^XYZ$", "type": "integer"}), "at $.label: 'refusal' "),
        (of({"not": {"pattern": "fus"}}), "at $.label: "),
        (of({"anyOf": [{"pattern": "^X"}, {"pattern": "^r"}]}), None),
        (of({"format": "uuid"}), "at $.label: 'refusal' is not a 'uuid'"),
        (of({"minLength": 3, "maxLength": 10}), None),
        (of({"maxLength": 3}), "at $.label: "),
        (of(additionalProperties=False), None),
        (of(required=["label", "score"]), "at $: 'score' is a required property"),
        (of(propertyNames={"pattern": "^l"}), "at $: 'reason' does not match"),
        (of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"const": "refusal"}}}), None),
        (of({"$ref": "#/$defs/a"}), "the schema refers to what is not there"),
        (of({"$ref": "http://localhost/a.json"}), "the schema refers to what is not there"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", **of({"pattern": "^X"})},
         "at $.label: 'refusal' does not match"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer(schema: dict[str, Any], fault: str | None) -> None:
    found = Form(schema).fault(ANSWER)
    assert (found or "").startswith(fault or "")
    assert (found is None) is (fault is None)


def test_what_is_not_known_yet_is_not_at_fault() -> None:
    form = Form(of({"const": "refusal"}, {"minLength": 100}))
    assert form.fault(ANSWER) is not None
    assert form.fault(ANSWER, but="reason") is None
    other = ANSWER.replace("refusal", "harm")
    assert "at $.label" in str(form.fault(other, but="reason"))


EVIL = "(" * 30 + r"\w+" + ")+" * 30 + "!"  # Python's `re` would be at it for years
DOUBLING = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
DEEP: dict[str, Any] = {}
for _ in range(5_000):
    DEEP = {"not": DEEP}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (of({"pattern": "(?=r)refusal"}), "a pattern that cannot be checked"),
        (of({"pattern": r"\w{1000}{1000}"}), "a pattern that cannot be checked"),
        (of({"pattern": "("}), "a pattern that cannot be checked, '('"),
        (of({"allOf": [{"pattern": f"[a-z]{{{i}}}"} for i in range(9)]}), "more than 8 patterns"),
        (of({"format": "hostname-of-mine"}), "the format 'hostname-of-mine'"),
        (of(patternProperties={EVIL: {}}, additionalProperties=False), "'patternProperties'"),
        (of({"unevaluatedProperties": False}), "'unevaluatedProperties'"),
        (of({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": EVIL}), "'$schema'"),
        (of({"$ref": "#/$defs/d0"}, **{"$defs": {**DOUBLING, "d40": True}}), "too often"),
        ({"type": "object", "$ref": "#"}, "refers to itself without end"),
        (of(DEEP), "nests too deeply"),
        (of({"type": "word"}), "not a JSON schema"),
    ],
)
def test_what_cannot_be_checked_is_refused(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedSchema, match=re.escape(told)) as caught:
        Form(schema).fault(ANSWER)
    assert caught.value.hint


def test_a_pattern_without_end_in_python_ends_here() -> None:
    answer = json.dumps({"label": "a" * 1_000})
    assert "does not match" in str(Form(of({"pattern": EVIL})).fault(answer))


plain = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer"]),
        "enum": st.lists(st.sampled_from(["refusal", "harm", "a1"])),
        "minLength": st.integers(0, 9),
        "maxLength": st.integers(0, 9),
        "pattern": st.sampled_from(["^r", "l$", "[0-9]", "^[a-z]+$", "a|h"]),
        "format": st.sampled_from(["uuid", "email", "date"]),
    },
)


@given(plain, st.sampled_from(["refusal", "harm", "a1", "a@b", "2024-01-01"]))
def test_it_says_what_jsonschema_says(part: dict[str, Any], label: str) -> None:
    schema = of(part)
    checker = Draft202012Validator.FORMAT_CHECKER
    valid = Draft202012Validator(schema, format_checker=checker).is_valid({"label": label})
    assert (Form(schema).fault(json.dumps({"label": label})) is None) is valid
