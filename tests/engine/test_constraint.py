"""The grammar: nothing slips past it, and what it cannot hold is refused."""

from __future__ import annotations

import json
import os
import pickle
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outlines_core import Guide, Index

from evenhand.engine import constraint as module
from evenhand.engine.constraint import Compiler, Constraint, Cursor, answer_trie, build_trie
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.native import Model
from evenhand.engine.prompt import Segment
from evenhand.engine.tokens import Tokenizer
from evenhand.judge.llm import Judge
from evenhand.schemas.errors import ConstraintError, UnsupportedSchema
from evenhand.schemas.generation import Sampling
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Status

TAXONOMY = Taxonomy.load("qos")
LABELS = {"type": "object", "properties": {"label": {"enum": ["a", "ab"]}}, "required": ["label"]}


def compiler_of(tokenizer: Tokenizer, cache: Path | None = None) -> Compiler:
    n_vocab = tokenizer._model.n_vocab
    return Compiler(tokenizer, n_vocab=n_vocab, vocab_hash=f"{n_vocab}", cache_dir=cache)


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer(Model(tiny, vocab_only=True))


# -- the trie -----------------------------------------------------------------------------------

path_sets = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=2, max_size=12
)


def prefix_free(paths: Sequence[tuple[int, ...]]) -> bool:
    return not any(
        i != j and b[: len(a)] == a for i, a in enumerate(paths) for j, b in enumerate(paths)
    )


@settings(max_examples=500, deadline=None)
@given(path_sets)
def test_a_trie_holds_every_path_and_each_inner_node_once(paths: list[tuple[int, ...]]) -> None:
    if not prefix_free(paths):
        with pytest.raises(ConstraintError, match="beginning of another"):
            build_trie(paths)
        return
    trie = build_trie(paths)
    head = list(trie.head)
    assert all(p[: len(head)] == trie.head for p in paths)
    assert len({p[len(head)] for p in paths}) > 1

    def path_to(node: int) -> tuple[int, ...]:
        if node < 0:
            return trie.head
        assert trie.nodes[node].parent < node  # parents are evaluated first
        return (*path_to(trie.nodes[node].parent), trie.nodes[node].token)

    inner = [path_to(i) for i in range(len(trie.nodes))]
    assert len(set(inner)) == len(inner)
    expected = {p[:n] for p in paths for n in range(len(head) + 1, len(p))}
    assert set(inner) == expected
    for i, each in enumerate(trie.nodes):
        assert each.depth == len(inner[i]) - 1
        below = {leaf for leaf, p in enumerate(paths) if p[: len(inner[i])] == inner[i]}
        assert set(each.leaves) == below
    for leaf, steps in enumerate(trie.steps):
        spelled = [*head]
        for node, token in steps:
            assert list(path_to(node)) == spelled
            spelled.append(token)
        assert tuple(spelled) == paths[leaf]
    assert trie.tokens == len(head) + len(expected)


@pytest.mark.parametrize("paths", [[], [(1, 2)], [(1,), (1,)], [(1,), (1, 2)], [(), (1,)]])
def test_paths_that_cannot_be_told_apart_are_refused(paths: list[tuple[int, ...]]) -> None:
    with pytest.raises(ConstraintError):
        build_trie(paths)


@pytest.mark.parametrize("name", ["qos", "xstest"])
def test_every_answer_of_a_taxonomy_is_accepted_on_every_vocabulary(
    tokenizer: Tokenizer, name: str
) -> None:
    taxonomy = Taxonomy.load(name)
    constraint = compiler_of(tokenizer).compile(taxonomy.json_schema())
    answers = list(taxonomy.answers().values())
    trie = answer_trie(answers, constraint, tokenizer.encode)
    for answer, steps in zip(answers, trie.steps, strict=True):
        assert tokenizer.decode([*trie.head, *(token for _, token in steps)]) == answer
    for broken in ('{"label":"nobody"}', '{"label": "refusal"}', answers[0][:-1], answers[0] + " "):
        with pytest.raises(ConstraintError, match="does not accept"):
            answer_trie([*answers, broken], constraint, tokenizer.encode)


# -- the mask -----------------------------------------------------------------------------------


class Inner(pydantic.BaseModel):
    flag: bool
    score: int


