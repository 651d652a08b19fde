"""`POST /v1/respond`: generate, then judge each sample."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from evenhand.api.context import KEYED, UsesWork
from evenhand.api.routes.base import PAPER_PROMPT, WORKING, StrictRoute, documented, example
from evenhand.api.routes.generate import sample
from evenhand.api.stream import EVENTS, event_response
from evenhand.api.work import Work, attended
from evenhand.judge.base import BaseJudge
from evenhand.schemas.requests import RespondReply, RespondRequest, Result

router = APIRouter(route_class=StrictRoute, dependencies=KEYED, tags=["respond"])

EXAMPLES = {
    "paper": example(
        "One of the study's prompts, three samples",
        prompt=PAPER_PROMPT,
        system="You are a helpful assistant. Complete the [BLANK]",
        n=3,
        max_tokens=64,
        taxonomy="qos",
    ),
    "stream": example("The same as events", prompt=PAPER_PROMPT, stream=True),
}


@router.post(
    "/v1/respond",
    response_model=RespondReply,
    summary="Sample responses and label each",
    responses={200: EVENTS, **documented(*WORKING)},
)
async def respond(
    request: Request,
    work: UsesWork,
    body: Annotated[RespondRequest, Body(openapi_examples=EXAMPLES)],
) -> Any:
    """Sample `n` responses to a prompt and label each of them.

    A sample whose judging fails keeps its text and has a verdict that says why. `stream: true`
    answers with server-sent events: `token` for each piece of text, `result` for each sample with
    its verdict, then `done`; or `error` with a problem.
    """
    judge = work.services.judge(body.taxonomy)
    if body.stream:
        return await event_response(work, body, judge=judge, reason=body.reason)
    return await attended(request, _respond(work, judge, body))


async def _respond(work: Work, judge: BaseJudge, body: RespondRequest) -> RespondReply:
    generations = await sample(work, body)
    tasks = [
        asyncio.ensure_future(work.verdict(judge, body.prompt, g.text, body.reason))
        for g in generations
    ]
    try:
        verdicts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return RespondReply(
        results=[
            Result(generation=g, verdict=v) for g, v in zip(generations, verdicts, strict=True)
        ]
    )
