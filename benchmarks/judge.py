"""How long does one judgement take, and how long would it take at the limit?

Side by side in one run, on one model file, in alternating order: evenhand, plain outlines,
llama-cpp-python with GBNF, `llama-server` where it is on the PATH, and the limit: the variable
tokens alone, evaluated at the same depth behind a prefix that is already there (and the same with
as many tokens more as the answers have).

    python -m benchmarks.judge                      # TinyLlama-1.1B's shape, random weights
    python -m benchmarks.judge --gpu                # Llama-2-7B's shape, many items in one decode
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks import peers, random_model, report
from benchmarks.texts import words
from evenhand.engine import EngineSettings, Prompt, Segment
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.models import resolve
from evenhand.schemas import Taxonomy


class Bench:
    """One model, one prefix length; every contender sees the same prompts."""

    def __init__(self, arguments: argparse.Namespace, prefix_tokens: int):
        taxonomy = Taxonomy.load("qos")
        self._answers = list(taxonomy.answers().values())
        self._schema = taxonomy.json_schema()
        self._prefix = words(prefix_tokens - 8, seed=prefix_tokens) + "\n"
        self._tail = "\nThe label as JSON:\n"
        self.variable = arguments.variable
        setting = peers.Setting(
            arguments.model,
            arguments.threads,
            arguments.gpu_layers,
            arguments.flash_attention,
            json.dumps(self._schema),
        )
        self._open = ExitStack()
        self._engine = LlamaEngine(
            resolve(str(arguments.model)),
            EngineSettings(
                n_threads=arguments.threads,
                n_ctx=peers.N_CTX,
                n_gpu_layers=arguments.gpu_layers,
                flash_attention=arguments.flash_attention,
                score_parallel=1,
            ),
        )
        self._open.callback(self._engine.close)
        prefill = self._open.enter_context(peers.Child(peers.prefill, setting))
        outlines = self._open.enter_context(peers.Child(peers.plain_outlines, setting))
        gbnf = self._open.enter_context(peers.Child(peers.gbnf, setting))
        self.contenders: dict[str, Callable[[str], Any]] = {
            "limit": lambda item: prefill(self._tokens(item, 0)),
            "limit, answers included": lambda item: prefill(
                self._tokens(item, self.answer_tokens())
            ),
            "evenhand": self._evenhand,
            "outlines": lambda item: outlines(self._prefix + item + self._tail),
            "GBNF": lambda item: gbnf(self._prefix + item + self._tail),
        }
        if not arguments.no_server:
            try:
                server = self._open.enter_context(
                    peers.Server(setting, slots=1, context=peers.N_CTX)
                )
                self.contenders["llama-server"] = lambda item: server.judge(
                    self._prefix + item + self._tail, self._schema
                )
            except FileNotFoundError as exc:
                print(f"left out: {exc}", file=sys.stderr)

    def variable_tokens(self) -> int:
        """Variable tokens in one item, the tail included."""
        tokens, prefix = self._tokens(words(self.variable, 0), 0)
        return len(tokens) - prefix

    def answer_tokens(self) -> int:
        """Tokens in the trie of answers."""
        return self._engine._trie(tuple(self._answers), self._schema).tokens

    def close(self) -> None:
        """End every contender."""
        self._open.close()

    def _prompt(self, item: str) -> Prompt:
        return self._engine.encode(
            [
                Segment(self._prefix, control=True, constant=True),
                Segment(item),
                Segment(self._tail, control=True, constant=True),
            ]
        )

    def _tokens(self, item: str, more: int) -> tuple[list[int], int]:
        """The prompt's tokens with some repeated at the end, and how many are its prefix."""
        prompt = self._prompt(item)
        tokens = list(prompt.tokens)
        return tokens + tokens[prompt.prefix :][:more], prompt.prefix

    def _evenhand(self, item: str) -> None:
        self._engine.score(self._prompt(item), self._answers, self._schema).result()


