"""The ways to judge and to generate that evenhand is measured against, behind one shape.

Each contender is given the same model file, threads, context and prompts. Peers get flash
attention too, so that the comparison is about how they drive llama.cpp.
"""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from evenhand.engine import EngineSettings
from evenhand.engine.native import Batch, Context, Model  # before llama_cpp: it sets up OpenMP

import llama_cpp  # isort: skip

N_CTX = 4_096
ANSWER_TOKENS = 48


@dataclass(frozen=True)
class Setting:
    """What every contender is given."""

    model: Path
    threads: int
    gpu_layers: int
    flash_attention: bool | None
    schema: str = ""  # of the answer, as JSON


def plain_llama(setting: Setting) -> llama_cpp.Llama:
    """llama-cpp-python's own high-level object."""
    return llama_cpp.Llama(
        str(setting.model),
        n_ctx=N_CTX,
        n_batch=2_048,
        n_threads=setting.threads,
        n_threads_batch=setting.threads,
        n_gpu_layers=setting.gpu_layers,
        flash_attn=True,
        verbose=False,
    )


def gbnf(setting: Setting) -> Callable[[str], Any]:
    """`create_completion` with a grammar; it keeps the common prefix by itself."""
    llama = plain_llama(setting)
    grammar = llama_cpp.LlamaGrammar.from_json_schema(setting.schema, verbose=False)

    def run(prompt: str) -> None:
        llama.create_completion(prompt, grammar=grammar, temperature=0.0, max_tokens=ANSWER_TOKENS)

    return run


def plain_outlines(setting: Setting) -> Callable[[str], Any]:
    """`from_llamacpp` + `Generator`, temperature 0."""
    import outlines

    model = outlines.from_llamacpp(plain_llama(setting), chat_mode=False)
    generate = outlines.Generator(model, outlines.json_schema(setting.schema))
    return lambda prompt: generate(prompt, temperature=0.0, max_tokens=ANSWER_TOKENS)


def completion(setting: Setting) -> Callable[[tuple[str, int]], int]:
    """`create_completion` of some tokens; returns how many there were."""
    llama = plain_llama(setting)

    def run(job: tuple[str, int]) -> int:
        prompt, tokens = job
        reply = llama.create_completion(prompt, max_tokens=tokens, seed=1)
        return int(reply["usage"]["completion_tokens"])

    return run


def prefill(setting: Setting) -> Callable[[tuple[list[int], int]], None]:
    """The limit: evaluates all but the first `prefix` tokens, behind these, and nothing else."""
    model = Model(setting.model, n_gpu_layers=setting.gpu_layers)
    settings = EngineSettings(n_ctx=N_CTX, flash_attention=setting.flash_attention)
    context = Context(
        model,
        settings.fitted(gpu=setting.gpu_layers != 0),
        n_ctx=N_CTX,
        n_threads=setting.threads,
    )
    batch = Batch(context.n_batch)
    kept: list[int] = []

    def run(job: tuple[list[int], int]) -> None:
        tokens, n = job
        if kept != tokens[:n]:
            kept[:] = tokens[:n]
            context.clear()
            batch.clear()
            batch.add(kept, range(n), (0,))
            context.decode(batch)
        context.copy(0, 1, n)
        batch.clear()
        batch.add(tokens[n:], range(n, len(tokens)), (1,), outputs=slice(-1, None))
        context.decode(batch)
        context.logits(len(tokens) - n - 1)
        context.remove(1)

    return run


class Child(AbstractContextManager["Child"]):
    """A contender in a process of its own.

    Two sets of OpenMP threads in one process are more than the machine has cores, and then OpenMP
    slows both; nobody runs them so.
    """

    def __init__(self, make: Callable[[Setting], Callable[[Any], Any]], setting: Setting):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_child, args=(theirs, make, setting), daemon=True)
        self._process.start()

    def __call__(self, job: Any) -> Any:
        """Run one job and wait for it."""
        self._pipe.send(job)
        outcome = self._pipe.recv()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(30)


def _child(pipe: Any, make: Callable[[Setting], Callable[[Any], Any]], setting: Setting) -> None:
    run = make(setting)
    while True:
        job = pipe.recv()
        try:
            pipe.send(run(job))
        except Exception as exc:
            pipe.send(exc)


class Server(AbstractContextManager["Server"]):
    """llama.cpp's `llama-server` as a child process."""

    def __init__(self, setting: Setting, *, slots: int, context: int):
        binary = shutil.which("llama-server")
        if binary is None:
            raise FileNotFoundError("llama-server is not on the PATH")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [
                binary, "-m", str(setting.model), "--host", "127.0.0.1", "--port", str(port),
                "-c", str(context), "-np", str(slots), "-t", str(setting.threads),
                "-tb", str(setting.threads), "-ngl", str(setting.gpu_layers),
                "-fa", "on", "-b", "2048", "--no-webui",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        for _ in range(600):
            try:
                if self._client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self._process.returncode}")
            time.sleep(0.1)
        raise TimeoutError("llama-server did not come up in a minute")

    def judge(self, prompt: str, schema: Mapping[str, Any]) -> str:
        """One constrained answer, greedy, with the prompt's cache kept."""
        reply = self._client.post(
            "/completion",
            json={
                "prompt": prompt,
                "json_schema": schema,
                "cache_prompt": True,
                "n_predict": ANSWER_TOKENS,
                "temperature": 0,
            },
        )
        reply.raise_for_status()
        return str(reply.json()["content"])

    def generate(self, prompts: Sequence[str], tokens: int) -> int:
        """All prompts at once, one client each; the number of tokens generated."""

        def one(prompt: str) -> int:
            reply = self._client.post(
                "/completion",
                json={"prompt": prompt, "n_predict": tokens, "ignore_eos": True, "seed": 1},
            )
            reply.raise_for_status()
            return int(reply.json()["tokens_predicted"])

        with ThreadPoolExecutor(len(prompts)) as pool:
            return sum(pool.map(one, prompts))

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(30)
