"""Fixtures for all tests: no setting of the machine's own environment reaches one."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("EVENHAND_"):
            monkeypatch.delenv(name)
