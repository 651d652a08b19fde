"""What is said to outlines: whatever it then lets through is of the schema."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from outlines_core.json_schema import build_regex_from_schema

from evenhand.engine.conformity import checker
from evenhand.engine.supported import faithful, refuse_large
from evenhand.schemas.errors import UnsupportedSchema


def regex_of(schema: dict[str, Any]) -> str:
    return build_regex_from_schema(json.dumps(faithful(schema)), whitespace_pattern="")


def within(part: Any, **root: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": part}, "required": ["a"], **root}


TEXT = {"type": "string"}
DEFS = {"$defs": {"s": TEXT}}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (within({"type": "string", "format": "date", "maxLength": 3}), "'maxLength'.*'format'"),
        (within({"type": "string", "format": "date", "pattern": "^x$"}), "'pattern'.*'format'"),
        (within({"type": "string", "pattern": "^x$", "minLength": 1}), "'minLength'.*'pattern'"),
        (within({"type": "string", "enum": ["xx"], "maxLength": 2}), "'maxLength'.*'enum'"),
        (within({"type": "string", "const": "x", "pattern": "x"}), "'pattern'.*'const'"),
        (within({"type": "string", "const": "x", "format": "date"}), "'format'.*'const'"),
        (within({"type": "string", "const": 1}), "value 1"),
        (within({"type": "string", "enum": ["x", 1]}), "value 1"),
        (within({"enum": ["x", "y"], "const": "y"}), "value 'x'"),
        (within({"type": ["integer", "null"], "enum": [1, 1.5]}), "value 1.5"),
        (within({"enum": []}), "empty 'enum'"),
        (within({"$ref": "#/$defs/s", "maxLength": 2}, **DEFS), r"'maxLength'.*'\$ref'"),
        (within({"$ref": "#/$defs/s", "enum": ["q"]}, **DEFS), r"'enum'.*'\$ref'"),
        (within({"$ref": "#/$defs/s", "type": "string"}, **DEFS), r"'type'.*'\$ref'"),
        (within({"anyOf": [TEXT, {"type": "null"}], "maxLength": 3}), "'maxLength'.*'anyOf'"),
        (within({"oneOf": [TEXT, {"type": "null"}], "type": "string"}), "'type'.*'oneOf'"),
        (within({"allOf": [TEXT], "pattern": "x"}), "'pattern'.*'allOf'"),
        ({**within(TEXT), "anyOf": [{"required": ["a"]}]}, "'properties'.*'anyOf'"),
        ({**within(TEXT), "enum": [{"a": "x"}]}, "'properties'.*'enum'"),
        (within({"type": "array", "prefixItems": [TEXT], "minItems": 3}), "'minItems'"),
        (within({"type": "array", "prefixItems": [TEXT, TEXT], "maxItems": 1}), "'maxItems'"),
        (within({"type": "array", "items": TEXT, "minItems": 3, "maxItems": 2}), "minimum"),
        ({"type": "object", "properties": {'a"b': TEXT}}, "JSON escapes"),
        ({"type": "object", "properties": {"a\\b": TEXT}}, "JSON escapes"),
        ({"type": "object", "properties": {"a\nb": TEXT}}, "JSON escapes"),
        ({"type": "object", "required": ["x"]}, "does not describe"),
        (within({"type": "string", "format": "email"}), "format 'email'"),
        (within({"type": "string", "format": "uri"}), "format 'uri'"),
        (within({"type": "string", "pattern": '^"$'}), "pattern"),
        (within({"maxLength": 3}), "'maxLength' without 'type'"),
        (within({"type": "integer", "minimum": 3}), "'minimum'"),
        (within(False), "false"),
        (within({"$ref": "http://x/y#/$defs/s"}, **DEFS, **{"$id": "http://x/y"}), "refers to"),
    ],
)
def test_what_outlines_would_pass_over_is_refused_by_name(
    schema: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedSchema, match=named) as caught:
        faithful(schema)
    assert caught.value.hint


ANYTHING = {"anyOf": [{}]}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({}, ANYTHING),
        (True, ANYTHING),
        ({"title": "A", "description": "any", "default": None, "examples": [1]}, ANYTHING),
        ({"type": "array", "items": {}}, {"type": "array", "items": ANYTHING}),
        ({"type": "object", "additionalProperties": False},
         {"type": "object", "properties": {}, "required": []}),
        ({"type": "string", "enum": ["x"]}, {"enum": ["x"]}),
        ({"type": "string", "const": "x", "title": "X"}, {"const": "x"}),
        ({"type": ["string", "null"], "maxLength": 3},
         {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}),
        ({"type": "integer", "maxLength": 3, "items": {"not": {}}}, {"type": "integer"}),
        ({"allOf": [{"$ref": "#/$defs/s"}], "default": "x"}, TEXT),
        ({"$ref": "#/$defs/s", "description": "text"}, TEXT),
        ({"oneOf": [{"$ref": "#/$defs/s"}, {"type": "null"}],
          "discriminator": {"propertyName": "kind"}}, {"anyOf": [TEXT, {"type": "null"}]}),
    ],
)  # fmt: skip
def test_what_is_said_to_outlines_in_its_own_words(part: Any, said: dict[str, Any]) -> None:
    assert faithful(within(part, **DEFS))["properties"]["a"] == said


names = st.text("ab.é(", min_size=1, max_size=3)
leaves = st.sampled_from([
    {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}, TEXT,
    {"type": "string", "minLength": 1, "maxLength": 2},
    {"type": "string", "pattern": "^a|.$|^[^b]+$"},
    {"type": ["string", "null"], "pattern": "^x{2}$"},
    {"enum": ["a\"b", None, 1.5, {"x": [1]}, "é\n"]},
    {"const": "a\\b"}, {"$ref": "#/$defs/s"},
    *({"type": "string", "format": f} for f in ("date", "time", "date-time", "uuid")),
])  # fmt: skip


def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    objects = st.builds(
        lambda properties, needed, others: {
            "type": "object",
            "properties": properties,
            "required": [name for name, needs in zip(properties, needed, strict=False) if needs],
            "additionalProperties": others,
        },
        st.dictionaries(names, inner, max_size=3),
        st.lists(st.booleans(), min_size=3, max_size=3),
        st.booleans(),
    )
    return st.one_of(
        objects,
        objects.map(lambda schema: {**schema, "type": ["object", "null"]}),
        some.map(lambda parts: {"anyOf": parts}),
        some.map(lambda parts: {"type": "array", "prefixItems": parts, "items": False}),
        st.builds(lambda part, n: {"type": "array", "items": part, "maxItems": n}, inner,
                  st.integers(0, 3)),
        inner.map(lambda part: {"type": "object", "additionalProperties": part}),
        inner.map(lambda part: {"allOf": [part], "title": "x"}),
    )  # fmt: skip


def ends_of_ranges(regex: str) -> str:
    """The expression with the two ends of each wide range alone: hypothesis takes up every letter.

    What it draws is of the whole expression too.
    """

    def ends(found: re.Match[str]) -> str:
        low, high = (int(x, 16) for x in found.groups())
        if high - low < 500:
            return found[0]
        return f"\\U{low:08x}-\\U{low + 200:08x}\\U{high - 200:08x}-\\U{high:08x}"

    return re.sub(r"\\U([0-9a-f]{8})-\\U([0-9a-f]{8})", ends, regex)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.recursive(leaves, larger, max_leaves=4), st.data())
def test_every_text_of_the_expression_is_of_the_schema(part: Any, data: st.DataObject) -> None:
    """Checked by a library that knows nothing of outlines, and by Python's `re`."""
    schema = within(part, **DEFS)
    regex = regex_of(schema)
    assume(len(regex) < 3_000)
    # Python spells code points otherwise.
    regex = re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: f"\\U{int(found[1], 16):08x}", regex)
    text = data.draw(st.from_regex(ends_of_ranges(regex), fullmatch=True))
    assert checker(schema)(text) is None, text


