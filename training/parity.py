"""Check that a judge GGUF does in llama.cpp what it does in torch.

`python -m evenhand.training.parity` reads the file back (weights and vocabulary), so that it checks
what users get and not what was in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import torch

from evenhand.training import data, encode, evaluate, train
from evenhand.training.model import Llama, Shape

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load(path: Path) -> tuple[Llama, Tokenizer]:
    """The model (weights as rounded in the file) and the tokenizer of a GGUF of ours."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    reader = gguf.GGUFReader(path)

    def field(key: str) -> int:
        return int(reader.fields[key].contents())

    tensors = {
        t.name.removesuffix(".weight"): torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type))
        for t in reader.tensors
    }
    shape = Shape(
        width=field("llama.embedding_length"),
        layers=field("llama.block_count"),
        heads=field("llama.attention.head_count"),
        hidden=field("llama.feed_forward_length"),
        vocab=field("llama.vocab_size"),
        context=field("llama.context_length"),
    )
    state = {
        "embedding.weight": tensors["token_embd"],
        "output_norm.weight": tensors["output_norm"],
    }
    for i in range(shape.layers):
        part = {
            key.removeprefix(f"blk.{i}."): value
            for key, value in tensors.items()
            if key.startswith(f"blk.{i}.")
        }
        part["qkv"] = torch.cat([part.pop(f"attn_{x}") for x in "qkv"])
        part["gate_up"] = torch.cat([part.pop("ffn_gate"), part.pop("ffn_up")])
        state |= {f"blocks.{i}.{key}.weight": value for key, value in part.items()}
    model = Llama(shape)
    model.load_state_dict(state)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    vocab = {piece: i for i, piece in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab, [tuple(rule.split(" ")) for rule in merges]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    return model.eval(), bpe


def main() -> None:
    """Compare ids, labels and scores on fresh rows; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=evaluate.JUDGE)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    model, bpe = load(options.model)
    scorer = evaluate.Scorer(options.model)
    rows = list(itertools.islice(data.stream(99), options.rows))
    ours = train.label_scores(model, bpe, rows).double().numpy()
    ids = labels = 0
    widest = 0.0
    for row, example, mine in zip(rows, encode.judge(bpe, rows), ours, strict=True):
        head = scorer.head(row.prompt, row.response)
        ids += tuple(head) == example.ids[: example.start]
        theirs = scorer.scores(row.prompt, row.response)
        labels += int(mine.argmax()) == int(theirs.argmax())
        widest = max(widest, float(abs(mine - theirs)[mine > mine.max() - 5].max()))
    result = {"rows": len(rows), "same ids": ids, "same label": labels, "widest gap": widest}
    print(json.dumps(result))
    raise SystemExit(0 if ids == labels == len(rows) else 1)


if __name__ == "__main__":
    main()
