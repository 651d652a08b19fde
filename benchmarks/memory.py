"""What a model takes in memory: its weights, and the keys and values of a context.

Computed from the model's shape and ggml's block sizes; nothing is loaded.

    python -m benchmarks.memory
"""

from __future__ import annotations

from benchmarks.random_model import SHAPES, TYPES, Shape
from benchmarks.report import show
from evenhand.engine.gguf import BLOCKS

GIB = 2**30
CONTEXT = 4_096


def parameters(shape: Shape) -> int:
    """Weights of the matrices (norms are left out: a few thousand)."""
    kv_width = shape.width * shape.kv_heads // shape.heads
    attention = 2 * shape.width * shape.width + 2 * shape.width * kv_width
    return 2 * shape.vocab * shape.width + shape.layers * (
        attention + 3 * shape.width * shape.hidden
    )


def cache_bytes(shape: Shape, tokens: int) -> int:
    """Keys and values of `tokens` tokens at 16 bits."""
    return 2 * 2 * shape.layers * (shape.width * shape.kv_heads // shape.heads) * tokens


def main() -> None:
    """Print the table."""
    rows = []
    for name, shape in SHAPES.items():
        n = parameters(shape)
        if n < 10**9:
            continue
        weights = [
            f"{n * BLOCKS[TYPES[kind]][1] / BLOCKS[TYPES[kind]][0] / GIB:.1f}"
            for kind in ("q4_0", "q8_0", "f16")
        ]
        rows.append((name, f"{n / 1e9:.1f}", *weights, f"{cache_bytes(shape, CONTEXT) / GIB:.2f}"))
    show(
        f"GiB of memory; the cache is for {CONTEXT} tokens at 16 bits",
        ("model", "billion weights", "Q4_0", "Q8_0", "F16", "cache"),
        rows,
    )


if __name__ == "__main__":
    main()
