"""The byte-level BPE that both bundled models share.

GPT-2's pre-tokenizer and byte alphabet, so that llama.cpp's `gpt2` tokenizer gives the same ids.
Control tokens come first and are never produced by plain text; all 256 bytes are in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTROL = (
    "<|bos|>",
    "<|eos|>",
    "<|pad|>",
    "<|prompt|>",
    "<|response|>",
    "<|verdict|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
BOS, EOS, PAD, PROMPT, RESPONSE, VERDICT, SYSTEM, USER, ASSISTANT, END = range(len(CONTROL))
SIZE = 4096


def train(texts: Iterable[str], size: int = SIZE) -> Tokenizer:
    """Learn the merges. The same texts in the same order give the same vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _with_control(bpe)


def _with_control(bpe: Tokenizer) -> Tokenizer:
    """Shift every id to make room for the control tokens, and drop as many late merges.

    Control tokens are not registered with the `tokenizers` library: text that spells one must be
    cut into ordinary pieces, as llama.cpp does with parse_special off.
    """
    import json

    from tokenizers import Tokenizer

    state = json.loads(bpe.to_str())
    vocab: dict[str, int] = state["model"]["vocab"]
    ordered = sorted(vocab, key=lambda piece: vocab[piece])[: len(vocab) - len(CONTROL)]
    kept = set(ordered)
    state["model"]["vocab"] = {piece: i for i, piece in enumerate([*CONTROL, *ordered])}
    state["model"]["merges"] = [
        [left, right]
        for left, right in state["model"]["merges"]
        if left in kept and right in kept and left + right in kept
    ]
    return Tokenizer.from_str(json.dumps(state))


def vocabulary(bpe: Tokenizer) -> list[str]:
    """Pieces by id, in GPT-2's printable byte alphabet."""
    vocab = bpe.get_vocab()
    return sorted(vocab, key=lambda piece: vocab[piece])


def merges(bpe: Tokenizer) -> list[str]:
    """Merge rules in rank order, `left right`, as GGUF wants them."""
    import json

    rules = json.loads(bpe.to_str())["model"]["merges"]
    return [rule if isinstance(rule, str) else " ".join(rule) for rule in rules]