def measure(arguments: argparse.Namespace, prefix: int) -> dict[str, Any]:
    """Seconds per item of each contender, a list with one mean per round."""
    bench = Bench(arguments, prefix)
    try:
        for i, run in enumerate(bench.contenders.values()):
            run(words(arguments.variable, 10_000 + i))  # compiles, pins, warms caches
        seconds: dict[str, list[float]] = {name: [] for name in bench.contenders}
        names = list(bench.contenders)
        for r in range(arguments.rounds):
            for name in names[r % len(names) :] + names[: r % len(names)]:
                items = [words(arguments.variable, 100 * r + i) for i in range(arguments.items)]
                started = time.perf_counter()
                for item in items:
                    bench.contenders[name](item)
                seconds[name].append((time.perf_counter() - started) / len(items))
                print(
                    f"prefix {prefix}, round {r + 1}: {name} {seconds[name][-1]:.3f} s/item",
                    file=sys.stderr,
                )
        return {
            "prefix": prefix,
            "variable": bench.variable_tokens(),
            "answers": bench.answer_tokens(),
            "seconds": seconds,
        }
    finally:
        bench.close()


def measure_parallel(arguments: argparse.Namespace, prefix: int) -> dict[str, Any]:
    """Items per second with several items in one decode, against one at a time."""
    taxonomy = Taxonomy.load("qos")
    answers, schema = list(taxonomy.answers().values()), taxonomy.json_schema()
    head = Segment(words(prefix - 8, seed=prefix) + "\n", control=True, constant=True)
    rates: dict[int, list[float]] = {n: [] for n in arguments.parallel}
    for _ in range(arguments.rounds):
        for n in arguments.parallel:
            engine = LlamaEngine(
                resolve(str(arguments.model)),
                EngineSettings(
                    n_threads=arguments.threads,
                    n_ctx=max(peers.N_CTX, prefix + n * (arguments.variable + 64) + 512),
                    n_gpu_layers=arguments.gpu_layers,
                    flash_attention=arguments.flash_attention,
                    n_batch=8_192,
                    n_ubatch=2_048,
                    score_parallel=n,
                    queue=1_000,
                ),
            )
            count = max(arguments.items, 2 * n)
            prompts = [
                engine.encode([head, Segment(words(arguments.variable, seed))])
                for seed in range(count + 1)
            ]
            engine.score(prompts.pop(), answers, schema).result()  # compiles and pins
            started = time.perf_counter()
            for future in [engine.score(prompt, answers, schema) for prompt in prompts]:
                future.result()
            rates[n].append(count / (time.perf_counter() - started))
            engine.close()
    return {"prefix": prefix, "items_per_second": rates}


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = random_model.parser(__doc__)
    parser.add_argument("--prefix", type=int, nargs="+", default=[250, 1_200])
    parser.add_argument("--variable", type=int, default=160, help="words in one item")
    parser.add_argument("--items", type=int, default=4, help="items per round")
    parser.add_argument("--parallel", type=int, nargs="*", default=[], help="items in one decode")
    arguments = parser.parse_args()
    if arguments.gpu:
        arguments.parallel = arguments.parallel or [1, 4, 16, 32]
    everything: dict[str, Any] = {}
    for kind, model in random_model.models(arguments):
        arguments.model = model
        results = [measure(arguments, prefix) for prefix in arguments.prefix]
        parallel = [measure_parallel(arguments, p) for p in arguments.prefix if arguments.parallel]
        everything[kind] = {"judge": results, "parallel": parallel}
        for result in results:
            _show(kind, result, arguments.threads)
        for result in parallel:
            _show_parallel(kind, result)
    report.save(arguments.json, everything)


def _show(kind: str, result: dict[str, Any], threads: int) -> None:
    seconds = result["seconds"]
    report.show(
        f"Seconds per judgement: {kind}, {result['prefix']}-token prefix, "
        f"{result['variable']} variable tokens, {result['answers']} in the answers' trie, "
        f"{threads} threads",
        ("way", "s per item", "times the limit", "evenhand is faster by"),
        [
            (
                name,
                report.figure(report.spread(values), 3),
                report.figure(report.ratios(values, seconds["limit"])),
                report.figure(report.ratios(values, seconds["evenhand"])),
            )
            for name, values in seconds.items()
        ],
    )


def _show_parallel(kind: str, result: dict[str, Any]) -> None:
    rates = result["items_per_second"]
    one = next(iter(rates.values()))
    report.show(
        f"Judgements per second: {kind}, {result['prefix']}-token prefix",
        ("items in one decode", "per second", f"times {next(iter(rates))} at a time"),
        [
            (
                str(n),
                report.figure(report.spread(values), 1),
                report.figure(report.ratios(values, one)),
            )
            for n, values in rates.items()
        ],
    )


if __name__ == "__main__":
    main()
