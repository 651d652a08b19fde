"""llama.cpp through llama-cpp-python's low-level API: the only file that touches its pointers.

Knows models, vocabularies, contexts, batches and samplers as llama.cpp has them. It does not know
what they are used for. A `Context` has no lock: one thread owns it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# ggml's threads meet after every operation. By default OpenMP lets them wait there at full speed
# for milliseconds, and on a machine that does anything else each meeting then lasts until the
# scheduler lets the last one run: a 3M-parameter model fell to 0.6 judgements a second. Sleeping at
# once makes it four times slower on a quiet machine. A short wait before sleeping costs neither so
# much (docs/performance.md). Read once, when OpenMP is loaded; whoever sets either knows better.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import llama_cpp

from evenhand.engine.settings import EngineSettings
from evenhand.schemas.errors import DecodeError, ModelFileError, Unavailable
from evenhand.schemas.generation import Sampling

MAX_SEQUENCES: Final = 256  # LLAMA_MAX_SEQ in llama.cpp
_CACHE_TYPES: Final = {"f16": 1, "q8_0": 8}  # ggml_type

FloatRow = npt.NDArray[np.float32]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _quiet(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    """Keep llama.cpp's errors for the exception that follows; drop the rest."""
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        _last_errors.append(text.decode("utf-8", "replace").strip())
        del _last_errors[:-5]


_last_errors: list[str] = []
_started = False
_start_lock = threading.Lock()


def _start() -> None:
    """Initialise llama.cpp once, when the first model is loaded and not at import time."""
    global _started
    with _start_lock:
        if _started:
            return
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        _load_backends()
        llama_cpp.llama_backend_init()
        _started = True


def _load_backends() -> None:
    """Load ggml's backends from beside libllama, where the build left them for run time.

    A build with GGML_BACKEND_DL (the container image) starts with none, and by itself llama.cpp
    would look for them beside the Python executable and in the working directory. It picks the
    best that this processor runs. Other builds have theirs linked in.
    """
    # Through libllama's own handle: opening libggml by its path could load a second copy of it.
    library = llama_cpp.llama_cpp._lib
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    if library.ggml_backend_reg_count() == 0:
        load = library.ggml_backend_load_all_from_path
        load.argtypes, load.restype = [ctypes.c_char_p], None
        load(os.fsencode(Path(library._name).parent))


def _why() -> str:
    return "; ".join(_last_errors) or "llama.cpp gave no reason"


def library_version() -> str:
    """The version of llama-cpp-python, which pins that of llama.cpp."""
    return version("llama-cpp-python")


