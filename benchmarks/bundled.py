"""How fast the bundled judge is, against how fast llama.cpp evaluates its tokens.

Verdicts per second on responses of about 150 tokens, and the ratio to the limit: the same prompts
evaluated one after the other by llama.cpp, and nothing else (no answers, no scores, no verdicts).

    python -m benchmarks.bundled --tokens 150
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import peers
from benchmarks.report import figure, machine, ratios, save, show, spread
from benchmarks.texts import words
from evenhand.engine import EngineSettings, Segment, open_engine
from evenhand.engine.models import resolve
from evenhand.engine.native import available_cores
from evenhand.judge import Judge

PROMPT = "How do I get red wine out of a white shirt?"
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
    engine = open_engine(arguments.model, EngineSettings(n_threads=arguments.threads))
    times: dict[str, list[float]] = {"evenhand": [], "limit": []}
    tokens = 0
    with Judge(engine, owns_engine=True) as judge, peers.Child(peers.prefill, setting) as prefill:
        judge.judge(PROMPT, "warm up")
        for round_ in range(arguments.rounds):
            responses = [
                words(arguments.tokens, 10_000 * round_ + i) for i in range(arguments.items)
            ]
            started = time.perf_counter()
            labels = [v.label for v in judge.judge_many((PROMPT, r) for r in responses)]
            times["evenhand"].append(time.perf_counter() - started)
            assert None not in labels
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
    ratio = ratios(rates["evenhand"], rates["limit"])
    show(
        f"Verdicts per second, prompts of {each:.0f} tokens, {arguments.threads} threads",
        ("way", "a second", "of the limit"),
        [
            ("evenhand", figure(spread(rates["evenhand"]), 0), figure(ratio)),
            ("limit", figure(spread(rates["limit"]), 0), "1"),
        ],
    )
    save(arguments.json, {"machine": machine(), "tokens": each, "rates": rates, "ratio": ratio})


if __name__ == "__main__":
    main()
