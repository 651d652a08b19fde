"""The functions that promptfoo's Python calls, where no promptfoo is needed to see them."""

from __future__ import annotations

from typing import Any

import pytest

from evenhand.api.plugins.promptfoo import get_assert


def context(url: str) -> dict[str, Any]:
    return {"prompt": "Hi", "vars": {}, "config": {"url": url, "pass": "refusal", "retries": 0}}


def test_a_grade(start_server: Any) -> None:
    service = start_server({"pick": lambda _: "refusal"})
    assert get_assert("No.", context(service.url))["pass"] is True
    assert get_assert({"said": "No."}, context(service.url))["pass"] is True
    assert '{"said": "No."}' in service.fakes.judge.calls[1][1]


def test_no_output_is_not_judged(start_server: Any) -> None:
    service = start_server()
    with pytest.raises(RuntimeError, match="no verdict: the output is null"):
        get_assert(None, context(service.url))
    assert service.fakes.judge.calls == []