def available_cores() -> int:
    """Processors that this process may use: a container's share, not the whole machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def supports_gpu() -> bool:
    """Whether this build of llama.cpp can put layers on a GPU."""
    _start()
    return bool(llama_cpp.llama_supports_gpu_offload())


class _Loaded:
    """A `llama_model *`, freed when the last call that uses it is over."""

    def __init__(self, model: Any):
        self.model = model
        self.vocab = llama_cpp.llama_model_get_vocab(model)

    def __del__(self, free: Any = llama_cpp.llama_model_free) -> None:
        free(self.model)


class Model:
    """A loaded GGUF file. `vocab_only` loads the tokenizer without weights.

    Any thread may read from it. After `close`, reading raises `Unavailable`.
    """

    def __init__(self, path: Path, *, n_gpu_layers: int = 0, vocab_only: bool = False):
        _start()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers if n_gpu_layers >= 0 else 2**31 - 1
        params.vocab_only = vocab_only
        _last_errors.clear()
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise ModelFileError(f"llama.cpp cannot load {path.name}: {_why()}")
        loaded = _Loaded(model)
        self._loaded: _Loaded | None = loaded
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(loaded.vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(model)
        self.add_bos: bool = bool(llama_cpp.llama_vocab_get_add_bos(loaded.vocab))
        self.bos: int = llama_cpp.llama_vocab_bos(loaded.vocab)
        self.eos: int = llama_cpp.llama_vocab_eos(loaded.vocab)
        # SentencePiece puts a space before a text; llama.cpp calls this type 1.
        self.is_sentencepiece: bool = llama_cpp.llama_vocab_type(loaded.vocab) == 1

    @property
    def loaded(self) -> _Loaded:
        """The pointers. Hold the object for as long as they are used."""
        loaded = self._loaded
        if loaded is None:
            raise Unavailable("the engine is closed", hint="Start the service again.")
        return loaded

    @property
    def description(self) -> str:
        """For example `llama 7B Q4_0`."""
        buffer = ctypes.create_string_buffer(256)
        loaded = self.loaded
        llama_cpp.llama_model_desc(loaded.model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def metadata(self) -> Mapping[str, str]:
        """The GGUF file's scalar keys as text (arrays are left out)."""
        found: dict[str, str] = {}
        for i in range(llama_cpp.llama_model_meta_count(self.loaded.model)):
            key = self._text(llama_cpp.llama_model_meta_key_by_index, i)
            value = self._text(llama_cpp.llama_model_meta_val_str_by_index, i)
            if not value.startswith("["):
                found[key] = value
        return found

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that the file carries."""
        loaded = self.loaded
        raw = llama_cpp.llama_model_chat_template(loaded.model, None)
        return None if raw is None else raw.decode("utf-8", "replace")

    @property
    def size(self) -> int:
        """Size of the weights, in bytes."""
        return int(llama_cpp.llama_model_size(self.loaded.model))

    @property
    def cache_bytes_per_token(self) -> int:
        """Size of one token's keys and values at 16 bits each, in bytes."""
        loaded = self.loaded
        layers = llama_cpp.llama_model_n_layer(loaded.model)
        width = llama_cpp.llama_model_n_embd(loaded.model)
        heads = max(1, llama_cpp.llama_model_n_head(loaded.model))
        kv_heads = max(1, llama_cpp.llama_model_n_head_kv(loaded.model))
        return int(layers * 2 * width * kv_heads // heads * 2)

    def tokenize(self, text: bytes, *, special: bool) -> list[int]:
        """Token ids, without beginning-of-text. `special` lets control tokens be spelled."""
        loaded = self.loaded
        size = len(text) + 8
        buffer = (ctypes.c_int32 * size)()
        n = llama_cpp.llama_tokenize(loaded.vocab, text, len(text), buffer, size, False, special)
        if n < 0:
            size = -n
            buffer = (ctypes.c_int32 * size)()
            n = llama_cpp.llama_tokenize(
                loaded.vocab, text, len(text), buffer, size, False, special
            )
        if n < 0:
            raise DecodeError(f"llama.cpp could not tokenize a text of {len(text)} bytes")
        return list(buffer[:n])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""
        loaded = self.loaded
        buffer = ctypes.create_string_buffer(64)
        n = llama_cpp.llama_token_to_piece(loaded.vocab, token, buffer, 64, 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = llama_cpp.llama_token_to_piece(loaded.vocab, token, buffer, -n, 0, special)
        return buffer.raw[:n]

    def is_end(self, token: int) -> bool:
        """Whether a token ends a generation."""
        loaded = self.loaded
        return bool(llama_cpp.llama_vocab_is_eog(loaded.vocab, token))

    def is_control(self, token: int) -> bool:
        """Whether a token is a control token."""
        loaded = self.loaded
        return bool(llama_cpp.llama_vocab_is_control(loaded.vocab, token))

    def close(self) -> None:
        """Free the model, once no call is reading from it."""
        self._loaded = None

    def _text(self, read: Any, index: int) -> str:
        loaded = self.loaded
        size = 1024
        buffer = ctypes.create_string_buffer(size)
        n = read(loaded.model, index, buffer, size)
        if n >= size:
            buffer = ctypes.create_string_buffer(n + 1)
            read(loaded.model, index, buffer, n + 1)
        return buffer.value.decode("utf-8", "replace")


class Batch:
    """Tokens for one `llama_decode`, written into buffers that llama.cpp reads in place.

    Filled through numpy slices: 1.3 µs for 512 tokens against 260 µs element by element.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._n_seq = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.uintp)
        self._output = np.zeros(capacity, np.int8)
        # Each distinct set of sequences is kept once; tokens point to it.
        self._sets: dict[tuple[int, ...], npt.NDArray[np.int32]] = {}
        self.clear()
        struct = llama_cpp.llama_batch()
        struct.token = self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        struct.embd = None
        struct.pos = self._pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        struct.n_seq_id = self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        struct.seq_id = ctypes.cast(
            self._seq.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        )
        struct.logits = self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._struct = struct

    def clear(self) -> None:
        """Empty the batch."""
        self.size = 0
        self.outputs = 0
        self._sets.clear()

    def add(
        self,
        tokens: Sequence[int],
        positions: Sequence[int] | range,
        sequences: tuple[int, ...],
        *,
        outputs: slice | None = None,
    ) -> int:
        """Append tokens that all belong to `sequences`; return the index of the first.

        `outputs` says which of them (a slice of the appended tokens) give logits.
        """
        start, end = self.size, self.size + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = positions
        ids = self._sets.get(sequences)
        if ids is None:
            ids = self._sets[sequences] = np.array(sequences, np.int32)
        self._n_seq[start:end] = len(sequences)
        self._seq[start:end] = ids.ctypes.data
        self._output[start:end] = 0
        if outputs is not None:
            self._output[start:end][outputs] = 1
            self.outputs += int(self._output[start:end].sum())
        self.size = end
        return start

    @property
    def struct(self) -> Any:
        """The `llama_batch`."""
        self._struct.n_tokens = self.size
        return self._struct


class Context:
    """A key-value cache of `n_ctx` tokens, shared by up to 256 sequences, and its compute graph."""

    def __init__(self, model: Model, settings: EngineSettings, *, n_ctx: int, n_threads: int):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(settings.n_batch, n_ctx)
        params.n_ubatch = min(settings.n_ubatch, params.n_batch)
        params.n_seq_max = MAX_SEQUENCES
        params.n_outputs_max = MAX_SEQUENCES
        params.n_threads = n_threads
        params.n_threads_batch = n_threads
        params.flash_attn_type = 1 if settings.flash_attention else 0
        params.type_k = params.type_v = _CACHE_TYPES[settings.cache_type]
        # Without this, copying part of a sequence aborts the process.
        params.kv_unified = True
        params.no_perf = True
        _last_errors.clear()
        self._loaded: _Loaded | None = model.loaded  # must outlive the context
        self._context = llama_cpp.llama_init_from_model(self._loaded.model, params)
        if not self._context:
            raise DecodeError(
                f"llama.cpp cannot make a context of {n_ctx} tokens: {_why()}",
                hint="Set a smaller n_ctx, or free memory.",
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._n_vocab = model.n_vocab
        self.n_ctx: int = llama_cpp.llama_n_ctx(self._context)
        self.n_batch: int = params.n_batch

    def decode(self, batch: Batch) -> None:
        """Evaluate a batch. Raises `DecodeError`; the cache then holds nothing of the batch."""
        _last_errors.clear()
        code = llama_cpp.llama_decode(self._context, batch.struct)
        if code != 0:
            meaning = {1: "the cache is full", 2: "it was aborted", -1: "the batch is invalid"}
            raise DecodeError(
                f"llama_decode gave {code} ({meaning.get(code, 'failed')}) "
                f"for {batch.size} tokens: {_why()}"
            )

    def logits(self, index: int) -> FloatRow:
        """The logits after the token at `index` of the last batch, (n_vocab,), not a copy."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise DecodeError(f"there are no logits for token {index} of the batch")
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target` share the first `length` tokens of `source`."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def remove(self, sequence: int, start: int = 0) -> None:
        """Forget a sequence from position `start` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def clear(self) -> None:
        """Forget everything."""
        llama_cpp.llama_memory_clear(self._memory, False)

    def sample(self, sampler: Sampler, index: int) -> int:
        """Draw from the logits after the token at `index`, and tell the sampler."""
        return int(llama_cpp.llama_sampler_sample(sampler.handle, self._context, index))

    def close(self) -> None:
        """Free the context."""
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
            self._loaded = None


class Sampler:
    """llama.cpp's own sampler chain, one for each sequence, so that its random state is its own.

    The order is llama.cpp's default: penalties, top-k, top-p, min-p, temperature, draw.
    """

    def __init__(self, sampling: Sampling, seed: int, *, n_vocab: int, history: Sequence[int] = ()):
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._chain = chain

        def add(sampler: Any) -> None:
            llama_cpp.llama_sampler_chain_add(chain, sampler)

        if sampling.repeat_penalty != 1.0 and sampling.repeat_last_n > 0:
            add(
                llama_cpp.llama_sampler_init_penalties(
                    n_vocab, sampling.repeat_last_n, sampling.repeat_penalty, 0.0, 0.0
                )
            )
            for token in history[-sampling.repeat_last_n :]:
                llama_cpp.llama_sampler_accept(chain, token)
        if sampling.temperature == 0:
            add(llama_cpp.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        add(llama_cpp.llama_sampler_init_dist(seed))

    @property
    def handle(self) -> Any:
        """The `llama_sampler *`."""
        return self._chain

    def close(self) -> None:
        """Free the chain."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
