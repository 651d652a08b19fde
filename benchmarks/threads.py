"""How long ggml's threads should wait for each other, on a quiet machine and on a busy one.

Verdicts per second of the bundled judge, for each way that OpenMP can wait, each number of threads
of one context, and one context for every thread, with and without other work on every core.

    python -m benchmarks.threads --load 8
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import show
from evenhand.engine import EngineSettings, open_engine
from evenhand.engine.native import available_cores
from evenhand.judge import Judge

CASES = Path(__file__).resolve().parent.parent / "tests" / "data" / "plain_cases.jsonl"
WAYS = {
    "OpenMP's default": {"GOMP_SPINCOUNT": "300000"},
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "2,000 rounds, then sleep": {"GOMP_SPINCOUNT": "2000"},
}


def rate(threads: int, contexts: int, seconds: float = 4.0) -> float:
    """Verdicts per second over about `seconds`, with as much under way as the judge takes.

    `contexts` 0 takes as many as the engine takes by itself: one for every thread.
    """
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    engine = open_engine(
        "bundled:judge", EngineSettings(n_threads=threads, contexts=contexts or None)
    )
    with Judge(engine, owns_engine=True) as judge:
        judge.judge("warm", "up")
        started = time.perf_counter()
        pairs = ((row["prompt"], row["response"]) for row in itertools.cycle(rows))
        in_time = itertools.takewhile(lambda _: time.perf_counter() - started < seconds, pairs)
        done = sum(1 for _ in judge.judge_many(in_time))
        return done / (time.perf_counter() - started)


def measured(way: str, threads: int, contexts: int) -> float:
    """The rate in a fresh process: OpenMP reads its variables once."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    shape = [str(threads), str(contexts)]
    command = [sys.executable, "-m", "benchmarks.threads", "--child", *shape]
    reply = subprocess.run(command, env=clean | WAYS[way], capture_output=True, check=True)
    return float(reply.stdout)


def _burn() -> None:
    while True:
        pass


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=int, default=2 * available_cores(), help="busy processes")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(rate(*arguments.child))
        return
    cores = available_cores()
    shapes = [(n, 1) for n in sorted({1, 2, cores})] + [(cores, 0)]
    rows: list[tuple[str, ...]] = []
    for load in (0, arguments.load):
        burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(load)]
        for burner in burners:
            burner.start()
        for way in WAYS:
            rates = [f"{measured(way, *shape):.1f}" for shape in shapes]
            rows.append((way, f"{load} busy", *rates))
        for burner in burners:
            burner.terminate()
    show(
        "Verdicts per second of the bundled judge",
        (
            "waiting",
            "other processes",
            *(f"{n} threads" for n, _ in shapes[:-1]),
            f"{cores} contexts of 1",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