class Outer(pydantic.BaseModel):
    kind: str = pydantic.Field(pattern="^(x|yy|zzz)$")
    inner: Inner
    many: list[int] = pydantic.Field(max_length=3)
    maybe: int | None
    ratio: float


def walk(constraint: Constraint, tokenizer: Tokenizer, rng: random.Random, limit: int = 400) -> str:
    """Choose at random among what the mask lets through; shorter pieces are likelier."""
    cursor = constraint.start()
    tokens: list[int] = []
    n_vocab = tokenizer._model.n_vocab
    while not cursor.complete:
        logits = np.zeros(n_vocab, np.float32)
        cursor.mask(logits)
        allowed = np.flatnonzero(np.isfinite(logits))
        assert allowed.size
        assert len(tokens) < limit
        if tokenizer.end in allowed and (allowed.size == 1 or rng.random() < 0.3):
            break
        choices = [int(t) for t in allowed if t != tokenizer.end]
        other = [t for t in choices if not tokenizer.pieces[t].isdigit()]
        if other and rng.random() < 0.5:  # or a number would hardly ever end
            choices = other
        token = min(rng.choices(choices, k=2), key=lambda t: len(tokenizer.pieces[t]))
        assert not tokenizer._model.is_control(token)
        cursor.advance(token)
        tokens.append(token)
    return tokenizer.decode(tokens)


@pytest.mark.parametrize(
    ("adapter", "schema"),
    [
        (pydantic.TypeAdapter(Outer), Outer.model_json_schema()),
        (pydantic.TypeAdapter(int), {"type": "integer"}),
        (pydantic.TypeAdapter(bool), {"type": "boolean"}),
        (pydantic.TypeAdapter(list[bool]), {"type": "array", "items": {"type": "boolean"}}),
        (pydantic.TypeAdapter(TAXONOMY.answer_model), TAXONOMY.json_schema()),
    ],
)
def test_what_passes_the_mask_is_of_the_schema(
    tokenizer: Tokenizer, adapter: pydantic.TypeAdapter[Any], schema: dict[str, Any]
) -> None:
    constraint = compiler_of(tokenizer).compile(schema)
    rng = random.Random(1)
    texts = {walk(constraint, tokenizer, rng) for _ in range(15)}
    for text in texts:
        adapter.validate_json(text)
    assert len(texts) > 1


def test_a_random_model_writes_json_of_the_schema(engine: LlamaEngine) -> None:
    prompt = engine.encode([Segment("Answer: ")])
    schema = TAXONOMY.json_schema()
    found = engine.generate(
        prompt, Sampling(max_tokens=200, temperature=2, top_k=0, min_p=0, top_p=1, seed=1), n=16,
        schema=schema,
    ).result(30)  # fmt: skip
    for completion in found:
        TAXONOMY.answer_model.model_validate_json(completion.text)
        assert completion.finish_reason == "grammar"
    assert len({c.text for c in found}) > 1
    assert schema == TAXONOMY.json_schema()


def test_a_token_that_may_not_follow_raises(tiny_tokenizer: Tokenizer) -> None:
    cursor = compiler_of(tiny_tokenizer).compile(LABELS).start()
    with pytest.raises(ConstraintError, match="may not follow"):
        cursor.advance(tiny_tokenizer.encode("x")[0])


@pytest.mark.parametrize("eos", [True, False])
def test_a_vocabulary_without_an_end_can_be_constrained(
    tmp_path: Path,
    make_tiny: Callable[..., Path],
    open_engine: Callable[..., LlamaEngine],
    eos: bool,
) -> None:
    engine = open_engine(make_tiny(tmp_path / f"eos-{eos}.gguf", eos=eos))
    completion = engine.generate(
        engine.encode([Segment("x")]), Sampling(max_tokens=100, seed=1), schema=LABELS
    ).result(20)[0]
    assert json.loads(completion.text)["label"] in ("a", "ab")


# -- a broken constraint is never a label -------------------------------------------------------


