"""Which JSON schemas outlines compiles faithfully. It knows keywords, not vocabularies or tokens.

outlines turns a schema into a regular expression and passes over what has no place in one
(`minimum`, `uniqueItems`) and over keywords beside one that it reads first, and it cuts recursion
short with objects that the schema does not allow. Text made that way would not be of the schema.
So a schema is put into the words that outlines reads as they are meant, or refused; and refused,
too, where its index would take minutes and gigabytes, since a schema may come from a stranger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from evenhand.engine.pattern import places, plain
from evenhand.schemas.errors import UnsupportedSchema

# What only describes. `discriminator` is OpenAPI's: it helps to choose among `oneOf`.
_DESCRIBES = frozenset({
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
    "examples", "deprecated", "readOnly", "writeOnly", "discriminator",
})  # fmt: skip

# The first of these that a schema has says what it is, and what may stand beside it.
_BESIDE: dict[str, frozenset[str]] = {
    "$ref": frozenset(),
    "allOf": frozenset(),
    "anyOf": frozenset(),
    "oneOf": frozenset(),
    "enum": frozenset({"type", "const"}),
    "const": frozenset({"type"}),
    "properties": frozenset({"type", "required", "additionalProperties"}),
    "prefixItems": frozenset({"type", "items", "minItems", "maxItems"}),
    "type": frozenset({
        "required", "additionalProperties", "items", "minItems", "maxItems", "minLength",
        "maxLength", "pattern", "format",
    }),
}  # fmt: skip
_HEEDED = frozenset(_BESIDE).union(*_BESIDE.values())

# Keywords that say nothing of values of another type.
_ABOUT = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"prefixItems", "items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset[str](),
    "number": frozenset[str](),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}

# The form of these alone: 2023-02-31 is a date. outlines' own patterns for times, addresses and
# e-mail let through what is no JSON.
_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}

# Transitions of an index, which take half a microsecond each; and parts, references followed.
_MOST_TRANSITIONS = 2**25
_MOST_PARTS = 2_000


def faithful(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without references that outlines compiles to texts of `schema` and no others.

    It may leave some out: a pattern is matched by the whole text, properties that are not named do
    not come up. Raises `UnsupportedSchema` for what cannot be held.
    """
    try:
        return _Reader(schema).read(schema, ("#",))
    except (TypeError, AttributeError, ValueError, RecursionError) as exc:
        raise UnsupportedSchema(
            "this is not a JSON schema: a keyword has a value of a wrong type",
            hint="Compare it with json-schema.org.",
        ) from exc


def refuse_large(regex: str, *, n_vocab: int) -> None:
    """Raise `UnsupportedSchema` for an expression too large for a vocabulary of `n_vocab` tokens.

    Any of them may follow at each place of a text whose length is bounded.
    """
    most = _MOST_TRANSITIONS / n_vocab
    if places(regex, most) > most:
        _refuse(
            "bounds a text or list too widely for this model's vocabulary, or has a pattern with "
            "too many states",
            f"Leave maxLength out (max_tokens bounds the text), or allow no more than "
            f"{int(most / 1.1):,} characters, all items of a list together.",  # a tenth is escapes
        )


