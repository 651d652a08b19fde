"""Engine settings: plain values with defaults that fit the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CacheType = Literal["f16", "q8_0"]


class EngineSettings(BaseModel):
    """How a model is loaded and driven.

    `n_ctx` is the size of the key-value cache in tokens, shared by all sequences; None takes what
    1 GiB holds, but at least one sequence of the model's training length (4,096 at most) and at
    most 32,768. `n_gpu_layers` -1 puts all layers on the GPU where the build supports one.
    `n_threads` None takes the machine's cores. `contexts` is how many batches are evaluated at the
    same time, each by its share of the threads in its share of the cache. None takes one; for a
    small model on a CPU it takes one a thread, and each then works on one request at a time (unless
    `score_parallel` is set to more), whose results are the same to the last bit whatever else is
    asked (docs/decisions/011). `n_batch` is the most tokens evaluated in one step, `n_ubatch` the
    most in one pass of the compute graph. `max_sequences` bounds the sequences generated at once,
    `queue` the items waiting. `score_parallel` is how many items a context scores in one step; None
    takes 1 on a CPU, where more gains nothing, and 16 on a GPU. `flash_attention` None takes it on
    a GPU; on a CPU its arithmetic depends on what shares a step (docs/decisions/006), so there it
    is off unless the cache type needs it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_ctx: Annotated[int, Field(ge=256)] | None = None
    n_gpu_layers: Annotated[int, Field(ge=-1)] = -1
    n_threads: Annotated[int, Field(ge=1, le=512)] | None = None
    contexts: Annotated[int, Field(ge=1, le=512)] | None = None
    n_batch: Annotated[int, Field(ge=256, le=16_384)] = 2_048
    n_ubatch: Annotated[int, Field(ge=32, le=16_384)] = 512
    flash_attention: bool | None = None
    cache_type: CacheType = "f16"
    max_sequences: Annotated[int, Field(ge=1, le=128)] = 64
    queue: Annotated[int, Field(ge=1, le=100_000)] = 256
    score_parallel: Annotated[int, Field(ge=1, le=32)] | None = None

    def fitted(self, *, gpu: bool) -> EngineSettings:
        """The same with the defaults that depend on where the model runs filled in."""
        flash, parallel = self.flash_attention, self.score_parallel
        return self.model_copy(
            update={
                "flash_attention": (gpu or self.cache_type != "f16") if flash is None else flash,
                "score_parallel": parallel or (16 if gpu else 1),
            }
        )
