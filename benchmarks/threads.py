"""How long ggml's threads should wait for each other, on a quiet machine and on a busy one.

Verdicts per second of the bundled judge, for each way that OpenMP can wait and each number of
threads, with and without other work on every core.

    python -m benchmarks.threads --load 8
"""

from __future__ import annotations

import argparse
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


def rate(threads: int, seconds: float = 4.0) -> float:
    """Verdicts per second, one at a time, over about `seconds`."""
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    engine = open_engine("bundled:judge", EngineSettings(n_threads=threads))
    judge = Judge(engine)
    judge.judge("warm", "up")
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        row = rows[done % len(rows)]
        judge.judge(row["prompt"], row["response"])
        done += 1
    engine.close()
    return done / (time.perf_counter() - started)


def measured(way: str, threads: int) -> float:
    """The rate in a fresh process: OpenMP reads its variables once."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", "--child", str(threads)]
    reply = subprocess.run(command, env=clean | WAYS[way], capture_output=True, check=True)
    return float(reply.stdout)


def _burn() -> None:
    while True:
        pass


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=int, default=2 * available_cores(), help="busy processes")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(rate(arguments.child))
        return
    counts = sorted({1, 2, available_cores()})
    rows: list[tuple[str, ...]] = []
    for load in (0, arguments.load):
        burners = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(load)]
        for burner in burners:
            burner.start()
        for way in WAYS:
            rates = [f"{measured(way, n):.1f}" for n in counts]
            rows.append((way, f"{load} busy", *rates))
        for burner in burners:
            burner.terminate()
    show(
        "Verdicts per second of the bundled judge",
        ("waiting", "other processes", *(f"{n} threads" for n in counts)),
        rows,
    )


if __name__ == "__main__":
    main()
