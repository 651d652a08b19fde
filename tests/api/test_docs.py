"""docs/api.md names every setting, route and error, and the right status for each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evenhand.api.problems import status_of
from evenhand.api.settings import PREFIX, Settings
from evenhand.schemas import errors

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")


def tree(kind: type[errors.EvenhandError]) -> list[type[errors.EvenhandError]]:
    return [kind, *(c for below in kind.__subclasses__() for c in tree(below))]


def test_every_setting_is_there_and_no_other() -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", PAGE))
    assert named == {PREFIX + name.upper() for name in Settings.model_fields}


def test_every_route_is_there(service: Any) -> None:
    document = service.http.get("/openapi.json").json()
    assert all(f"`{path}`" in PAGE or f" {path}`" in PAGE for path in document["paths"])


@pytest.mark.parametrize("kind", tree(errors.EvenhandError), ids=lambda kind: kind.code)
def test_every_error_stands_beside_its_status(kind: type[errors.EvenhandError]) -> None:
    (row,) = [line for line in PAGE.splitlines() if re.match(rf"\| .*`{kind.code}`", line)]
    assert str(status_of(kind("x"))) in row.split("|")[1]
