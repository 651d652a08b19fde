"""Random-weight GGUF models of real shapes: what a benchmark needs where weights cannot be had.

Speed depends on shapes and types, not on what the weights mean. Tensors of one shape share one
random block, so that a 7B file is made in a minute.

    python benchmarks/random_model.py tinyllama-1.1b q4_0 model.gguf --vocab llama-spm.gguf
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np


@dataclass(frozen=True)
class Shape:
    """The extents of a Llama-architecture model. `context` is in tokens."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    context: int = 4_096


SHAPES = {
    "nano": Shape(64, 2, 2, 2, 128, 2_048),
    "tinyllama-1.1b": Shape(2_048, 22, 32, 4, 5_632),
    "llama-2-7b": Shape(4_096, 32, 32, 32, 11_008),
}
TYPES = {
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


def write(path: Path, shape: Shape, kind: str, vocab: Path, *, seed: int = 0) -> None:
    """Write a model of `shape` with weights of type `kind` and the tokenizer of another GGUF."""
    rng = np.random.default_rng(seed)
    reader = gguf.GGUFReader(vocab)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random-{path.stem}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    n_vocab = _copy_tokenizer(reader, writer)
    blocks: dict[tuple[tuple[int, ...], Any], np.ndarray] = {}

    def add(name: str, rows: int, columns: int, quantized: str = kind) -> None:
        kind_ = TYPES[quantized]
        if ((rows, columns), kind_) not in blocks:
            weights = rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)
            blocks[(rows, columns), kind_] = gguf.quants.quantize(weights, kind_)
        writer.add_tensor(f"{name}.weight", blocks[(rows, columns), kind_], raw_dtype=kind_)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, np.float32))

    kv_width = shape.width * shape.kv_heads // shape.heads
    add("token_embd", n_vocab, shape.width)
    norm("output_norm")
    add("output", n_vocab, shape.width)
    for i in range(shape.layers):
        norm(f"blk.{i}.attn_norm")
        add(f"blk.{i}.attn_q", shape.width, shape.width)
        add(f"blk.{i}.attn_k", kv_width, shape.width)
        add(f"blk.{i}.attn_v", kv_width, shape.width)
        add(f"blk.{i}.attn_output", shape.width, shape.width)
        norm(f"blk.{i}.ffn_norm")
        add(f"blk.{i}.ffn_gate", shape.hidden, shape.width)
        add(f"blk.{i}.ffn_up", shape.hidden, shape.width)
        add(f"blk.{i}.ffn_down", shape.width, shape.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Copy every `tokenizer.*` key; return the size of the vocabulary."""
    n_vocab = 0
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=inner)
        if name == "tokenizer.ggml.tokens":
            n_vocab = len(value)
    writer.add_vocab_size(n_vocab)
    return n_vocab


def make(folder: Path, shape: str, kind: str, vocab: Path | None) -> Path:
    """Write a random model of a named shape into a folder.

    Without a `vocab`, the tokenizer is Llama 2's where the data beside the project has it, else the
    bundled judge's.
    """
    if vocab is None:
        root = Path(__file__).resolve().parent.parent
        beside = root.parent / "shared" / "data" / "vocab" / "llama-spm.gguf"
        vocab = beside if beside.exists() else root / "engine" / "bundled" / "judge.gguf"
    path = folder / f"{shape}-{kind}.gguf"
    write(path, SHAPES[shape], kind, vocab)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab", type=Path, required=True, help="a GGUF file with a tokenizer")
    arguments = parser.parse_args()
    write(arguments.out, SHAPES[arguments.shape], arguments.type, arguments.vocab)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.0f} MiB")
