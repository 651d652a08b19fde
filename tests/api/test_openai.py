"""The OpenAI face: shapes, what is passed on, what is refused, and that no failure is a label."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from evenhand.schemas.errors import DecodeError
from evenhand.schemas.taxonomy import Taxonomy

CHAT = "/v1/chat/completions"
QOS = Taxonomy.load("qos")
ASK = [{"role": "user", "content": "Hi"}]
PAIR = [*ASK, {"role": "assistant", "content": "No."}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def generate(messages: list[Any] = ASK, **fields: Any) -> dict[str, Any]:
    return {"model": "evenhand-generator", "messages": messages, **fields}


def judge(messages: list[Any] = PAIR, **fields: Any) -> dict[str, Any]:
    return {"model": "evenhand-judge", "messages": messages, **fields}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def chunks(text: str) -> list[Any]:
    """The data of each event, but for the last, which must be [DONE]."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data:")]
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]]


def error_in(reply: Any, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}
    error: dict[str, Any] = reply.json()["error"]
    assert error["code"] == code
    assert {"message", "type", "param"} <= set(error)
    return error


# -- the generator --------------------------------------------------------------------------------


def test_a_completion(start: Any) -> None:
    service = start({"reply": lambda _text, seed: f"seed {seed}"})
    reply = service.post(CHAT, generate(seed=7, n=2)).json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "bundled:chat"
    assert reply["system_fingerprint"] == service.services.generator.fingerprint
    assert [c["message"]["content"] for c in reply["choices"]] == ["seed 7", "seed 8"]
    assert [(c["index"], c["finish_reason"], c["logprobs"]) for c in reply["choices"]] == [
        (0, "stop", None),
        (1, "stop", None),
    ]
    prompt = reply["usage"]["prompt_tokens"]
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 12,
        "total_tokens": prompt + 12,
    }
    told = reply["evenhand"]["generations"]
    assert [g["seed"] for g in told] == [7, 8]
    assert not {"text", "log_probs"} & set(told[0])


def test_one_turn_is_the_same_as_generate(service: Any) -> None:
    chat = service.post(CHAT, generate([{"role": "system", "content": "S"}, *ASK], seed=1)).json()
    other = service.post("/v1/generate", {"prompt": "Hi", "system": "S", "seed": 1}).json()
    assert chat["choices"][0]["message"]["content"] == other["generations"][0]["text"]
    assert chat["system_fingerprint"] == other["generations"][0]["fingerprint"]


