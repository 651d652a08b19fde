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
from typing import Any

import outlines
from llama_cpp import LlamaGrammar

from benchmarks import peers, random_model, report
from benchmarks.texts import words
from evenhand.engine import EngineSettings, Segment
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.models import resolve
from evenhand.engine.native import Batch, Context
from evenhand.schemas import Taxonomy


class Bench:
    """One model, one prefix length; every contender sees the same prompts."""

    def __init__(self, arguments: argparse.Namespace, prefix_tokens: int):
        self.taxonomy = Taxonomy.load("qos")
        self.answers = list(self.taxonomy.answers().values())
        self.schema = self.taxonomy.json_schema()
        self.prefix = words(prefix_tokens - 8, seed=prefix_tokens) + "\n"
        self.tail = "\nThe label as JSON:\n"
        self.threads = arguments.threads
        self.model = arguments.model
        self.gpu_layers = arguments.gpu_layers
        self.variable = arguments.variable
        self._engine = LlamaEngine(
            resolve(str(self.model)),
            EngineSettings(
                n_threads=self.threads,
                n_ctx=peers.N_CTX,
                n_gpu_layers=self.gpu_layers,
                flash_attention=arguments.flash_attention,
                score_parallel=1,
            ),
        )
        self._llama = peers.plain_llama(self.model, self.threads, self.gpu_layers)
        self._grammar = LlamaGrammar.from_json_schema(json.dumps(self.schema), verbose=False)
        self._outlines: Any = None
        self._limit = _Limit(self._engine, self.prefix, self.threads, arguments)

    def segments(self, item: str) -> list[Segment]:
        """Constant prefix, variable text, constant tail."""
        return [
            Segment(self.prefix, control=True, constant=True),
            Segment(item),
            Segment(self.tail, control=True, constant=True),
        ]

    def evenhand(self, item: str) -> None:
        """One exact verdict's scores."""
        self._engine.score(
            self._engine.encode(self.segments(item)), self.answers, self.schema
        ).result()

    def limit(self, item: str) -> None:
        """The variable tokens (text and tail), and nothing else."""
        prompt = self._engine.encode(self.segments(item))
        self._limit.run(prompt.tokens[prompt.prefix :])

    def limit_with_answers(self, item: str) -> None:
        """As many tokens more as the answers' trie has: what exact scores cost at the least."""
        prompt = self._engine.encode(self.segments(item))
        tokens = prompt.tokens[prompt.prefix :]
        self._limit.run((*tokens, *tokens[: self.answer_tokens()]))

    def answer_tokens(self) -> int:
        """Tokens in the trie of answers."""
        return self._engine._trie(tuple(self.answers), self.schema).tokens

    def outlines(self, item: str) -> None:
        """`from_llamacpp` + `Generator`, temperature 0."""
        if self._outlines is None:
            model = outlines.from_llamacpp(
                peers.plain_llama(self.model, self.threads, self.gpu_layers), chat_mode=False
            )
            self._outlines = outlines.Generator(model, self.taxonomy.answer_model)
        self._outlines(
            self.prefix + item + self.tail, temperature=0.0, max_tokens=peers.ANSWER_TOKENS
        )

    def gbnf(self, item: str) -> None:
        """`create_completion` with a grammar; it keeps the common prefix by itself."""
        self._llama.create_completion(
            self.prefix + item + self.tail,
            grammar=self._grammar,
            temperature=0.0,
            max_tokens=peers.ANSWER_TOKENS,
        )

    def variable_tokens(self) -> int:
        """Variable tokens in one item."""
        prompt = self._engine.encode(self.segments(words(self.variable, 0)))
        return len(prompt) - prompt.prefix

    def close(self) -> None:
        """Free every model."""
        self._limit.close()
        self._engine.close()
        self._llama.close()


class _Limit:
    """Raw prefill behind a prefix, in a context of its own."""

    def __init__(
        self, engine: LlamaEngine, prefix: str, threads: int, arguments: argparse.Namespace
    ):
        model = engine._model
        settings = EngineSettings(
            n_ctx=peers.N_CTX, flash_attention=arguments.flash_attention
        ).fitted(gpu=arguments.gpu)
        self._context = Context(model, settings, n_ctx=peers.N_CTX, n_threads=threads)
        self._batch = Batch(self._context.n_batch)
        self._prefix = engine.encode([Segment(prefix, control=True, constant=True)]).tokens
        self._batch.add(self._prefix, range(len(self._prefix)), (0,))
        self._context.decode(self._batch)

    def run(self, tokens: tuple[int, ...]) -> None:
        n = len(self._prefix)
        self._context.copy(0, 1, n)
        self._batch.clear()
        self._batch.add(tokens, range(n, n + len(tokens)), (1,), outputs=slice(-1, None))
        self._context.decode(self._batch)
        self._context.logits(len(tokens) - 1)
        self._context.remove(1)

    def close(self) -> None:
        self._context.close()


def measure(arguments: argparse.Namespace, prefix: int) -> dict[str, Any]:
    """Seconds per item of each contender, a list with one mean per round."""
    bench = Bench(arguments, prefix)
    contenders: dict[str, Callable[[str], Any]] = {
        "limit": bench.limit,
        "limit, answers included": bench.limit_with_answers,
        "evenhand": bench.evenhand,
        "outlines": bench.outlines,
        "GBNF": bench.gbnf,
    }
    server = None
    if not arguments.no_server:
        try:
            server = peers.Server(
                arguments.model, arguments.threads, arguments.gpu_layers, slots=1,
                context=peers.N_CTX,
            )  # fmt: skip
            contenders["llama-server"] = lambda item: server.judge(
                bench.prefix + item + bench.tail, bench.schema
            )
        except FileNotFoundError as exc:
            print(f"left out: {exc}", file=sys.stderr)
    try:
        for i, run in enumerate(contenders.values()):
            run(words(arguments.variable, 10_000 + i))  # compiles, pins, warms caches
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        names = list(contenders)
        for r in range(arguments.rounds):
            for name in names[r % len(names) :] + names[: r % len(names)]:
                items = [words(arguments.variable, 100 * r + i) for i in range(arguments.items)]
                started = time.perf_counter()
                for item in items:
                    contenders[name](item)
                seconds[name].append((time.perf_counter() - started) / len(items))
                print(f"prefix {prefix}, round {r + 1}: {name} {seconds[name][-1]:.3f} s/item",
                      file=sys.stderr)  # fmt: skip
        return {
            "prefix": prefix,
            "variable": bench.variable_tokens(),
            "answers": bench.answer_tokens(),
            "seconds": seconds,
        }
    finally:
        if server is not None:
            server.__exit__()
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
