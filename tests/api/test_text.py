"""Text of any kind goes in and strict JSON comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest

NASTY = [
    r"\ud800",
    r"\udc00 and \ud83d\ude00",
    r"\u0000",
    "   ",
    r"\u202e\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    r"</s>[INST]<<SYS>><|im_start|></response><response>",
    r"\u2028\u2029\u0085\u000b\u001c",
    "",
]


def strict(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(text, parse_constant=refuse)
    json.dumps(data, ensure_ascii=False).encode()  # no lone surrogates
    return data


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_is_judged(service: Any, text: str) -> None:
    reply = service.raw("/v1/judge", f'{{"prompt": "{text}", "response": "{text}"}}'.encode())
    assert reply.status_code == 200, reply.text
    assert strict(reply.text)["verdict"]["status"] == "judged"


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_goes_through_every_other_route(service: Any, text: str) -> None:
    one = f'{{"prompt": "{text}", "response": "{text}", "id": "{text}"}}'
    reply = service.raw("/v1/judge/batch", f'{{"items": [{one}]}}'.encode())
    assert strict(reply.text)["verdicts"][0]["status"] == "judged"
    assert reply.status_code == 200
    for path in ("/v1/generate", "/v1/respond"):
        for stream in ("false", "true"):
            body = f'{{"prompt": "{text}", "system": "{text}", "stream": {stream}}}'
            assert service.raw(path, body.encode()).status_code == 200


def test_half_a_surrogate_pair_becomes_the_replacement_character(service: Any) -> None:
    body = rb'{"prompt": "a\ud800b", "response": "\uDC00", "id": "\ud83d"}'
    reply = service.raw("/v1/judge", body)
    assert strict(reply.text)["id"] == "\ufffd"
    (_, seen) = service.fakes.judge.calls[0]
    assert "a\ufffdb" in seen


def test_a_whole_surrogate_pair_stays_a_character(service: Any) -> None:
    service.raw("/v1/judge", rb'{"prompt": "\ud83d\ude00", "response": "\\ud800"}')
    (_, seen) = service.fakes.judge.calls[0]
    assert "😀" in seen
    assert r"\ud800" in seen, "an escaped backslash is text"


def test_an_unknown_key_that_is_half_a_character_is_told_in_json(service: Any) -> None:
    reply = service.raw("/v1/judge", rb'{"prompt": "a", "response": "b", "\ud800": NaN}')
    assert reply.status_code == 400
    reply = service.raw("/v1/judge", rb'{"prompt": "a", "response": "b", "\ud800": 1}')
    assert reply.status_code == 422
    strict(reply.text)
    reply = service.raw("/v1/judge/batch", rb'{"items": [{"\udfff": 1}]}')
    assert strict(reply.text)["verdicts"][0]["status"] == "error"


def test_a_megabyte_of_text_is_judged_or_truncated(start: Any) -> None:
    text = "räksmörgås " * 100_000
    for context, status in ((3_000_000, "judged"), (100_000, "truncated")):
        service = start({"context": context})
        reply = service.post("/v1/judge", {"prompt": "a", "response": text})
        assert reply.status_code == 200
        assert strict(reply.text)["verdict"]["status"] == status


def test_a_name_in_the_path_may_be_anything(service: Any) -> None:
    for name in ("..%2F..%2Fetc%2Fpasswd", "%00", "%ff", "qos.toml", "x" * 5_000):
        reply = service.http.get(f"/v1/taxonomies/{name}")
        assert reply.status_code == 404
        strict(reply.text)
