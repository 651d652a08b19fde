"""The training loop for both models: next-token loss on all text first, on the answers at the end.

Seeded. On one machine with one number of threads and one torch build a run repeats exactly; across
machines sums of floats differ in the last bits and so do the weights.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from evenhand.training import encode
from evenhand.training import tokenizer as tok
from evenhand.training.encode import Example
from evenhand.training.model import Llama, Shape
from evenhand.training.rows import LABELS, Row


@dataclass(frozen=True)
class Recipe:
    """How to train. Batches are measured in tokens, padding included."""

    seed: int = 1
    batch_tokens: int = 4096
    peak: float = 2e-3
    warmup: float = 0.05
    decay: float = 0.05
    dropout: float = 0.05
    text_share: float = 0.4  # of the run, in which text other than the answer is learned as well
    text_weight: float = 1.0
    average_from: float = 0.75  # of the run, from where weights are averaged
    smoothing: float = 0.0
    per_token: bool = False  # loss per answer token rather than per whole answer

    def rate(self, done: float) -> float:
        """Learning rate after a fraction `done` of the run: a short rise, then a cosine fall."""
        if done < self.warmup:
            return self.peak * max(done / self.warmup, 0.01)
        fall = (done - self.warmup) / (1 - self.warmup)
        return self.peak * (0.02 + 0.49 * (1 + math.cos(math.pi * fall)))


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Batches of like length, at most `size` tokens each with padding, in random order."""
    order = sorted(examples, key=lambda e: (len(e.ids) // 8, rng.random()))
    out: list[list[Example]] = [[]]
    for example in order:
        if out[-1] and (len(out[-1]) + 1) * len(example.ids) > size:
            out.append([])
        out[-1].append(example)
    rng.shuffle(out)
    return out


def _tensors(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Ids padded on the right (batch, length), and the answer mask over the targets."""
    ids = pad_sequence([torch.tensor(e.ids) for e in batch], True, tok.PAD)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, example in enumerate(batch):
        mask[i, example.start : len(example.ids)] = True
    return ids, mask[:, 1:]


def _optimizer(model: Llama, recipe: Recipe) -> torch.optim.Optimizer:
    flat = [p for p in model.parameters() if p.dim() < 2]
    wide = [p for p in model.parameters() if p.dim() >= 2]
    groups = [{"params": wide, "weight_decay": recipe.decay}, {"params": flat, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.peak, betas=(0.9, 0.97))


def train(
    name: str,
    shape: Shape,
    examples: Sequence[Example],
    recipe: Recipe,
    start: Llama | None = None,
) -> Llama:
    """Train on one pass over `examples` (from the weights of `start`, if given), and average."""
    torch.manual_seed(recipe.seed)
    model = Llama(shape, recipe.dropout)
    if start is not None:
        model.load_state_dict(start.state_dict())
    optimizer = _optimizer(model, recipe)
    plan = batches(examples, recipe.batch_tokens, random.Random(recipe.seed))
    total, tokens, began = len(plan), 0, time.perf_counter()
    average: dict[str, Tensor] = {}
    averaged = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, refresh_per_second=1) as progress:
        task = progress.add_task(name, total=total)
        for step, batch in enumerate(plan):
            done = step / total
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(done)
            ids, mask = _tensors(batch)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = model(ids[:, :-1])
                logits = model.logits(hidden[mask])
                loss = functional.cross_entropy(
                    logits.float(),
                    ids[:, 1:][mask],
                    reduction="sum",
                    label_smoothing=recipe.smoothing,
                ) / (int(mask.sum()) if recipe.per_token else len(batch))
                answer_loss = loss.item()
                if recipe.text_weight and done < recipe.text_share:
                    text = ~mask & (ids[:, 1:] != tok.PAD)
                    loss = loss + recipe.text_weight * functional.cross_entropy(
                        model.logits(hidden[text]).float(), ids[:, 1:][text]
                    )
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            tokens += ids.numel()
            if done >= recipe.average_from:
                averaged += 1
                for key, weight in model.state_dict().items():
                    if key in average:
                        average[key].lerp_(weight, 1 / averaged)
                    else:
                        average[key] = weight.clone()
            speed = tokens / (time.perf_counter() - began)
            state = f"{name} loss {answer_loss:.3f} {speed:,.0f} tokens/s"
            progress.update(task, advance=1, description=state)
            if not progress.console.is_terminal and step % (total // 20 + 1) == 0:
                print(f"{step}/{total} {state}", flush=True)
    model.load_state_dict(average)
    return model.eval()


@torch.no_grad()
def label_scores(model: Llama, bpe: Tokenizer, rows: Sequence[Row]) -> Tensor:
    """Log-probability of each whole answer, (rows, labels), in the order of LABELS."""
    out = torch.zeros(len(rows), len(LABELS))
    for j, label in enumerate(LABELS):
        fake = [Row(r.prompt, r.response, label, r.source) for r in rows]
        examples = encode.judge(bpe, fake)
        for i, example in enumerate(examples):
            ids = torch.tensor([example.ids])
            hidden = model(ids[:, :-1])[:, example.start - 1 :]
            logs = model.logits(hidden).log_softmax(-1)
            out[i, j] = logs[0].gather(-1, ids[0, example.start :, None]).sum()
    return out
