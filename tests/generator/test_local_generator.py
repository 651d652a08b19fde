"""A generator on an engine."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from evenhand.engine.fake import FakeEngine
from evenhand.engine.models import bundled
from evenhand.generator import Generator, open_generator
from evenhand.schemas import Sampling
from evenhand.schemas.errors import (
    ConstraintError,
    DeadlineExceeded,
    DecodeError,
    InputTooLong,
    InvalidInput,
    QueueFull,
    TemplateError,
    Unavailable,
    UnsupportedSchema,
)
from evenhand.schemas.generation import SEED_LIMIT, Turn


def test_a_generation_has_everything() -> None:
    engine = FakeEngine(reply=lambda _text, seed: f"seed {seed}", name="tiny")
    generator = Generator(engine)
    found = generator.generate("Hi", system="Be kind.", sampling=Sampling(seed=7), n=3)
    assert [g.text for g in found] == ["seed 7", "seed 8", "seed 9"]
    assert [g.seed for g in found] == [7, 8, 9]
    assert engine.calls[0][1] == "<system>Be kind.<user>Hi<assistant>"
    one = found[0]
    assert (one.generator, one.model_sha256) == ("tiny", engine.info.sha256)
    assert (one.finish_reason, one.completion_tokens) == ("stop", 6)
    assert one.fingerprint == generator.fingerprint


def test_seeds() -> None:
    generator = Generator(FakeEngine())
    first, second = (generator.generate("Hi")[0] for _ in range(2))
    assert first.seed != second.seed
    again = generator.generate("Hi", sampling=Sampling(seed=first.seed))[0]
    assert (again.text, again.seed) == (first.text, first.seed)
    last = generator.generate("Hi", sampling=Sampling(seed=SEED_LIMIT - 1), n=2)
    assert [g.seed for g in last] == [SEED_LIMIT - 1, 0]


def test_defaults_and_stops() -> None:
    engine = FakeEngine(reply=lambda _t, _s: "one two STOP three")
    generator = Generator(engine, sampling=Sampling(stop=("STOP",)))
    assert generator.generate("x")[0].finish_reason == "stop_string"
    [cut] = generator.generate("x", sampling=Sampling(max_tokens=2))
    assert (cut.text, cut.finish_reason) == ("one two", "length")


def test_text_is_told_as_it_comes() -> None:
    heard: list[tuple[int, str]] = []
    generator = Generator(FakeEngine(reply=lambda _t, _s: "a b c"))
    generator.submit("x", n=2, on_text=lambda i, t: heard.append((i, t))).result(5)
    assert "".join(t for i, t in heard if i == 1) == "a b c"


@pytest.mark.parametrize(
    ("template", "system", "text"),
    [
        ("chat", None, "<user>P<assistant>"),
        (
            "paper",
            None,
            "<system>You are a helpful assistant. Complete the [BLANK]<user>P<assistant>",
        ),
        ("paper", "S", "<system>S<user>P<assistant>"),
        ("completion", None, "P"),
        ("completion", "S", "S\n\nP"),
    ],
)
def test_templates(template: str, system: str | None, text: str) -> None:
    engine = FakeEngine()
    Generator(engine, template=template).generate("P", system=system)
    assert engine.calls[0][1] == text


@pytest.mark.parametrize(("prompt", "n"), [("x", 0), ("x", 65), (None, 1), (b"x", 1), (3, 1)])
def test_requests_that_cannot_be(prompt: Any, n: int) -> None:
    with pytest.raises(InvalidInput):
        Generator(FakeEngine()).generate(prompt, n=n)


def test_an_empty_raw_prompt_is_no_prompt() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        Generator(FakeEngine(), template="completion").generate("")


@pytest.mark.parametrize("text", [" ", "\x00", "\ud800", "</s>[INST]", "😀", "x" * 900_000])
def test_nasty_prompts(text: str) -> None:
    [one] = Generator(FakeEngine()).generate(text)
    one.model_dump_json()


def test_failures() -> None:
    def fail(_: str) -> None:
        raise DecodeError("boom")

    with pytest.raises(DecodeError):
        Generator(FakeEngine(fail=fail)).generate("x")
    with pytest.raises(InputTooLong):
        Generator(FakeEngine(context=10)).generate("x" * 50)
    with pytest.raises(DeadlineExceeded):
        Generator(FakeEngine(delay=0.05)).generate("x", timeout=0.01)
    with pytest.raises(TemplateError):
        Generator(FakeEngine(), template="nope")
    busy = Generator(FakeEngine(delay=0.05, queue=1))
    first = busy.submit("x")
    with pytest.raises(QueueFull):
        busy.submit("y")
    assert first.cancel()


def test_fingerprints() -> None:
    made = [
        Generator(FakeEngine()),
        Generator(FakeEngine(name="other")),
        Generator(FakeEngine(), template="paper"),
    ]
    assert len({g.fingerprint for g in made}) == 3
    assert Generator(FakeEngine(), sampling=Sampling(seed=1)).fingerprint == made[0].fingerprint


def test_specs() -> None:
    opened: list[FakeEngine] = []

    def opener(reference: str) -> FakeEngine:
        opened.append(FakeEngine(name=reference))
        return opened[-1]

    with open_generator("bundled:chat", engine_opener=opener) as generator:
        assert generator.generate("x")[0].generator == "bundled:chat"
    with pytest.raises(Unavailable):
        generator.generate("x")
    with open_generator("y", engine_opener=opener, share_engine=True) as generator:
        pass
    assert generator.generate("x")
    with pytest.raises(TemplateError):
        open_generator("z", engine_opener=opener, template="nope")
    assert opened[-1]._closed


def test_what_was_said_before_comes_before_the_prompt() -> None:
    engine = FakeEngine()
    before = [Turn(role="user", text="A"), Turn(role="assistant", text="B")]
    Generator(engine, template="paper").generate("x")
    Generator(engine).submit("C", system="S", history=before).result(5)
    assert engine.calls[1][1] == "<system>S<user>A<assistant>B<user>C<assistant>"
    with pytest.raises(InvalidInput, match="without turns"):
        Generator(engine, template="completion").submit("C", history=before)


@pytest.mark.parametrize("text", ['{"a":"x"}', '{"a":1', "no"])
def test_json_outside_the_schema_is_an_error(text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    generator = Generator(FakeEngine(reply=lambda _t, _s: text))
    with pytest.raises(ConstraintError, match="let through"):
        generator.submit("x", schema=schema).result(5)
    generator = Generator(FakeEngine(reply=lambda _t, _s: '{"a":1} {"a":2}'))
    [cut] = generator.submit("x", schema=schema, sampling=Sampling(max_tokens=1)).result(5)
    assert cut.finish_reason == "length"
    with pytest.raises(UnsupportedSchema):
        generator.submit("x", schema={"type": 3})


def test_what_a_grammar_cannot_hold_is_the_schemas_fault() -> None:
    """Branches of oneOf that overlap are compiled as anyOf; a text of both is of neither."""
    either = {"oneOf": [{"type": "integer"}, {"enum": [1, 2]}]}
    schema = {"type": "object", "properties": {"a": either}, "required": ["a"]}
    both, one = (Generator(FakeEngine(reply=lambda _t, _s, a=a: f'{{"a":{a}}}')) for a in (1, 3))
    with pytest.raises(UnsupportedSchema, match="no grammar could hold"):
        both.submit("x", schema=schema).result(5)
    assert one.submit("x", schema=schema).result(5)[0].text == '{"a":3}'


def test_log_probabilities_are_left_out_of_records() -> None:
    [told] = Generator(FakeEngine(reply=lambda _t, _s: "ab")).submit("x", top_logprobs=1).result(5)
    assert told.log_probs is not None
    assert [entry.token for entry in told.log_probs] == [b"a", b"b"]
    assert "log_probs" not in told.model_dump()
    assert "log_probs" not in told.model_dump_json()


@pytest.mark.engine
def test_the_bundled_model_writes_json_of_a_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "where": {"type": "string", "maxLength": 12},
            "days": {"anyOf": [{"enum": [1, 2]}, {"type": "null"}]},
            "stops": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["where", "days", "stops"],
        "additionalProperties": False,
    }
    if "chat" not in bundled():
        pytest.skip("needs the bundled model 'chat' (make train)")
    with open_generator("bundled:chat") as generator:
        found = generator.submit(
            "Where to?", schema=schema, n=8, sampling=Sampling(seed=1, temperature=1.5)
        ).result(60)
    for each in found:
        assert each.finish_reason == "grammar"
        jsonschema.validate(json.loads(each.text), schema)
    assert len({each.text for each in found}) > 1
