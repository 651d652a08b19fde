"""The training loop for both models: language first (`read`), then labels or replies (`train`).

Seeded. On one machine with one number of threads and one torch build a run repeats exactly; across
machines sums of floats differ in the last bits and so do the weights.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
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

RUN_IN = 6  # tokens of a response before a label is guessed


@dataclass(frozen=True)
class TextRecipe:
    """How to learn language from running text, before any label."""

    seed: int = 1
    length: int = 512  # tokens in a chunk
    chunks: int = 8  # in a batch
    steps: int = 3_500
    peak: float = 6e-3
    warmup: int = 30
    hold: float = 0.3  # of the run at the peak rate, before a linear fall
    floor: float = 0.05

    def rate(self, step: int) -> float:
        """Learning rate as a fraction of the peak."""
        fall = 1 - (1 - self.floor) * max(step / self.steps - self.hold, 0) / (1 - self.hold)
        return min((step + 1) / self.warmup, fall)


@dataclass(frozen=True)
class Recipe:
    """How to train. Batches are measured in tokens, padding included."""

    seed: int = 1
    batch_tokens: int = 4096
    peak: float = 3e-3
    warmup: float = 0.05
    decay: float = 0.05
    text_share: float = 0.3  # of the run, in which text other than the answer is learned as well
    text_weight: float = 1.0
    average_from: float = 0.75  # of the run, from where weights are averaged
    running: float = 1.0  # weight of the loss of a label guessed after every token of the response
    per_token: bool = False  # loss per answer token rather than per whole answer
    twins: float = 0.0  # weight of the difference between answers to texts that differ by a name

    def rate(self, done: float) -> float:
        """Fraction of the peak rate after a fraction `done` of the run: a rise, then a cosine."""
        if done < self.warmup:
            return max(done / self.warmup, 0.01)
        fall = (done - self.warmup) / (1 - self.warmup)
        return 0.02 + 0.49 * (1 + math.cos(math.pi * fall))


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Batches of like length, at most `size` tokens each with padding, in random order.

    A twin stands behind its example.
    """
    order = sorted(examples, key=lambda e: (len(e.ids) // 8, rng.random()))
    out: list[list[Example]] = [[]]
    for example in order:
        pair = [example] if example.twin is None else [example, example.twin]
        longest = max(len(e.ids) for e in (*out[-1], *pair))
        if out[-1] and (len(out[-1]) + len(pair)) * longest > size:
            out.append([])
        out[-1] += pair
    rng.shuffle(out)
    return out


def _tensors(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Ids padded on the right (batch, length), and the answer mask over the targets."""
    ids = pad_sequence([torch.tensor(e.ids) for e in batch], True, tok.PAD)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, example in enumerate(batch):
        mask[i, example.start : len(example.ids)] = True
    return ids, mask[:, 1:]


def _running(batch: Sequence[Example], length: int) -> tuple[Tensor, Tensor]:
    """Labels, and where in the response they are guessed, both (batch, length)."""
    labels = torch.tensor([e.label for e in batch])[:, None].expand(-1, length)
    at = torch.arange(length)[None]
    first = torch.tensor([e.response for e in batch])[:, None] + RUN_IN
    last = torch.tensor([e.start for e in batch])[:, None] - 1
    return labels, (at >= first) & (at < last)


def _between_twins(batch: Sequence[Example], logits: Tensor) -> Tensor:
    """How far answers differ between twins: the sum over pairs and tokens of both KL divergences.

    `logits` (answer tokens of the whole batch, vocabulary), in the batch's order.
    """
    answers = logits.log_softmax(-1).split([len(e.ids) - e.start for e in batch])
    pairs = [(answers[i], answers[i + 1]) for i, e in enumerate(batch) if e.twin is not None]
    if not pairs:
        return logits.new_zeros(())
    one, other = (torch.cat(side) for side in zip(*pairs, strict=True))
    return ((one.exp() - other.exp()) * (one - other)).sum()


class Optimizers:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms, stepped as one.

    Muon (Jordan et al. 2024, `torch.optim.Muon`) took next-token loss on the same 490,000 tokens to
    5.0 nats where AdamW alone took it to 6.1, for a tenth more time (LOG.md).
    """

    EMBEDDING = 1.6  # rate of AdamW's part, relative to Muon's

    def __init__(self, model: Llama, peak: float, decay: float, *more: torch.nn.Module) -> None:
        named = list(model.named_parameters())
        blocks = [p for n, p in named if p.dim() == 2 and n.startswith("blocks.")]
        rest = [p for n, p in named if p.dim() < 2 or not n.startswith("blocks.")]
        rest += [p for module in more for p in module.parameters()]
        self.peak = peak
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(blocks, lr=peak, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                rest, lr=peak * self.EMBEDDING, betas=(0.9, 0.97), weight_decay=0.0, fused=True
            ),
        ]

    def step(self, fraction: float) -> None:
        """One step at a fraction of the peak rates; gradients are cleared."""
        for part, scale in zip(self.parts, (1.0, self.EMBEDDING), strict=True):
            for group in part.param_groups:
                group["lr"] = self.peak * scale * fraction
            part.step()
            part.zero_grad(set_to_none=True)


def read(shape: Shape, examples: Sequence[Example], recipe: TextRecipe) -> Llama:
    """Learn to predict the next token of prompts and responses, packed into chunks."""
    torch.manual_seed(recipe.seed)
    model = Llama(shape)
    rng = random.Random(recipe.seed)
    shuffled = rng.sample(list(examples), len(examples))
    stream = [i for e in shuffled for i in e.ids[: e.start]]
    size = recipe.length
    chunks = [stream[i : i + size + 1] for i in range(0, len(stream) - size, size)]
    optimizers, order = Optimizers(model, recipe.peak, 0.05), list[int]()
    with tracked("text", recipe.steps) as tell:
        for step in range(recipe.steps):
            if len(order) < recipe.chunks:
                order = rng.sample(range(len(chunks)), len(chunks))
            ids = torch.tensor([chunks[order.pop()] for _ in range(recipe.chunks)])
            with torch.autocast("cpu", torch.bfloat16):
                logits = model.logits(model(ids[:, :-1]))
                loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(recipe.rate(step))
            tell(loss.item(), ids.numel())
    return model


@contextmanager
def tracked(name: str, total: int) -> Iterator[Callable[[float, int], None]]:
    """A progress bar, or twenty lines where there is no terminal; call with loss and tokens."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    began, tokens, step = time.perf_counter(), 0, 0
    # Judges that are trained side by side would draw their bars over each other.
    alone = multiprocessing.parent_process() is None
    console = Console(force_terminal=None if alone else False)
    with Progress(*columns, refresh_per_second=1, console=console) as progress:
        task = progress.add_task(name, total=total)

        def tell(loss: float, more: int) -> None:
            nonlocal tokens, step
            tokens += more
            speed = tokens / (time.perf_counter() - began)
            state = f"{name} loss {loss:.3f} {speed:,.0f} tokens/s"
            progress.update(task, advance=1, description=state)
            if not progress.console.is_terminal and step % (total // 20 + 1) == 0:
                print(f"{step}/{total} {state}", flush=True)
            step += 1

        yield tell


def train(
    name: str,
    shape: Shape,
    examples: Sequence[Example],
    recipe: Recipe,
    start: Llama | None = None,
) -> Llama:
    """Train on one pass over `examples` (from the weights of `start`, if given), and average."""
    torch.manual_seed(recipe.seed)
    model = Llama(shape)
    if start is not None:
        model.load_state_dict(start.state_dict())
    # Guessed by a layer that is thrown away: it makes the hidden states tell the label all along,
    # where the answer alone teaches at one place in a hundred.
    guess = torch.nn.Linear(shape.width, max(e.label for e in examples) + 1)
    optimizers = Optimizers(model, recipe.peak, recipe.decay, guess)
    plan = batches(examples, recipe.batch_tokens, random.Random(recipe.seed))
    average: dict[str, Tensor] = {}
    averaged = 0
    with tracked(name, len(plan)) as tell:
        for step, batch in enumerate(plan):
            done = step / len(plan)
            ids, mask = _tensors(batch)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = model(ids[:, :-1])
                logits = model.logits(hidden[mask])
                loss = functional.cross_entropy(
                    logits.float(), ids[:, 1:][mask], reduction="sum"
                ) / (int(mask.sum()) if recipe.per_token else len(batch))
                answer_loss = loss.item()
                if recipe.twins:
                    loss = loss + recipe.twins * _between_twins(batch, logits.float()) / len(batch)
                if recipe.running:
                    labels, where = _running(batch, ids.shape[1] - 1)
                    loss = loss + recipe.running * functional.cross_entropy(
                        guess(hidden[where]).float(), labels[where]
                    )
                if recipe.text_weight and done < recipe.text_share:
                    text = ~mask & (ids[:, 1:] != tok.PAD)
                    loss = loss + recipe.text_weight * functional.cross_entropy(
                        model.logits(hidden[text]).float(), ids[:, 1:][text]
                    )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(recipe.rate(done))
            tell(answer_loss, ids.numel())
            if done >= recipe.average_from:
                averaged += 1
                for key, weight in model.state_dict().items():
                    if key in average:
                        average[key].lerp_(weight, 1 / averaged)
                    else:
                        average[key] = weight.clone()
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
