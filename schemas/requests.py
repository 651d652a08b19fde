"""What callers send and get back: the bodies of the REST API, shared with client and CLI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from evenhand.schemas.generation import SEED_LIMIT, Generation, Sampling, StopString
from evenhand.schemas.verdict import Verdict

BATCH_LIMIT = 1_000
SAMPLES_LIMIT = 64


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _is_none(value: object) -> bool:
    return value is None


class Item(_Body):
    """One (prompt, response) pair to judge. `id` is the caller's own and comes back unread."""

    prompt: str
    response: str
    id: str | int | None = None


class GenerateRequest(_Body):
    """`POST /v1/generate`: sampling fields left out take the service's defaults."""

    prompt: str
    system: str | None = None
    n: Annotated[int, Field(ge=1, le=SAMPLES_LIMIT)] = 1
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] | None = None
    stop: Annotated[list[StopString], Field(max_length=16)] | None = None
    stream: bool = False

    def sampling(self, defaults: Sampling) -> Sampling:
        """The defaults with every field that the request sets laid over them."""
        names = set(Sampling.model_fields)
        given = {k: v for k, v in self.model_dump(exclude_none=True).items() if k in names}
        return Sampling.model_validate({**defaults.model_dump(), **given})


class RespondRequest(GenerateRequest):
    """`POST /v1/respond`: generate, then judge each sample."""

    taxonomy: str | None = None
    reason: bool = False


class JudgeRequest(Item):
    """`POST /v1/judge`: label one response."""

    taxonomy: str | None = None
    reason: bool = False


class JudgeBatchRequest(_Body):
    """`POST /v1/judge/batch`: label up to `BATCH_LIMIT` responses, each with its own outcome.

    Items are checked one by one, so that a bad one becomes an error verdict and not a 422.
    """

    items: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=BATCH_LIMIT,
            json_schema_extra={"items": Item.model_json_schema()},
        ),
    ]
    taxonomy: str | None = None
    reason: bool = False


class GenerateReply(_Body):
    """One generation per sample, in order."""

    generations: list[Generation]


class JudgeReply(_Body):
    """The verdict on one response."""

    verdict: Verdict
    id: Annotated[str | int | None, Field(exclude_if=_is_none)] = None


class JudgeBatchReply(_Body):
    """One verdict per item, in order; `ids` are the items' own, where any has one."""

    verdicts: list[Verdict]
    ids: Annotated[list[str | int | None] | None, Field(exclude_if=_is_none)] = None


class Result(_Body):
    """One sample and what the judge says of it."""

    generation: Generation
    verdict: Verdict


class RespondReply(_Body):
    """One result per sample, in order."""

    results: list[Result]


# -- events of a streamed reply ------------------------------------------------------------------


class TokenEvent(_Body):
    """`event: token`: the next piece of the text of sample `index`."""

    index: int
    text: str


class ResultEvent(_Body):
    """`event: result`: sample `index` is complete; `verdict` is None where none was asked for."""

    index: int
    generation: Generation
    verdict: Annotated[Verdict | None, Field(exclude_if=_is_none)] = None


class DoneEvent(_Body):
    """`event: done`: the last one; a stream that ends without it (or `error`) broke off."""

    results: int


Event = TokenEvent | ResultEvent | DoneEvent
