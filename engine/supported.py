"""Which JSON schemas outlines compiles faithfully. It knows keywords, not vocabularies or tokens.

outlines turns a schema into a regular expression and passes over what has no place in one
(`minimum`, `uniqueItems`), and cuts recursion short with objects that the schema does not allow.
Text made that way would not be of the schema, so such schemas are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from evenhand.schemas.errors import UnsupportedSchema

# What outlines heeds, and what only describes.
_HEEDED = frozenset({
    "type", "properties", "required", "items", "prefixItems", "enum", "const", "anyOf", "oneOf",
    "allOf", "$ref", "$defs", "definitions", "minLength", "maxLength", "pattern", "format",
    "minItems", "maxItems", "additionalProperties",
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly",
})  # fmt: skip


def refuse_unsupported(schema: Mapping[str, Any]) -> None:
    """Raise `UnsupportedSchema` for a schema with a part that outlines would pass over."""

    def visit(part: Any, above: tuple[str, ...]) -> None:
        if not isinstance(part, Mapping):
            return
        if ignored := sorted(part.keys() - _HEEDED):
            _refuse(f"uses {ignored[0]!r}")
        properties = part.get("properties", {})
        if "properties" in part and set(part.get("required", ())) - properties.keys():
            _refuse("requires a property that it does not describe")
        if len(part.get("allOf", ())) > 1:
            _refuse("joins several schemas with 'allOf'")
        if isinstance(reference := part.get("$ref"), str):
            if reference in above:
                _refuse(f"refers to itself at {reference!r}")
            visit(_target(schema, reference), (*above, reference))
        inner = [part.get("items"), part.get("additionalProperties"), *properties.values()]
        for key in ("prefixItems", "anyOf", "oneOf", "allOf"):
            inner += part.get(key, ())
        for each in inner:
            visit(each, above)

    try:
        visit(schema, ("#",))
    except (TypeError, AttributeError) as exc:
        raise UnsupportedSchema(
            "this is not a JSON schema: a keyword has a value of a wrong type",
            hint="Compare it with json-schema.org.",
        ) from exc


def _refuse(what: str) -> NoReturn:
    raise UnsupportedSchema(
        f"this JSON schema {what}, which cannot be compiled into a constraint",
        hint="Use objects, enums, strings, numbers, booleans and arrays of these.",
    )


def _target(schema: Any, reference: str) -> Any:
    for step in reference.removeprefix("#").split("/"):
        if step and isinstance(schema, Mapping):
            schema = schema.get(step)
    return schema