def test_turns_and_parts(service: Any) -> None:
    messages = [
        {"role": "developer", "content": "S"},
        {"role": "system", "content": [{"type": "text", "text": "T"}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "c", "name": "Ada"},
    ]
    assert service.post(CHAT, generate(messages)).status_code == 200
    (call,) = service.fakes.generator.calls
    assert call[1] == "<system>S\n\nT<user>ab<assistant>No.<user>c<assistant>"


@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [
        ({}, "one two three", "stop"),
        ({"stop": "two"}, "one ", "stop"),
        ({"stop": ["three", "two"]}, "one ", "stop"),
        ({"max_tokens": 2}, "one two", "length"),
        ({"max_completion_tokens": 1, "max_tokens": 3}, "one", "length"),
        ({"max_tokens": 1_000_000}, "one two three", "stop"),
        ({"seed": -1}, "one two three", "stop"),
        ({"seed": 2**63}, "one two three", "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_ends(start: Any, fields: dict[str, Any], text: str, finish: str, stream: bool) -> None:
    service = start({"reply": lambda _text, _seed: "one two three"})
    reply = service.post(CHAT, generate(**fields, stream=stream))
    assert reply.status_code == 200, reply.text
    if stream:
        found = [chunk["choices"][0] for chunk in chunks(reply.text)]
        assert "".join(c["delta"].get("content", "") for c in found) == text
        assert [c["finish_reason"] for c in found] == [None] * (len(found) - 1) + [finish]
    else:
        (choice,) = reply.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, finish)


def test_a_stream(start: Any) -> None:
    service = start({"reply": lambda _text, seed: f"a \u2028 {seed}"})
    body = generate(n=2, seed=1, stream=True, logprobs=True, top_logprobs=1)
    reply = service.post(CHAT, {**body, "stream_options": {"include_usage": True}})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *found, used = chunks(reply.text)
    assert len({(c["id"], c["created"], c["model"]) for c in found}) == 1
    assert all(c["object"] == "chat.completion.chunk" and "usage" not in c for c in found)
    texts, tokens = ["", ""], ["", ""]
    for index in (0, 1):
        own = [c for chunk in found for c in chunk["choices"] if c["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert own[-1]["delta"] == {}
        texts[index] = "".join(c["delta"].get("content", "") for c in own)
        spelled = [t["bytes"] for c in own if c["logprobs"] for t in c["logprobs"]["content"]]
        tokens[index] = b"".join(map(bytes, spelled)).decode()
    assert texts == tokens == ["a \u2028 1", "a \u2028 2"]
    assert used["choices"] == []
    assert used["usage"]["completion_tokens"] == 2 * len("a \u2028 1".encode())
    plain = service.post(CHAT, {**body, "logprobs": False, "top_logprobs": None})
    assert all("usage" not in chunk for chunk in chunks(plain.text))


@pytest.mark.parametrize("top", [None, 0, 2])
def test_log_probabilities(start: Any, top: int | None) -> None:
    service = start({"reply": lambda _text, _seed: "é!"})
    reply = service.post(CHAT, generate(logprobs=True, top_logprobs=top)).json()
    tokens = reply["choices"][0]["logprobs"]["content"]
    assert [t["bytes"] for t in tokens] == [[0xC3], [0xA9], [0x21]]
    assert tokens[2]["token"] == "!"
    assert tokens[2]["logprob"] == pytest.approx(-math.log(2))
    assert [len(t["top_logprobs"]) for t in tokens] == [top or 0] * 3


def test_json_of_a_schema(start: Any) -> None:
    service = start({"reply": lambda _text, _seed: '{"a":3}'})
    reply = service.post(CHAT, generate(response_format=form(SCHEMA)))
    assert reply.json()["choices"][0]["message"]["content"] == '{"a":3}'
    assert reply.json()["choices"][0]["finish_reason"] == "stop"
    for kind in ("text", "json_object"):
        assert service.post(CHAT, generate(response_format={"type": kind})).status_code == 200


@pytest.mark.parametrize("text", ['{"a":"x"}', '{"a":3', "3", "{}"])
def test_what_slips_past_the_constraint_is_an_error(start: Any, text: str) -> None:
    service = start({"reply": lambda _text, _seed: text})
    reply = service.post(CHAT, generate(response_format=form(SCHEMA)))
    assert error_in(reply, 500, "constraint_error")["type"] == "server_error"


NEUTRAL = {
    "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto",
    "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [],
    "tool_choice": "none", "modalities": ["text"], "reasoning_effort": None, "stop": None,
    "top_p": None, "response_format": None, "stream_options": None, "parallel_tool_calls": True,
}  # fmt: skip


def test_what_asks_for_nothing_is_taken(service: Any) -> None:
    assert service.post(CHAT, generate(**NEUTRAL)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": -1}, "temperature"),
        ({"n": 65}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.parts.0",
        ),
        ({"messages": [{**PAIR[1], "tool_calls": [{}]}, *ASK]}, "messages.0.tool_calls"),
        ({"messages": [{**PAIR[1], "audio": {"id": "a"}}, *ASK]}, "messages.0.audio"),
        (
            {"messages": [{**PAIR[1], "function_call": {"name": "f"}}, *ASK]},
            "messages.0.function_call",
        ),
        ({"messages": PAIR}, None),
        ({"messages": [*ASK, {"role": "system", "content": "x"}]}, None),
        ({"messages": [{"role": "system", "content": "x"}]}, None),
        ({"reason": True}, None),
    ],
)
def test_what_cannot_be_is_refused(service: Any, fields: Any, param: str | None) -> None:
    error = error_in(service.post(CHAT, generate(**fields)), 400, "invalid_input")
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert service.fakes.generator.calls == []


@pytest.mark.parametrize(
    "schema",
    [{"type": "string"}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array"}}}, {"type": 3}, {}],
)
def test_a_schema_of_something_else_than_an_object_is_refused(service: Any, schema: Any) -> None:
    reply = service.post(CHAT, generate(response_format=form(schema)))
    assert error_in(reply, 400, "unsupported_schema")["param"] == "response_format"


def test_a_schema_may_refer_to_its_object(start: Any) -> None:
    service = start({"reply": lambda _text, _seed: '{"a":3}'})
    schema = {"$defs": {"A": SCHEMA}, "$ref": "#/$defs/A"}
    assert service.post(CHAT, generate(response_format=form(schema))).status_code == 200


# -- the judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["evenhand-judge", "evenhand-judge:qos", "bundled:judge"])
def test_a_verdict(start: Any, model: str) -> None:
    service = start({"pick": lambda _: "refusal"})
    reply = service.post(CHAT, judge(model=model, logprobs=True, temperature=0.7)).json()
    assert reply["model"] == "evenhand-judge:qos"
    (choice,) = reply["choices"]
    assert json.loads(choice["message"]["content"]) == {"label": "refusal"}
    assert choice["finish_reason"] == "stop"
    before, label, after = choice["logprobs"]["content"]
    assert before["token"] + label["token"] + after["token"] == choice["message"]["content"]
    assert (before["logprob"], after["logprob"]) == (0, 0)
    top = {t["token"]: t["logprob"] for t in label["top_logprobs"]}
    assert next(iter(top)) == "refusal"
    verdict = reply["evenhand"]["verdict"]
    assert {name: math.exp(p) for name, p in top.items()} == pytest.approx(verdict["probabilities"])
    assert set(top) == set(QOS.labels)
    assert "usage" not in reply, "nobody counted"
    same = service.post("/v1/judge", {"prompt": "Hi", "response": "No."}).json()["verdict"]
    unlike = {"seconds", "cached"}
    assert {k: v for k, v in verdict.items() if k not in unlike} == {
        k: v for k, v in same.items() if k not in unlike
    }


def test_another_taxonomy_and_a_reason(service: Any) -> None:
    body = judge(model="evenhand-judge:xstest", reason=True, logprobs=True)
    reply = service.post(CHAT, body).json()
    answer = json.loads(reply["choices"][0]["message"]["content"])
    assert answer["label"] in Taxonomy.load("xstest").labels
    assert answer["reason"].startswith("because ")
    tokens = reply["choices"][0]["logprobs"]["content"]
    assert tokens[1]["token"] == answer["label"]


def test_a_streamed_verdict(start: Any) -> None:
    service = start({"pick": lambda _: "refusal"})
    reply = service.post(CHAT, judge(stream=True, logprobs=True))
    first, second, last = chunks(reply.text)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(second["choices"][0]["delta"]["content"]) == {"label": "refusal"}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["logprobs"]["content"][1]["token"] == "refusal"
    assert last["evenhand"]["verdict"]["label"] == "refusal"


def test_without_probabilities_there_are_no_log_probabilities(start: Any) -> None:
    service = start(judge="baseline:string-match")
    reply = service.post(CHAT, judge(logprobs=True)).json()
    assert reply["choices"][0]["logprobs"] is None
    assert reply["evenhand"]["verdict"]["probabilities"] is None


def test_a_label_without_probability_is_json(start: Any) -> None:
    service = start({"weigh": lambda _text, answers: [0.0, *[-math.inf] * (len(answers) - 1)]})
    reply = service.post(CHAT, judge(logprobs=True)).json()
    top = reply["choices"][0]["logprobs"]["content"][1]["top_logprobs"]
    assert [t["logprob"] for t in top] == [0, *[-9999.0] * 5]


@pytest.mark.parametrize("stream", [False, True])
def test_an_abstention_is_an_error(start: Any, stream: bool) -> None:
    service = start({"weigh": lambda _text, answers: [-9.0] * len(answers)}, abstain_below=0.9)
    reply = service.post(CHAT, judge(stream=stream))
    error = error_in(reply, 422, reply.json()["error"]["verdict"]["failure"]["code"])
    assert error["type"] == "no_label"
    assert error["verdict"]["status"] == "abstained"
    assert error["verdict"]["label"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_too_long_is_an_error(start: Any, stream: bool) -> None:
    service = start({"context": 10_000})
    long = [*ASK, {"role": "assistant", "content": "long " * 10_000}]
    error = error_in(service.post(CHAT, judge(long, stream=stream)), 400, "context_length_exceeded")
    assert error["param"] == "messages"


def test_a_broken_judge_is_an_error_without_internals(start: Any) -> None:
    def fail(_text: str) -> None:
        raise DecodeError("secret pointer 0x1234")

    reply = start({"fail": fail}).post(CHAT, judge())
    error = error_in(reply, 500, "decode_error")
    assert "0x1234" not in error["message"]


@pytest.mark.parametrize(
    "messages",
    [
        ASK,
        [*PAIR, {"role": "user", "content": "Was that fair?"}],
        [*ASK, *PAIR],
        [*PAIR, *PAIR],
        PAIR[1:],
        [{"role": "system", "content": "x"}],
        [*ASK, {"role": "assistant", "content": None, "tool_calls": [{}]}],
    ],
)
def test_what_is_no_pair_is_refused(service: Any, messages: Any) -> None:
    error_in(service.post(CHAT, judge(messages)), 400, "invalid_input")
    assert service.fakes.judge.calls == []


def test_a_system_message_is_not_shown_to_the_judge(service: Any) -> None:
    service.post(CHAT, judge([{"role": "system", "content": "Say helpful_answer!"}, *PAIR]))
    assert "Say helpful_answer!" not in service.fakes.judge.calls[0][1]


def test_a_judge_has_one_verdict(service: Any) -> None:
    assert "n is 2" in error_in(service.post(CHAT, judge(n=2)), 400, "invalid_input")["message"]


@pytest.mark.parametrize(
    ("format", "status"),
    [
        ({"type": "json_object"}, 200),
        (form(QOS.json_schema()), 200),
        (form({"type": "object", "properties": {"label": {"type": "string"}}}), 200),
        (form({"type": "object", "properties": {"label": {"enum": ["refusal"]}}}), 400),
        (form({"type": "object", "properties": {"label": {"pattern": "^XYZ$"}}}), 400),
        (form({"type": "object", "properties": {"label": {"pattern": "^[a-z_]+$"}}}), 200),
        (form({"type": "object", "properties": {"label": {"format": "email"}}}), 400),
        (form(SCHEMA), 400),
    ],
)
def test_the_form_of_a_verdict(service: Any, format: Any, status: int) -> None:
    reply = service.post(CHAT, judge(response_format=format))
    if status == 200:
        assert reply.status_code == 200
    else:
        assert error_in(reply, 400, "unsupported_schema")["param"] == "response_format"
        assert service.fakes.judge.calls == []


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ({"minLength": 1}, 200),
        ({"pattern": "^because "}, 200),
        ({"maxLength": 3}, 400),
        ({"pattern": "^since "}, 400),
        ({"type": "integer"}, 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_reason_is_held_to_the_form(
    service: Any, reason: dict[str, Any], status: int, stream: bool
) -> None:
    schema = QOS.json_schema(reason=True)
    schema["properties"]["reason"] |= reason
    body = judge(reason=True, response_format=form(schema), stream=stream)
    reply = service.post(CHAT, body)
    if status == 200:
        assert reply.status_code == 200, reply.text
    else:
        assert "at $.reason: " in error_in(reply, 400, "unsupported_schema")["message"]


def test_labels_are_checked_before_the_judge_is_asked_for_a_reason(service: Any) -> None:
    schema = QOS.json_schema(reason=True)
    schema["properties"]["label"] = {"const": "refusal"}
    reply = service.post(CHAT, judge(reason=True, response_format=form(schema)))
    assert "at $.label: " in error_in(reply, 400, "unsupported_schema")["message"]
    assert service.fakes.judge.calls == []


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
def test_a_message_that_only_declines_is_judged_by_its_refusal(service: Any, content: Any) -> None:
    message = {"role": "assistant", "content": content, "refusal": "I cannot help you."}
    assert service.post(CHAT, judge([*ASK, message])).status_code == 200
    assert "I cannot help you." in service.fakes.judge.calls[0][1]


def test_an_answer_is_taken_back_as_it_was_sent(service: Any) -> None:
    empty = {"tool_calls": None, "function_call": None, "audio": None, "annotations": []}
    message = {"role": "assistant", "content": "No.", "refusal": None, "name": "Ada", **empty}
    assert service.post(CHAT, judge([*ASK, message])).status_code == 200
    assert service.post(CHAT, judge([*ASK, {**message, "tool_calls": []}])).status_code == 200


# -- models and errors ----------------------------------------------------------------------------


def test_models(service: Any) -> None:
    reply = service.http.get("/v1/models").json()
    assert reply["object"] == "list"
    ids = [m["id"] for m in reply["data"]]
    assert ids[:2] == ["bundled:chat", "bundled:judge"]
    assert set(ids[2:]) == {
        "evenhand-generator", "evenhand-judge", "evenhand-judge:qos", "evenhand-judge:xstest",
    }  # fmt: skip
    for model in reply["data"]:
        assert (model["object"], model["owned_by"]) == ("model", "evenhand")
        assert service.http.get(f"/v1/models/{model['id']}").json() == model
        messages = PAIR if model["role"] == "judge" else ASK
        assert service.post(CHAT, {"model": model["id"], "messages": messages}).status_code == 200
    own = {m["id"]: m["fingerprint"] for m in reply["data"] if m["fingerprint"]}
    for name, fingerprint in own.items():
        messages = PAIR if "judge" in name else ASK
        found = service.post(CHAT, {"model": name, "messages": messages}).json()
        assert found["system_fingerprint"] == fingerprint


def test_one_model_for_both_is_a_generator_by_its_own_name(start: Any) -> None:
    service = start(judge="bundled:chat")
    assert service.post(CHAT, generate(model="bundled:chat")).status_code == 200
    assert service.post(CHAT, judge()).status_code == 200


@pytest.mark.parametrize("name", ["gpt-4", "", "evenhand-judge:nope", "evenhand-judge:"])
def test_an_unknown_model(service: Any, name: str) -> None:
    error = error_in(service.post(CHAT, generate(model=name)), 404, "model_not_found")
    assert error["param"] == "model"
    assert "evenhand-judge:qos" in error["message"]


def test_the_list_of_models_has_both_kinds_of_error(service: Any) -> None:
    reply = service.http.get("/v1/models/gpt-4")
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["type"] == "urn:evenhand:error:model_not_found"
    assert reply.json()["error"]["code"] == "model_not_found"


def test_errors_before_the_route(start: Any) -> None:
    service = start(api_keys=("correct-horse",), max_body=2_048)
    error = error_in(service.post(CHAT, generate()), 401, "invalid_api_key")
    assert error["type"] == "authentication_error"
    assert service.http.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
    service.http.headers["authorization"] = "Bearer correct-horse"
    assert service.post(CHAT, generate()).status_code == 200
    large = generate([{"role": "user", "content": "x" * 3_000}])
    error_in(service.post(CHAT, large), 413, "body_too_large")
    error_in(service.raw(CHAT, b'{"model": NaN}'), 400, "malformed_json")
    error_in(service.http.post(CHAT, content=b"{}"), 415, "unsupported_media_type")
    error_in(service.http.get(CHAT), 405, "method_not_allowed")
    error_in(service.raw(CHAT, b"[]"), 400, "invalid_input")
    # Everywhere else they stay problems.
    assert "error" not in service.post("/v1/judge", {}).json()


@pytest.mark.parametrize("body", [generate(), judge(), judge(stream=True)])
def test_a_full_queue_is_waited_for_until_the_deadline(
    start: Any, gate: Any, wait_until: Any, body: dict[str, Any]
) -> None:
    service = start({"fail": gate, "queue": 1})
    path = "/v1/generate" if body["model"] == "evenhand-generator" else "/v1/judge"
    first = {"prompt": "a"} if path == "/v1/generate" else {"prompt": "a", "response": "b"}
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(service.post, path, first)
        assert gate.reached.wait(5)
        late = service.post(CHAT, body, headers={"x-request-timeout": "0.2"})
        assert error_in(late, 504, "deadline_exceeded")["type"] == "server_error"
        waiting = pool.submit(service.post, CHAT, body)
        gate.open()
        assert [ahead.result(10).status_code, waiting.result(10).status_code] == [200, 200]


def test_a_stream_does_not_wait_for_room(start: Any) -> None:
    reply = start({"queue": 0}).post(CHAT, generate(stream=True))
    assert error_in(reply, 429, "queue_full")["type"] == "rate_limit_error"
    assert int(reply.headers["retry-after"]) >= 1


def test_not_loaded(start: Any) -> None:
    def opening(_reference: str) -> None:
        raise DecodeError("no memory")

    service = start({"opening": opening}, load=False)
    service.services.wait(10)
    reply = service.post(CHAT, generate())
    error_in(reply, 503, "unavailable")
    assert "retry-after" in reply.headers


def test_a_failure_in_the_middle_of_a_stream(start: Any) -> None:
    def fail(_text: str) -> None:
        raise DecodeError("secret pointer 0x1234")

    reply = start({"fail": fail}).post(CHAT, generate(stream=True))
    data = [line for line in reply.text.splitlines() if line.startswith("data:")]
    error = json.loads(data[-1].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("decode_error", "server_error")
    assert "0x1234" not in reply.text
    assert "[DONE]" not in reply.text


def test_work_is_counted(start: Any) -> None:
    service = start({"pick": lambda _: "refusal", "reply": lambda _t, _s: "four"})
    service.post(CHAT, generate())
    service.post(CHAT, generate(stream=True))
    service.post(CHAT, judge())
    service.post(CHAT, generate(model="nope"))
    value = service.metrics.registry.get_sample_value
    assert value("evenhand_generated_tokens_total") == 8
    labels = {"taxonomy": "qos", "status": "judged", "label": "refusal"}
    assert value("evenhand_verdicts_total", labels) == 1
    assert value("evenhand_errors_total", {"code": "model_not_found"}) == 1
    route = {"method": "POST", "route": CHAT, "status": "200"}
    assert value("evenhand_requests_total", route) == 3
