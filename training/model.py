"""The Llama architecture in torch, as llama.cpp's `llama` graph computes it.

RMSNorm, rotary positions on interleaved pairs (so that q and k rows need no permutation in the
GGUF), SwiGLU, input and output embeddings tied. Causal, dense, no biases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. Widths divide by 32 so that every row fits Q8_0 blocks."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 512
    vocab: int = 4096
    context: int = 1024
    theta: float = 10_000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


class Norm(nn.Module):
    """RMSNorm: x / rms(x) * weight, over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any shape (..., width) to the same shape."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (0,1), (2,3), ... of x (batch, heads, length, head) by their position's angle."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.heads = shape.heads
        self.attn_norm = Norm(width, shape.eps)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = Norm(width, shape.eps)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.ffn_down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x is (batch, length, width)."""
        batch, length, width = x.shape
        split = self.qkv(self.attn_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v, is_causal=True
        )
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        out: Tensor = x + self.ffn_down(functional.silu(gate) * up)
        return out


class Llama(nn.Module):
    """Token ids (batch, length) to hidden states (batch, length, width); logits on demand."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape.width, shape.eps)
        angles = torch.outer(
            torch.arange(shape.context).float(),
            shape.theta ** (-torch.arange(0, shape.head, 2).float() / shape.head),
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                back = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * shape.layers) if back else 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states after the last norm."""
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        cos, sin = cos[: ids.shape[1]], sin[: ids.shape[1]]
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        out: Tensor = self.output_norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary for hidden states (..., width)."""
        return functional.linear(hidden, self.embedding.weight)
