"""The engine: llama.cpp driven for many sequences at once.

Callers encode, generate and score from any thread; what they submit goes to the lane that has the
least to do, whose thread evaluates it. It knows tokens, not labels or templates.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

from evenhand.engine.base import Completion, ModelInfo, OnText, Scores
from evenhand.engine.chat import ChatFormat
from evenhand.engine.constraint import Compiler, Trie, answer_trie
from evenhand.engine.futures import gather
from evenhand.engine.lane import Lane
from evenhand.engine.models import ModelFile, default_cache_dir
from evenhand.engine.native import (
    MAX_SEQUENCES,
    Model,
    available_cores,
    library_version,
    supports_gpu,
)
from evenhand.engine.prompt import Message, Prompt, Segment, assemble
from evenhand.engine.scheduler import MAX_PINS
from evenhand.engine.settings import EngineSettings
from evenhand.engine.task import MAX_OUTPUTS, GenerateTask, ScoreTask, Task
from evenhand.engine.tokens import Tokenizer
from evenhand.schemas.errors import (
    ConstraintError,
    InputTooLong,
    InvalidInput,
)
from evenhand.schemas.generation import Sampling

_CACHE_BYTES = 2**30  # what the key-value cache takes where no size is given
_SMALL = 32 * 2**20  # bytes of weights; threads on less mostly wait for one another (decision 011)
_MOST_LANES = 16  # that a small model gets by itself: each takes memory and a turn at Python's lock
_TRIES = 256


class LlamaEngine:
    """One loaded model and its contexts. See `base.Engine` for the protocol."""

    def __init__(
        self,
        model: ModelFile,
        settings: EngineSettings | None = None,
        *,
        cache_dir: Path | None = None,
    ):
        settings = settings or EngineSettings()
        gpu = settings.n_gpu_layers != 0 and supports_gpu()
        settings = settings.fitted(gpu=gpu)
        self._model = Model(model.path, n_gpu_layers=settings.n_gpu_layers if gpu else 0)
        try:
            self._lanes = self._open_lanes(settings, gpu=gpu, name=f"evenhand-{model.path.stem}")
        except BaseException:
            self._model.close()
            raise
        self._tokenizer = Tokenizer(self._model)
        self._cells = self._lanes[0].context.n_ctx
        self._largest_batch = self._lanes[0].context.n_batch
        context = min(self._model.n_ctx_train or self._cells, self._cells)
        self._info = ModelInfo(
            name=model.reference,
            sha256=model.sha256,
            context=context,
            description=self._model.description,
            settings={
                "flash_attention": settings.flash_attention,
                "cache_type": settings.cache_type,
                "gpu": gpu,
                "context": context,
                "llama_cpp_python": library_version(),
            },
            metadata=self._model.metadata,
        )
        self._compiler = Compiler(
            self._tokenizer,
            n_vocab=self._model.n_vocab,
            vocab_hash=model.sha256,
            cache_dir=cache_dir or default_cache_dir(),
        )
        self._tries: OrderedDict[tuple[str, ...], Trie] = OrderedDict()
        self._tries_lock = threading.Lock()

    def _open_lanes(self, settings: EngineSettings, *, gpu: bool, name: str) -> list[Lane]:
        """The lanes, each with its share of cells, threads, sequences and queue."""
        cells = settings.n_ctx or _default_cells(self._model)
        threads = settings.n_threads or available_cores()
        count = settings.contexts or 1
        small = settings.contexts is None and not gpu and self._model.size <= _SMALL
        if small:  # the longest text that fits one context must fit each
            longest = min(self._model.n_ctx_train or cells, cells)
            count = min(threads, _MOST_LANES, settings.queue, cells // longest)
        self._max_sequences = max(1, settings.max_sequences // count)
        share = settings.model_copy(
            update={
                "max_sequences": self._max_sequences,
                "queue": max(1, settings.queue // count),
            }
        )
        self._open = count
        self._open_lock = threading.Lock()
        lanes: list[Lane] = []
        try:
            for i in range(count):
                lane = Lane(
                    self._model,
                    share,
                    self._lane_ended,
                    n_ctx=cells // count,
                    n_threads=max(1, threads // count),
                    alone=small and settings.score_parallel == 1,
                    name=f"{name}-{i}",
                )
                lanes.append(lane)
        except BaseException:
            for lane in lanes:
                lane.stop(drain=False)
                lane.join()
            raise
        return lanes

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""
        return self._info

    @property
    def depth(self) -> int:
        """How many items wait in the queue."""
        return sum(lane.scheduler.depth for lane in self._lanes)

    # -- text to tokens and back ----------------------------------------------------------------

    def chat(self, messages: Sequence[Message]) -> tuple[Segment, ...]:
        """See `base.Engine.chat`."""
        return self._chat.segments(messages)

    def encode(self, segments: Sequence[Segment], *, reserve: int = 0) -> Prompt:
        """See `base.Engine.encode`."""
        return assemble(
            segments,
            self._tokenizer.encode,
            limit=self._info.context - reserve,
            bos=self._tokenizer.bos,
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """See `base.Engine.decode`."""
        return self._tokenizer.decode(tokens)

    @cached_property
    def _chat(self) -> ChatFormat:
        def spelled(token: int) -> str:
            piece = b"" if token < 0 else self._model.piece(token, special=True)
            return piece.decode("utf-8", "replace")

        return ChatFormat(
            self._model.chat_template,
            bos=spelled(self._model.bos),
            eos=spelled(self._model.eos),
        )

    # -- work -------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        n: int = 1,
        schema: Mapping[str, Any] | None = None,
        top_logprobs: int | None = None,
        until: Callable[[str], bool] | None = None,
        on_text: OnText | None = None,
        deadline: float | None = None,
    ) -> Future[list[Completion]]:
        """See `base.Engine.generate`."""
        if len(prompt) == 0:
            raise InvalidInput("the prompt is empty", hint="Give a prompt of at least one word.")
        room = self._info.context - len(prompt)
        if room <= 0:
            raise InputTooLong(
                f"the prompt is {len(prompt)} tokens long, and at most {self._info.context - 1} fit"
            )
        constraint = None if schema is None else self._compiler.compile(schema)
        longest = min(sampling.max_tokens, room)
        # As many samples share a prompt as the cache and the sequence limit allow.
        group = max(1, min(n, self._max_sequences, (self._cells - len(prompt)) // longest))
        tasks = [
            GenerateTask(
                prompt,
                sampling,
                Future(),
                self._tokenizer,
                first=first,
                n=min(group, n - first),
                room=room,
                constraint=constraint,
                top_logprobs=top_logprobs,
                until=until,
                on_text=on_text,
                deadline=deadline,
            )
            for first in range(0, n, group)
        ]
        self._submit(tasks)
        return gather([task.future for task in tasks])

    def score(
        self,
        prompt: Prompt,
        answers: Sequence[str],
        schema: Mapping[str, Any],
        *,
        deadline: float | None = None,
        admitted: bool = False,
    ) -> Future[Scores]:
        """See `base.Engine.score`."""
        trie = self._trie(tuple(answers), schema)
        if len(prompt) + trie.tokens > self._info.context:
            raise InputTooLong(
                f"prompt and answers are {len(prompt) + trie.tokens} tokens long, "
                f"and at most {self._info.context} fit"
            )
        task = ScoreTask(prompt, trie, Future(), deadline)
        self._submit([task], admitted=admitted)
        return task.future

    def close(self, *, drain: bool = True) -> None:
        """See `base.Engine.close`."""
        for lane in self._lanes:
            lane.stop(drain=drain)
        if not any(lane.runs_here for lane in self._lanes):  # a callback cannot wait for itself
            for lane in self._lanes:
                lane.join()

    def _submit(self, tasks: Sequence[Task], *, admitted: bool = False) -> None:
        """Queue tasks, each where the least is to do; all or none."""
        loads = [lane.scheduler.load for lane in self._lanes]
        shares: list[list[Task]] = [[] for _ in self._lanes]
        for task in tasks:
            least = loads.index(min(loads))
            loads[least] += 1
            shares[least].append(task)
        try:
            for lane, share in zip(self._lanes, shares, strict=True):
                if share:
                    lane.submit(share, admitted=admitted)
        except BaseException:
            for task in tasks:
                task.future.cancel()
            raise

    def _lane_ended(self) -> None:
        """The last one frees the model."""
        with self._open_lock:
            self._open -= 1
            last = self._open == 0
        if last:
            self._model.close()

    def _trie(self, answers: tuple[str, ...], schema: Mapping[str, Any]) -> Trie:
        key = (repr(schema), *answers)
        with self._tries_lock:
            if (known := self._tries.get(key)) is not None:
                self._tries.move_to_end(key)
                return known
        if len(answers) > MAX_SEQUENCES - MAX_PINS:  # more would wait for sequences for ever
            raise ConstraintError(
                f"there are {len(answers)} answers, and at most {MAX_SEQUENCES - MAX_PINS} fit",
                hint="Use fewer labels.",
            )
        trie = answer_trie(answers, self._compiler.compile(schema), self._tokenizer.encode)
        if len(trie.nodes) >= min(MAX_OUTPUTS, self._largest_batch):
            raise ConstraintError(
                f"the answers need {len(trie.nodes)} scored tokens, and one step has room for "
                f"{min(MAX_OUTPUTS, self._largest_batch) - 1}",
                hint="Use fewer or shorter labels.",
            )
        with self._tries_lock:
            self._tries[key] = trie
            while len(self._tries) > _TRIES:
                self._tries.popitem(last=False)
        return trie


def _default_cells(model: Model) -> int:
    """Size of the key-value cache in tokens: 1 GiB, one training context at least."""
    one = min(model.n_ctx_train or 4_096, 4_096)
    return max(one, min(32_768, _CACHE_BYTES // max(1, model.cache_bytes_per_token)))
