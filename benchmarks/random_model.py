"""Random-weight GGUF models of real shapes: what a benchmark needs where weights cannot be had.

Speed depends on shapes and types, not on what the weights mean. Tensors of one shape share one
random block, so that a 7B file is made in a minute.

    python -m benchmarks.random_model tinyllama-1.1b q4_0 model.gguf --vocab llama-spm.gguf
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from evenhand.engine.native import available_cores, supports_gpu


@dataclass(frozen=True)
class Shape:
    """The extents of a Llama-architecture model. `context` is in tokens."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    context: int = 4_096
    vocab: int = 32_000  # of the model that the shape is taken from


SHAPES = {
    "nano": Shape(64, 2, 2, 2, 128, 2_048),
    "tinyllama-1.1b": Shape(2_048, 22, 32, 4, 5_632),
    "llama-2-7b": Shape(4_096, 32, 32, 32, 11_008),
    "llama-2-13b": Shape(5_120, 40, 40, 40, 13_824),
    "llama-2-70b": Shape(8_192, 80, 64, 8, 28_672),
    "llama-3.1-8b": Shape(4_096, 32, 32, 8, 14_336, 131_072, 128_256),
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


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", type=Path, help="a GGUF file; left out, one is made")
    options.add_argument("--shape", choices=SHAPES)
    options.add_argument("--type", choices=TYPES, nargs="+")
    options.add_argument("--vocab", type=Path, help="a GGUF file with the tokenizer to use")
    options.add_argument("--gpu", action="store_true", help="all layers on the GPU, a 7B shape")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=available_cores())
    options.add_argument(
        "--flash", choices=("on", "off"), help="flash attention of evenhand; peers have it on"
    )
    options.add_argument("--no-server", action="store_true")
    options.add_argument("--json", type=Path)
    return options


def models(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Each model to measure, with a title; those that are made are deleted afterwards."""
    arguments.gpu_layers = -1 if arguments.gpu else 0
    arguments.flash_attention = {"on": True, "off": False, None: None}[arguments.flash]
    if arguments.gpu and not supports_gpu():
        raise SystemExit("this build of llama-cpp-python has no GPU support: make bench-gpu")
    if arguments.model is not None:
        yield arguments.model.name, arguments.model
        return
    shape = arguments.shape or ("llama-2-7b" if arguments.gpu else "tinyllama-1.1b")
    for kind in arguments.type or (["q4_0", "f16"] if arguments.gpu else ["q4_0"]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{shape}-{kind}.gguf"
            write(path, SHAPES[shape], kind, arguments.vocab or default_vocab())
            yield path.stem, path


def default_vocab() -> Path:
    """Llama 2's tokenizer where the data beside the project has it, else the bundled judge's."""
    root = Path(__file__).resolve().parent.parent
    beside = root.parent / "shared" / "data" / "vocab" / "llama-spm.gguf"
    return beside if beside.exists() else root / "engine" / "bundled" / "judge.gguf"


def main() -> None:
    """Write one model."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape", choices=SHAPES)
    options.add_argument("type", choices=TYPES)
    options.add_argument("out", type=Path)
    options.add_argument("--vocab", type=Path, help="a GGUF file with a tokenizer")
    arguments = options.parse_args()
    vocab = arguments.vocab or default_vocab()
    write(arguments.out, SHAPES[arguments.shape], arguments.type, vocab)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
