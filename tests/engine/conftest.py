"""Models for engine tests: tiny ones written here, real vocabularies, and the bundled pair."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from evenhand.engine.engine import LlamaEngine
from evenhand.engine.models import ModelFile, bundled
from evenhand.engine.native import Model
from evenhand.engine.settings import EngineSettings
from evenhand.engine.tokens import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
VOCABULARIES = ROOT.parent / "shared" / "data" / "vocab"

Open = Callable[..., LlamaEngine]


def byte_spelling() -> list[str]:
    """GPT-2's way to write each byte as a printable character, in the order of bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def write_tiny(
    path: Path,
    *,
    seed: int = 0,
    context: int = 1024,
    eos: bool = True,
    sharpness: float = 1.0,
    template: str | None = None,
    extra: tuple[tuple[str, int], ...] = (),
) -> Path:
    """A Llama-architecture model of 2 layers over single bytes: no file of real weights needed.

    `sharpness` scales the logits; `extra` are more tokens with their GGUF types.
    """
    width, hidden, layers, heads = 32, 64, 2, 2
    special = [("<s>", 3), ("</s>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), *extra]
    words = [("th", 1), ("he", 1), ('{"', 1), ('":"', 1), ('"}', 1)]
    merges = ["t h", "h e", '{ "', '" :', '" }', '": "']
    words.insert(3, ('":', 1))
    entries = [(c, 1) for c in byte_spelling()] + words + special
    tokens = [t for t, _ in entries]
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([kind for _, kind in entries])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<s>"))
    if eos:
        writer.add_eos_token_id(tokens.index("</s>"))
    writer.add_add_bos_token(True)
    if template is not None:
        writer.add_chat_template(template)

    def add(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        weights = rng.standard_normal((rows, columns), dtype=np.float32)
        weights *= np.float32(scale / np.sqrt(columns))
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))

    add("token_embd", len(tokens), width)
    norm("output_norm")
    add("output", len(tokens), width, sharpness)
    for i in range(layers):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}", width, width)
        add(f"blk.{i}.ffn_gate", hidden, width)
        add(f"blk.{i}.ffn_up", hidden, width)
        add(f"blk.{i}.ffn_down", width, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Path]:
    """`write_tiny`, for tests that need a model of their own."""
    return write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of 268 tokens."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf")


def vocabulary(name: str) -> Path:
    """A real vocabulary's file; skips where the data beside the project is not there."""
    path = VOCABULARIES / f"{name}.gguf"
    if not path.is_file():
        pytest.skip(f"needs the real vocabulary ../shared/data/vocab/{name}.gguf")
    return path


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under Llama 2's real vocabulary."""
    source = vocabulary("llama-spm")
    spec = importlib.util.spec_from_file_location(
        "random_model", ROOT / "benchmarks" / "random_model.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("models") / "nano.gguf"
    module.write(path, module.SHAPES["nano"], "q8_0", source)
    return path


def bundled_path(name: str) -> Path:
    """A bundled model's file; skips where it is not there."""
    models = bundled()
    if name not in models:
        pytest.skip(f"needs the bundled model {name!r} (make train)")
    return models[name]


@pytest.fixture(scope="session")
def chat_path() -> Path:
    """The bundled chat model."""
    return bundled_path("chat")


@pytest.fixture(scope="session")
def judge_path() -> Path:
    """The bundled judge."""
    return bundled_path("judge")


@pytest.fixture(params=["tiny", "nano", "judge"])
def any_path(request: pytest.FixtureRequest) -> Path:
    """Each kind of model in turn."""
    name = {"judge": "judge_path"}.get(request.param, request.param)
    found: Path = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="session", params=["llama-spm", "llama-bpe", "qwen2", "judge", "chat"])
def tokenizer(request: pytest.FixtureRequest) -> Iterator[Tokenizer]:
    """The tokenizer of each real vocabulary and of the bundled models."""
    name = request.param
    path = bundled_path(name) if name in ("judge", "chat") else vocabulary(name)
    model = Model(path, vocab_only=True)
    yield Tokenizer(model)
    model.close()


@pytest.fixture(scope="session")
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled constraints of the whole run are kept."""
    return tmp_path_factory.mktemp("cache")


def _open(path: Path, cache: Path, settings: dict[str, Any]) -> LlamaEngine:
    settings.setdefault("n_threads", 2)
    settings.setdefault("contexts", 1)  # so that a test can arrange what shares a batch
    settings.setdefault("n_ctx", 4096)
    return LlamaEngine(
        ModelFile(path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest()),
        EngineSettings(**settings),
        cache_dir=cache,
    )


@pytest.fixture
def open_engine(index_cache: Path) -> Iterator[Open]:
    """Opens engines with settings, and closes them after the test."""
    opened: list[LlamaEngine] = []

    def start(path: Path, **settings: Any) -> LlamaEngine:
        opened.append(_open(path, index_cache, settings))
        return opened[-1]

    yield start
    for engine in opened:
        engine.close(drain=False)


@pytest.fixture(scope="module")
def engine(tiny: Path, index_cache: Path) -> Iterator[LlamaEngine]:
    """An engine on the tiny model, shared by a file's tests."""
    shared = _open(tiny, index_cache, {})
    yield shared
    shared.close(drain=False)
