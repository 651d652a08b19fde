"""The ways to judge and to generate that evenhand is measured against, behind one shape.

Each contender is given the same model file, threads, context and prompts. Peers get flash
attention too, so that the comparison is about how they drive llama.cpp.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import llama_cpp

N_CTX = 4_096
ANSWER_TOKENS = 48


def plain_llama(model: Path, threads: int, gpu_layers: int) -> llama_cpp.Llama:
    """llama-cpp-python's own high-level object."""
    return llama_cpp.Llama(
        str(model),
        n_ctx=N_CTX,
        n_batch=2_048,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=gpu_layers,
        flash_attn=True,
        verbose=False,
    )


class Server(AbstractContextManager["Server"]):
    """llama.cpp's `llama-server` as a child process."""

    def __init__(self, model: Path, threads: int, gpu_layers: int, *, slots: int, context: int):
        binary = shutil.which("llama-server")
        if binary is None:
            raise FileNotFoundError("llama-server is not on the PATH")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [
                binary, "-m", str(model), "--host", "127.0.0.1", "--port", str(port),
                "-c", str(context), "-np", str(slots), "-t", str(threads), "-tb", str(threads),
                "-ngl", str(gpu_layers), "-fa", "on", "-b", "2048", "--no-webui",
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
