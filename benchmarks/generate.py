"""How many tokens per second does generation give, alone and many at a time?

Side by side in one run, on one model file, in alternating order: evenhand with n sequences in one
context, llama-cpp-python one after another, and `llama-server` with n slots where it is on the
PATH. The ceiling is the raw prefill rate: what the machine can evaluate when it waits for nothing.

    python -m benchmarks.generate                       # 1, 4, 8 and 16 sequences
    python -m benchmarks.generate --gpu                 # Llama-2-7B's shape, up to 64
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import peers, random_model, report
from benchmarks.texts import words
from evenhand.engine import EngineSettings, Segment
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.models import resolve
from evenhand.schemas import Sampling


def prompts(n: int, length: int, round_: int) -> list[str]:
    """n different prompts of about `length` tokens."""
    return [words(length, seed=1_000 * round_ + i) for i in range(n)]


def measure(arguments: argparse.Namespace, n: int) -> dict[str, list[float]]:
    """Generated tokens per second of each contender, one figure per round."""
    context = max(peers.N_CTX, n * (arguments.prompt + arguments.tokens + 32))
    sampling = Sampling(max_tokens=arguments.tokens, seed=1)
    engine = LlamaEngine(
        resolve(str(arguments.model)),
        EngineSettings(
            n_threads=arguments.threads,
            n_ctx=context,
            n_gpu_layers=arguments.gpu_layers,
            flash_attention=arguments.flash_attention,
        ),
    )
    setting = peers.Setting(
        arguments.model, arguments.threads, arguments.gpu_layers, arguments.flash_attention
    )
    running = ExitStack()
    running.callback(engine.close)
    complete = running.enter_context(peers.Child(peers.completion, setting))

    def evenhand(texts: Sequence[str]) -> int:
        futures = [engine.generate(engine.encode([Segment(t)]), sampling) for t in texts]
        return sum(len(c.tokens) for f in futures for c in f.result())

    contenders: dict[str, Callable[[Sequence[str]], int]] = {
        "evenhand": evenhand,
        "llama-cpp-python": lambda texts: sum(complete((t, arguments.tokens)) for t in texts),
    }
    if not arguments.no_server:
        try:
            server = running.enter_context(peers.Server(setting, slots=n, context=context))
            contenders["llama-server"] = lambda texts: server.generate(texts, arguments.tokens)
        except FileNotFoundError as exc:
            print(f"left out: {exc}", file=sys.stderr)
    try:
        rates: dict[str, list[float]] = {name: [] for name in (*contenders, "prefill")}
        names = list(contenders)
        for name in names:
            contenders[name](prompts(1, arguments.prompt, 99))
        for r in range(arguments.rounds):
            for name in names[r % len(names) :] + names[: r % len(names)]:
                texts = prompts(n, arguments.prompt, r)
                started = time.perf_counter()
                tokens = contenders[name](texts)
                rates[name].append(tokens / (time.perf_counter() - started))
                print(
                    f"{n} sequences, round {r + 1}: {name} {rates[name][-1]:.1f} tokens/s",
                    file=sys.stderr,
                )
            rates["prefill"].append(_prefill_rate(engine, r))
        return rates
    finally:
        running.close()


def _prefill_rate(engine: LlamaEngine, round_: int) -> float:
    """Prompt tokens per second when all of a batch is prompt."""
    prompt = engine.encode([Segment(words(500, seed=-1 - round_))])
    started = time.perf_counter()
    engine.generate(prompt, Sampling(max_tokens=1, seed=1)).result()
    return len(prompt) / (time.perf_counter() - started)


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = random_model.parser(__doc__)
    parser.add_argument("--sequences", type=int, nargs="+")
    parser.add_argument("--prompt", type=int, default=32, help="tokens in a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to generate")
    arguments = parser.parse_args()
    many = [1, 8, 16, 32, 64] if arguments.gpu else [1, 4, 8, 16]
    everything: dict[str, Any] = {}
    for kind, model in random_model.models(arguments):
        arguments.model = model
        results = {n: measure(arguments, n) for n in arguments.sequences or many}
        everything[kind] = {"generate": results}
        report.show(
            f"Generated tokens per second: {kind}, {arguments.prompt}-token prompts, "
            f"{arguments.tokens} tokens each, {arguments.threads} threads",
            ("sequences: way", "tokens per second", "evenhand is faster by"),
            [
                (
                    f"{n}: {name}",
                    report.figure(report.spread(rates), 1),
                    report.figure(report.ratios(result["evenhand"], rates)),
                )
                for n, result in results.items()
                for name, rates in result.items()
            ],
        )
    report.save(arguments.json, everything)


if __name__ == "__main__":
    main()