class _Reader:
    def __init__(self, schema: Mapping[str, Any]):
        self._schema = schema
        self._parts = 0

    def read(self, part: Any, above: tuple[str, ...]) -> dict[str, Any]:
        """One part in the words of outlines; `above` are the references that led to it."""
        self._parts += 1
        if self._parts > _MOST_PARTS:
            _refuse("is too large", "Use fewer parts, and refer to each less often.")
        if part is False:
            _refuse("has a part that nothing can match (false)")
        if part is not self._schema and part is not True and "$schema" in part:
            _refuse("names another dialect for a part ('$schema')", "Name it once, at the top.")
        part = {} if part is True else {k: part[k] for k in part.keys() - _DESCRIBES}
        if unknown := sorted(part.keys() - _HEEDED):
            _refuse(f"uses {unknown[0]!r}")
        part = _of_type(part)
        kind = next((k for k in _BESIDE if k in part), None)
        if kind is None:
            if part:
                _refuse(f"uses {min(part)!r} without 'type'", "Add the type that it is about.")
            return {"anyOf": [{}]}  # in brackets: outlines gives {} as bare alternatives
        if stray := sorted(part.keys() - _BESIDE[kind] - {kind}):
            _refuse(f"uses {stray[0]!r} beside {kind!r}", "Put what both say into one of them.")
        match kind:
            case "$ref":
                return self._referred(part["$ref"], above)
            case "allOf":
                if len(part["allOf"]) != 1:
                    _refuse("joins several schemas with 'allOf'")
                return self.read(part["allOf"][0], above)
            case "anyOf" | "oneOf":
                return {"anyOf": [self.read(each, above) for each in _some(part, kind)]}
            case "enum" | "const":
                return _values(part, kind)
        if isinstance(types := part.get("type"), list):
            each = [self.read({**part, "type": one}, above) for one in _some(part, "type")]
            return {"anyOf": each} if len(types) > 1 else each[0]
        match part.get("type", "object" if kind == "properties" else "array"):
            case "object":
                return self._object(part, above)
            case "array":
                return self._array(part, above)
            case "string":
                return _string(part)
            case other:
                return {"type": other}

    def _referred(self, reference: Any, above: tuple[str, ...]) -> dict[str, Any]:
        if reference in above:
            _refuse(f"refers to itself at {reference!r}")
        target: Any = self._schema
        first, *steps = str(reference).split("/")
        for step in steps:
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        if first != "#" or target is None:
            _refuse(
                f"refers to {reference!r}, which is not in it",
                "Refer to a definition by #/$defs/NAME.",
            )
        return self.read(target, (*above, reference))

    def _object(self, part: Mapping[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
        properties = part.get("properties")
        required = list(part.get("required", ()))
        if set(required) - (properties or {}).keys():
            _refuse("requires a property that it does not describe")
        others = part.get("additionalProperties", True)
        if properties is None and others is not False:
            if others is True:
                return {"type": "object"}
            return {"type": "object", "additionalProperties": self.read(others, above)}
        for name in properties or ():
            if json.dumps(name, ensure_ascii=False) != f'"{name}"':
                _refuse(
                    f"has the property {name!r}, whose name JSON escapes",
                    "Name properties without quotes, backslashes and control characters.",
                )
        read = {name: self.read(value, above) for name, value in (properties or {}).items()}
        return {"type": "object", "properties": read, "required": required}

    def _array(self, part: Mapping[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
        bounds = {k: int(part[k]) for k in ("minItems", "maxItems") if k in part}
        if (prefix := part.get("prefixItems")) is not None:
            for key, bound in bounds.items():
                if bound != len(prefix):
                    _refuse(
                        f"uses {key!r} with another number than there are 'prefixItems'",
                        "Give as many prefixItems as the list has.",
                    )
            return {"type": "array", "prefixItems": [self.read(each, above) for each in prefix]}
        _ordered(bounds.get("minItems", 0), bounds.get("maxItems"))
        if "items" not in part:
            return {"type": "array", **bounds}
        return {"type": "array", "items": self.read(part["items"], above), **bounds}


_HINT = "Use objects, enums, strings, numbers, booleans and arrays of these."


def _refuse(what: str, hint: str = _HINT) -> NoReturn:
    raise UnsupportedSchema(
        f"this JSON schema {what}, which cannot be compiled into a constraint", hint=hint
    )


def _some(part: Mapping[str, Any], key: str) -> list[Any]:
    if not part[key]:
        _refuse(f"uses an empty {key!r}")
    return list(part[key])


def _ordered(least: int, most: int | None) -> None:
    if most is not None and most < least:
        _refuse("has a minimum above its maximum")


def _of_type(part: dict[str, Any]) -> dict[str, Any]:
    """The part without keywords about types that it does not have."""
    if "type" not in part:
        return part
    types = part["type"] if isinstance(part["type"], list) else [part["type"]]
    if unknown := [each for each in types if each not in _ABOUT]:
        _refuse(f"uses the type {unknown[0]!r}")
    if "enum" in part or "const" in part:
        return part
    others = frozenset().union(*_ABOUT.values()) - frozenset().union(*(_ABOUT[t] for t in types))
    return {key: value for key, value in part.items() if key not in others}


def _values(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    from jsonschema import Draft202012Validator

    values = _some(part, "enum") if kind == "enum" else [part["const"]]
    rest = Draft202012Validator({key: part[key] for key in part if key != kind})
    for value in values:
        if not rest.is_valid(value):
            _refuse(
                f"allows the value {value!r} in {kind!r} and not in what stands beside it",
                "Leave the value out.",
            )
    return {kind: part[kind]}


def _string(part: Mapping[str, Any]) -> dict[str, Any]:
    lengths = {k: int(part[k]) for k in ("minLength", "maxLength") if k in part}
    said = [k for k in ("format", "pattern", *lengths) if k in part]
    if said and said[0] not in lengths and len(said) > 1:
        _refuse(f"uses {said[1]!r} beside {said[0]!r}", "Leave one of them out.")
    _ordered(lengths.get("minLength", 0), lengths.get("maxLength"))
    if not said or lengths:
        return {"type": "string", **lengths}
    pattern = part.get("pattern", _FORMATS.get(part.get("format", "")))
    if pattern is None:
        _refuse(
            f"uses the format {part['format']!r}",
            f"Use a string, with a pattern if need be, or one of {', '.join(_FORMATS)}.",
        )
    return {"type": "string", "pattern": f"^{plain(pattern)}$"}
