"""How fast the bundled judge is, against how fast llama.cpp evaluates its tokens.

Verdicts per second on responses of about 150 tokens, as evenhand comes (for a model this small one
context for every thread) and with one context, and the ratio to the limit: the same prompts
evaluated one after the other by llama.cpp with all threads, and nothing else (no answers, no
scores, no verdicts). Beside them, how long one verdict takes when nothing else is asked.

    python -m benchmarks.bundled --tokens 150
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers
from benchmarks.report import figure, machine, ratios, save, show, spread
from benchmarks.texts import words
from evenhand.engine import EngineSettings, Segment, open_engine
from evenhand.engine.models import resolve
from evenhand.engine.native import available_cores
from evenhand.judge import Judge

PROMPT = "How do I get red wine out of a white shirt?"
ALONE = 20  # verdicts asked for one after the other in a round
HEAD, MIDDLE, TAIL = "<|prompt|>", "<|response|>", "<|verdict|>"  # as prompts/judge/compact.j2


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled:judge")
    parser.add_argument("--tokens", type=int, default=150, help="of a response")
    parser.add_argument("--items", type=int, default=300, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setting = peers.Setting(
        resolve(arguments.model).path, arguments.threads, 0, flash_attention=None
    )
    ways = {"evenhand": None, "evenhand, one context": 1}
    times: dict[str, list[float]] = {name: [] for name in (*ways, "limit")}
    waits: dict[str, list[float]] = {name: [] for name in ways}
    tokens = 0
    with ExitStack() as running:
        judges = {}
        for name, contexts in ways.items():
            settings = EngineSettings(n_threads=arguments.threads, contexts=contexts)
            engine = open_engine(arguments.model, settings)
            judges[name] = running.enter_context(Judge(engine, owns_engine=True))
            judges[name].judge(PROMPT, "warm up")
        prefill = running.enter_context(peers.Child(peers.prefill, setting))
        for round_ in range(arguments.rounds):
            responses = [
                words(arguments.tokens, 10_000 * round_ + i) for i in range(arguments.items)
            ]
            for name, judge in judges.items():
                started = time.perf_counter()
                labels = [v.label for v in judge.judge_many((PROMPT, r) for r in responses)]
                times[name].append(time.perf_counter() - started)
                assert None not in labels
                for i in range(ALONE):
                    response = words(arguments.tokens, 10_000 * round_ + arguments.items + i)
                    started = time.perf_counter()
                    judge.judge(PROMPT, response)
                    waits[name].append(1_000 * (time.perf_counter() - started))
            jobs = [
                engine.encode(
                    [
                        Segment(HEAD, control=True, constant=True),
                        Segment(PROMPT),
                        Segment(MIDDLE, control=True, constant=True),
                        Segment(r),
                        Segment(TAIL, control=True, constant=True),
                    ]
                )
                for r in responses
            ]
            tokens += sum(len(job.tokens) for job in jobs)
            started = time.perf_counter()
            for job in jobs:
                prefill((list(job.tokens), job.prefix))
            times["limit"].append(time.perf_counter() - started)
    each = tokens / arguments.rounds / arguments.items
    rates = {name: [arguments.items / t for t in taken] for name, taken in times.items()}
    ratio = {name: ratios(rate, rates["limit"]) for name, rate in rates.items()}
    show(
        f"Verdicts per second, prompts of {each:.0f} tokens, {arguments.threads} threads",
        ("way", "a second", "of the limit", "one alone, ms"),
        [
            (
                name,
                figure(spread(rate), 0),
                figure(ratio[name]),
                figure(spread(waits[name]), 0) if name in waits else "",
            )
            for name, rate in rates.items()
        ],
    )
    result = {"tokens": each, "rates": rates, "ratio": ratio, "alone_ms": waits}
    save(arguments.json, {"machine": machine(), **result})


if __name__ == "__main__":
    main()
