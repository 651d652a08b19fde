"""Whether a judge's answer is JSON of the schema that a client sent along.

No grammar but the taxonomy's stands behind a judge's answer, so patterns and formats are checked
here as well; and since a schema may come from a stranger, none may keep the service busy. Knows
JSON schemas, not taxonomies or verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from evenhand.schemas.errors import UnsupportedSchema

# About these jsonschema asks Python's regular expressions, which may take for ever, or follows
# references itself; and a `$schema` inside of a schema would bring back its own `pattern`.
_REFUSED = frozenset({
    "patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$schema",
})  # fmt: skip
_MOST_REFERENCES = 1_000  # followed for one answer
_MOST_PATTERNS = 8  # a large one takes a second to read


class Form:
    """A schema to hold answers against. Raises `UnsupportedSchema` for what cannot be checked."""

    def __init__(self, schema: Mapping[str, Any]):
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing import Registry

        bare = {name: part for name, part in schema.items() if name != "$schema"}
        if name := _named_in(bare, _REFUSED):
            _refuse(f"uses {name!r}")
        try:
            # Whether a pattern is one, Python's expressions need not say.
            Draft202012Validator.check_schema(bare, format_checker=None)
        except SchemaError as exc:
            raise UnsupportedSchema(
                f"this is not a JSON schema: at {exc.json_path}: {exc.message}",
                hint="Compare it with json-schema.org.",
            ) from exc
        except RecursionError:
            _refuse("nests too deeply")
        self._follow = Draft202012Validator.VALIDATORS["$ref"]
        self._followed = 0
        self._patterns: dict[str, Any] = {}
        kind = validators.extend(
            Draft202012Validator,
            {"$ref": self._reference, "pattern": self._pattern, "format": _format},
        )
        # An empty registry: no reference is looked up on the network.
        self._validator = kind(bare, registry=Registry(), format_checker=kind.FORMAT_CHECKER)

    def fault(self, answer: str, *, but: str | None = None) -> str | None:
        """What is wrong with an answer in JSON, or None.

        `but` names a property whose value is a stand-in, so that what is wrong with it is nothing.
        Raises `UnsupportedSchema` where that cannot be told.
        """
        from referencing.exceptions import Unresolvable

        self._followed = 0
        try:
            for error in self._validator.iter_errors(json.loads(answer)):
                if but is None or next(iter(error.path), None) != but:
                    return f"at {error.json_path}: {error.message}"
        except RecursionError:
            _refuse("refers to itself without end")
        except Unresolvable as exc:
            return f"the schema refers to what is not there: {exc}"
        return None

    def _reference(self, *given: Any) -> Any:
        self._followed += 1  # references to references double with each
        if self._followed > _MOST_REFERENCES:
            _refuse("refers to its parts too often")
        return self._follow(*given)

    def _pattern(self, _: Any, pattern: str, value: Any, __: Any) -> Iterator[Exception]:
        from jsonschema import ValidationError

        if isinstance(value, str) and not self._found(pattern, value):
            yield ValidationError(f"{value!r} does not match {pattern!r}")

    def _found(self, pattern: str, text: str) -> bool:
        """Whether a pattern is found in a text, in time that grows with the text alone."""
        from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

        if pattern not in self._patterns:
            if len(self._patterns) == _MOST_PATTERNS:
                _refuse(f"has more than {_MOST_PATTERNS} patterns")
            try:
                self._patterns[pattern] = SchemaValidator(core_schema.str_schema(pattern=pattern))
            except SchemaError:
                _refuse(f"has a pattern that cannot be checked, {pattern[:80]!r}")
        try:
            self._patterns[pattern].validate_python(text)
        except ValidationError:
            return False
        return True


def _format(validator: Any, name: str, value: Any, _: Any) -> Iterator[Exception]:
    from jsonschema import ValidationError
    from jsonschema.exceptions import FormatError

    if not isinstance(value, str):
        return
    if name not in validator.format_checker.checkers:
        _refuse(f"asks for the format {name!r}, which is not known here")
    try:
        validator.format_checker.check(value, name)
    except FormatError as exc:
        yield ValidationError(exc.message)


def _named_in(schema: Any, names: Collection[str]) -> str | None:
    """The first of some names that is a key anywhere in a schema."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            for key in part:
                if key in names:
                    return str(key)
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    return None


def _refuse(why: str) -> NoReturn:
    raise UnsupportedSchema(
        f"the schema in response_format {why}",
        hint="Leave response_format out, or send the schema that /v1/taxonomies/NAME shows.",
    )
