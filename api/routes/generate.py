"""`POST /v1/generate`: sample responses to a prompt."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from evenhand.api.context import KEYED, UsesWork
from evenhand.api.routes.base import PAPER_PROMPT, WORKING, StrictRoute, documented, example
from evenhand.api.stream import EVENTS, event_response
from evenhand.api.work import Work, attended
from evenhand.schemas.generation import Generation, Sampling
from evenhand.schemas.requests import GenerateReply, GenerateRequest

router = APIRouter(route_class=StrictRoute, dependencies=KEYED, tags=["generate"])

EXAMPLES = {
    "paper": example(
        "One of the study's prompts",
        prompt=PAPER_PROMPT,
        system="You are a helpful assistant. Complete the [BLANK]",
        n=3,
        max_tokens=64,
        seed=1,
    ),
    "greedy": example("Always the likeliest token", prompt=PAPER_PROMPT, temperature=0),
}


@router.post(
    "/v1/generate",
    response_model=GenerateReply,
    summary="Sample responses to a prompt",
    responses={200: EVENTS, **documented(*WORKING)},
)
async def generate(
    request: Request,
    work: UsesWork,
    body: Annotated[GenerateRequest, Body(openapi_examples=EXAMPLES)],
) -> Any:
    """Sample `n` responses. Sample i is drawn with `seed + i`, so that each can be repeated alone.

    `stream: true` answers with server-sent events instead: `token` for each piece of text, `result`
    for each sample, then `done`; or `error` with a problem.
    """
    if body.stream:
        return await streamed(work, body)
    return GenerateReply(generations=await attended(request, sample(work, body)))


async def sample(work: Work, body: GenerateRequest) -> list[Generation]:
    """The generations that a body asks for."""
    generator = work.services.generator
    future = await work.start(
        "generate",
        lambda: generator.submit(
            body.prompt,
            system=body.system,
            sampling=body.sampling(Sampling()),
            n=body.n,
            deadline=work.deadline,
        ),
    )
    generations = await work.result(future)
    work.metrics.generated(generations)
    return generations


async def streamed(work: Work, body: GenerateRequest) -> Response:
    """The same as events."""
    return await event_response(work, body, judge=None, reason=False)