@pytest.mark.parametrize("part", ["mask", "advance"])
def test_an_exception_inside_the_constraint_raises(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def broken(*_args: Any) -> None:
        raise RuntimeError("made up")

    monkeypatch.setattr(Cursor, part, broken)
    prompt = engine.encode([Segment("x")])
    with pytest.raises(RuntimeError, match="made up"):
        engine.generate(prompt, Sampling(max_tokens=9, seed=1), schema=LABELS).result(20)
    # Without a constraint, the same engine goes on.
    assert engine.generate(prompt, Sampling(max_tokens=2, seed=1)).result(20)


class BrokenGuide:
    """outlines' guide, failing in one of its methods."""

    fails = ""

    def __init__(self, index: Index):
        self._guide = Guide(index)

    def __getattr__(self, name: str) -> Any:
        if name == self.fails:
            raise ValueError("made up")
        return getattr(self._guide, name)


@pytest.mark.parametrize("part", ["write_mask_into", "advance", "accepts_tokens", "is_finished"])
@pytest.mark.parametrize("reason", [False, True])
def test_a_broken_guide_is_an_error_verdict_and_never_a_label(
    open_engine: Callable[..., LlamaEngine],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    reason: bool,
) -> None:
    engine = open_engine(tiny)
    monkeypatch.setattr(module, "Guide", BrokenGuide)
    monkeypatch.setattr(BrokenGuide, "fails", part)
    if not reason and part == "write_mask_into":
        pytest.skip("scoring has no mask")
    with Judge(engine, template="compact", mass_floor=0.0, reason_tokens=20) as judge:
        verdict = judge.judge("a prompt", "a response", reason=reason)
        assert verdict.status is Status.ERROR
        assert verdict.label is None
        assert verdict.probabilities is None


def test_a_mask_that_allows_nothing_raises(tiny_tokenizer: Tokenizer) -> None:
    cursor = compiler_of(tiny_tokenizer).compile(LABELS).start()

    class Nothing:
        def write_mask_into(self, *_args: int) -> None:
            pass

    cursor._guide = Nothing()
    with pytest.raises(ConstraintError, match="no token may follow"):
        cursor.mask(np.zeros(tiny_tokenizer._model.n_vocab, np.float32))


# -- schemas that cannot be held ----------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {
            "$defs": {"n": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"}}]}},
            "$ref": "#/$defs/n",
        },
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/schema"},
        {"type": "integer", "minimum": 3},
        {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}},
        {"type": "array", "items": {"type": "number", "multipleOf": 2}},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        {"anyOf": [{"type": "string"}, {"type": "integer", "exclusiveMinimum": 0}]},
        {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "b"]},
        {"if": {"type": "string"}, "then": {"minLength": 3}},
        {"allOf": [{"type": "string"}, {"type": "string", "minLength": 3}]},
        {"type": "string", "pattern": "("},
        {"type": "string", "format": "nonsense"},
        {"type": "nonsense"},
        {"properties": 3},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": 3},
        {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        {"type": "string", "pattern": "(a{1000}){1000}"},
        {"type": "array", "items": {"type": "string", "maxLength": 1_000}, "maxItems": 10_000_000},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**12},
        {
            "$defs": {
                "a0": {"type": "boolean"},
                **{f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i - 1}"}] * 2} for i in range(1, 40)},
            },
            "$ref": "#/$defs/a39",
        },
    ],
)
def test_a_schema_that_would_not_be_heeded_is_refused(
    tiny_tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compiler_of(tiny_tokenizer).compile(schema)
    assert caught.value.hint


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"minimum": {"type": "integer"}}, "required": ["minimum"]},
        {"enum": [{"not": 1}, "b"]},
        {"const": {"uniqueItems": True}},
        Outer.model_json_schema(),
        TAXONOMY.json_schema(reason=True),
    ],
)
def test_names_that_look_like_keywords_are_no_keywords(
    tiny_tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    assert compiler_of(tiny_tokenizer).compile(schema).start().complete is False


def test_a_slow_schema_holds_up_only_those_that_ask_for_it(
    tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    built: list[str] = []

    def slow(regex: str, vocabulary: Any) -> Index:
        built.append(regex)
        if "label" in regex:
            begun.set()
            assert go_on.wait(30)
        return Index(regex, vocabulary)

    monkeypatch.setattr(module, "Index", slow)
    compiler = compiler_of(tiny_tokenizer)
    with ThreadPoolExecutor(3) as pool:
        try:
            same = [pool.submit(compiler.compile, LABELS) for _ in range(2)]
            assert begun.wait(30)
            pool.submit(compiler.compile, {"type": "boolean"}).result(30)
            assert not any(future.done() for future in same)
        finally:
            go_on.set()
        assert same[0].result(30) is same[1].result(30)
    assert len(built) == 2


def test_a_failed_compilation_is_not_kept(
    tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = compiler_of(tiny_tokenizer)

    def broken(*_args: Any) -> Index:
        raise ValueError("made up")

    with monkeypatch.context() as patch:
        patch.setattr(module, "Index", broken)
        with pytest.raises(UnsupportedSchema, match="made up"):
            compiler.compile(LABELS)
    assert compiler.compile(LABELS) is compiler.compile(LABELS)


# -- kept on disk -------------------------------------------------------------------------------


def cached(cache: Path) -> Path:
    (file,) = (cache / "index").glob("*.pickle")
    return file


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    built: list[str] = []

    def build(regex: str, vocabulary: Any) -> Index:
        built.append(regex)
        return Index(regex, vocabulary)

    class Counted:
        def __new__(cls, regex: str, vocabulary: Any) -> Any:
            return build(regex, vocabulary)

    monkeypatch.setattr(module, "Index", Counted)
    # `isinstance(index, Index)` in the reader must still know the real class.
    monkeypatch.setattr(module, "_read", _reading(module._read, monkeypatch))
    return built


def _reading(read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    def wrapped(file: Path) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(module, "Index", Index)
            return read(file)

    return wrapped


def test_an_index_is_compiled_once_and_read_back(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = counted(monkeypatch)
    for _ in range(3):
        compiler = compiler_of(tiny_tokenizer, tmp_path)
        compiler.compile(LABELS)
        compiler.compile(LABELS)
    assert len(built) == 1
    assert cached(tmp_path).stat().st_mode & 0o777 == 0o600
    Compiler(tiny_tokenizer, n_vocab=1, vocab_hash="other", cache_dir=tmp_path).compile(LABELS)
    assert len(built) == 2  # another model's vocabulary has its own


def test_every_damage_to_a_cached_index_is_noticed(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit can leave a pickle readable, as another grammar."""
    compiler_of(tiny_tokenizer, tmp_path).compile(LABELS)
    file = cached(tmp_path)
    good = file.read_bytes()
    built = counted(monkeypatch)
    damages = [b"", good[:10], good[:-1], good + b"\0", b"\0" * len(good)]
    damages += [
        good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        for at in range(0, len(good), max(1, len(good) // 40))
    ]
    for i, damaged in enumerate(damages, 1):
        file.write_bytes(damaged)
        file.chmod(0o600)
        constraint = compiler_of(tiny_tokenizer, tmp_path).compile(LABELS)
        assert len(built) == i
        assert file.read_bytes() == good  # written anew
        assert constraint.accepts(tiny_tokenizer.encode('{"label":"ab"}'))
        assert not constraint.accepts(tiny_tokenizer.encode('{"label":"b"}'))


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("how", ["no digest", "others may write", "of another user"])
def test_a_cached_index_that_others_may_have_written_is_not_unpickled(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    import hashlib

    cache = tmp_path / "cache"
    compiler_of(tiny_tokenizer, cache).compile(LABELS)
    file = cached(cache)
    sprung = tmp_path / "sprung"
    data = pickle.dumps(Trap(sprung))
    file.write_bytes(data if how == "no digest" else hashlib.sha256(data).digest() + data)
    file.chmod(0o622 if how == "others may write" else 0o600)
    if how == "of another user":
        monkeypatch.setattr(os, "getuid", lambda: 4711)
    constraint = compiler_of(tiny_tokenizer, cache).compile(LABELS)
    assert constraint.accepts(tiny_tokenizer.encode('{"label":"a"}'))
    assert not sprung.exists()


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    constraint = compiler_of(tiny_tokenizer, blocked).compile(LABELS)
    assert constraint.accepts(tiny_tokenizer.encode('{"label":"a"}'))


def test_not_every_schema_ever_asked_for_is_kept(tiny_tokenizer: Tokenizer) -> None:
    compiler = compiler_of(tiny_tokenizer)
    for i in range(module._KEPT + 5):
        compiler.compile({"const": i})
    assert len(compiler._constraints) == module._KEPT