@pytest.mark.parametrize("part", [{}, True, {"title": "any"}, {"anyOf": [{}]}])
def test_anything_is_anything_in_its_place_alone(part: Any) -> None:
    regex = regex_of(within(part))
    for value in ("null", "true", "-1.5", '"x"', "[1,null]", '{"x":[true]}'):
        assert re.fullmatch(regex, f'{{"a":{value}}}')
    for text in ("null", "true", '{"a":true', "null}", '{"a":}'):
        assert not re.fullmatch(regex, text)


@pytest.mark.parametrize(
    "part",
    [
        {"type": ["string", "null"], "maxLength": 1_000_000},
        {"type": ["string"], "pattern": "^[a-z]{100000}$"},
        {"type": "string", "pattern": "^[ab]*a[ab]{16}$"},
        {"anyOf": [{"type": "string", "pattern": f"^([a-z]{{{n}}})*$"} for n in (97, 89, 83)]},
        {"type": "array", "items": {"type": "string", "maxLength": 100}, "maxItems": 100},
    ],
)
def test_a_schema_too_large_for_the_vocabulary_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchema, match=r"too widely|too many states"):
        refuse_large(regex_of(within(part)), n_vocab=32_000)


def test_how_wide_a_bound_may_be_depends_on_the_vocabulary() -> None:
    refuse_large(regex_of({"type": "object"}), n_vocab=256_000)
    regex = regex_of(within({"type": "string", "maxLength": 230}))
    refuse_large(regex, n_vocab=32_000)
    refuse_large(regex, n_vocab=128_000)
    with pytest.raises(UnsupportedSchema, match="too widely") as caught:
        refuse_large(regex, n_vocab=256_000)
    assert "119 characters" in caught.value.hint


def test_a_dialect_of_its_own_for_a_part_is_refused() -> None:
    """It would bring back what the check after generation leaves out."""
    other = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"}
    assert faithful(other) == {"type": "string"}
    with pytest.raises(UnsupportedSchema, match="dialect"):
        faithful({"type": "object", "properties": {"a": other}})
