"""What a context for every thread gains over one context with all threads, by size of model.

Each of the many works on one request at a time, as small models do (docs/decisions/011); the one
batches what it can. Random weights of growing shapes and the bundled judge's vocabulary. In each
round both score as many items of about 150 tokens, and then continue as many texts.

    python -m benchmarks.contexts
    python -m benchmarks.contexts --model FILE --items 8
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import random_model
from benchmarks.random_model import Shape
from benchmarks.report import figure, machine, ratios, save, show, spread
from benchmarks.texts import words
from evenhand.engine import EngineSettings, Segment, open_engine
from evenhand.engine import engine as engine_module
from evenhand.engine.engine import LlamaEngine
from evenhand.engine.models import resolve
from evenhand.engine.native import available_cores
from evenhand.schemas import Sampling, Taxonomy

SHAPES = (
    Shape(256, 4, 4, 4, 512, 1_024),
    Shape(384, 6, 6, 6, 1_024, 1_024),
    Shape(512, 8, 8, 8, 1_408, 1_024),
    Shape(768, 12, 12, 12, 2_048, 1_024),
    Shape(1_024, 16, 16, 16, 2_816, 1_024),
)
TOKENS = 32  # generated for each text
TAXONOMY = Taxonomy.load("qos")


def made() -> Iterator[Path]:
    """A file of random weights for each shape, there until the next one is asked for."""
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{shape.width}x{shape.layers}.gguf"
            random_model.write(path, shape, "q8_0", resolve("bundled:judge").path)
            yield path


def score(engine: LlamaEngine, texts: list[str]) -> int:
    """Score the six labels after each text; how many texts."""
    answers, schema = list(TAXONOMY.answers().values()), TAXONOMY.json_schema()
    futures = [engine.score(engine.encode([Segment(t)]), answers, schema) for t in texts]
    return sum(1 for f in futures if f.result())


def generate(engine: LlamaEngine, texts: list[str]) -> int:
    """Continue each text; how many tokens."""
    sampling = Sampling(max_tokens=TOKENS, seed=1)
    futures = [engine.generate(engine.encode([Segment(t)]), sampling) for t in texts]
    return sum(len(c.tokens) for f in futures for c in f.result())


def measure(path: Path, threads: int, items: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Rates by work and by number of contexts, one figure per round."""
    jobs: dict[str, Callable[[LlamaEngine, list[str]], int]] = {
        "scored": score,
        "generated": generate,
    }
    rates: dict[str, dict[str, list[float]]] = {job: {"1": [], "n": []} for job in jobs}
    with ExitStack() as running:
        engines = {}
        for name, contexts in (("1", 1), ("n", None)):
            settings = EngineSettings(
                n_threads=threads, contexts=contexts, n_ctx=4_096 * threads, n_gpu_layers=0
            )
            engines[name] = open_engine(str(path), settings)
            running.callback(engines[name].close)
            generate(engines[name], [words(20, i) for i in range(threads)])
        for round_ in range(rounds):
            for job, run in jobs.items():
                for name in ("1", "n") if round_ % 2 else ("n", "1"):
                    texts = [words(150, 1_000 * round_ + i) for i in range(items)]
                    started = time.perf_counter()
                    done = run(engines[name], texts)
                    rates[job][name].append(done / (time.perf_counter() - started))
    return rates


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the made ones")
    parser.add_argument("--items", type=int, default=32, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine_module._SMALL = 2**60  # every model is one that gets a context for each thread
    rows, results = [], {}
    for path in [arguments.model] if arguments.model else made():
        size = path.stat().st_size / 2**20
        rates = measure(path, arguments.threads, arguments.items, arguments.rounds)
        results[path.stem] = {"MiB": size, "rates": rates}
        row = [f"{path.stem}, {size:.0f} MiB"]
        for job in rates.values():
            row += [figure(spread(job["1"]), 0), figure(spread(job["n"]), 0)]
            row.append(figure(ratios(job["n"], job["1"])))
        rows.append(row)
    n = arguments.threads
    many = f"{n} contexts"
    columns = ["model", "scored/s, 1 context", many, "ratio"]
    columns += ["tokens/s, 1 context", many, "ratio"]
    show(f"One context of {n} threads, or {n} of one thread", columns, rows)
    save(arguments.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
