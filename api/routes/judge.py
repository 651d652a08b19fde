"""`POST /v1/judge` and `/v1/judge/batch`: label responses."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import ValidationError

from evenhand.api.context import KEYED, UsesContext, UsesWork
from evenhand.api.problems import error_of_failure
from evenhand.api.routes.base import PAPER_PROMPT, WORKING, StrictRoute, documented, example
from evenhand.api.work import Work, attended
from evenhand.judge.base import BaseJudge
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.requests import (
    Item,
    JudgeBatchReply,
    JudgeBatchRequest,
    JudgeReply,
    JudgeRequest,
)
from evenhand.schemas.taxonomy import describe
from evenhand.schemas.verdict import Status, Verdict

router = APIRouter(route_class=StrictRoute, dependencies=KEYED, tags=["judge"])

REFUSAL = (
    "I cannot complete this sentence: it is not appropriate to make references to harmful or "
    "violent acts."
)
EXAMPLES = {
    "paper": example(
        "A refusal of one of the study's prompts",
        prompt=PAPER_PROMPT,
        response=REFUSAL,
        taxonomy="qos",
        reason=False,
    ),
}
BATCH_EXAMPLES = {
    "paper": example(
        "Two responses to one of the study's prompts",
        items=[
            {"id": "a", "prompt": PAPER_PROMPT, "response": REFUSAL},
            {"id": "b", "prompt": PAPER_PROMPT, "response": "visit his family for the holidays."},
        ],
        taxonomy="qos",
    ),
}


@router.post(
    "/v1/judge",
    response_model=JudgeReply,
    summary="Label one response",
    responses=documented(*WORKING),
)
async def judge(
    request: Request,
    work: UsesWork,
    body: Annotated[JudgeRequest, Body(openapi_examples=EXAMPLES)],
) -> Any:
    """Label a response, with the probability of every label of the taxonomy.

    Look at `verdict.status` before `verdict.label`: only `judged` has a label. `truncated` (the
    text does not fit the model) and `abstained` are verdicts without one. Failures of the service
    are HTTP errors.
    """
    return await attended(request, _judge_one(work, body))


async def _judge_one(work: Work, body: JudgeRequest) -> JudgeReply:
    judge = work.services.judge(body.taxonomy)
    future = await work.start(
        "judge",
        lambda: judge.submit(
            body.prompt, body.response, reason=body.reason, deadline=work.deadline
        ),
    )
    verdict = await work.result(future)
    work.metrics.saw(verdict)
    if verdict.status is Status.ERROR and verdict.failure is not None:
        raise error_of_failure(verdict.failure)
    return JudgeReply(verdict=verdict, id=body.id)


@router.post(
    "/v1/judge/batch",
    response_model=JudgeBatchReply,
    summary="Label up to 1,000 responses",
    responses=documented(*(s for s in WORKING if s not in (429, 504))),
)
async def judge_batch(
    request: Request,
    work: UsesWork,
    context: UsesContext,
    body: Annotated[JudgeBatchRequest, Body(openapi_examples=BATCH_EXAMPLES)],
) -> Any:
    """Label many responses: one verdict per item, in order.

    An item that is malformed, too long, or fails gets a verdict with its own `status` and
    `failure`, and the rest go on. Items wait for room in the queue; those not done by the deadline
    have the failure `deadline_exceeded`.
    """
    limit = context.settings.max_items
    if len(body.items) > limit:
        raise InvalidInput(
            f"the batch has {len(body.items):,} items, and {limit:,} are allowed",
            hint=f"Send at most {limit:,} items at a time.",
        )
    return await attended(request, _judge_all(work, body, context.settings.queue))


async def _judge_all(work: Work, body: JudgeBatchRequest, queue: int) -> JudgeBatchReply:
    judge = work.services.judge(body.taxonomy)
    # Half of the queue at most, so that one batch does not shut out everybody else.
    room = asyncio.Semaphore(max(1, min(64, queue // 2)))

    async def one(raw: Any) -> Verdict:
        async with room:
            return await _judge_item(work, judge, raw, body.reason)

    tasks = [asyncio.ensure_future(one(raw)) for raw in body.items]
    try:
        verdicts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    ids = [_id_of(raw) for raw in body.items]
    return JudgeBatchReply(verdicts=verdicts, ids=ids if any(i is not None for i in ids) else None)


async def _judge_item(work: Work, judge: BaseJudge, raw: Any, reason: bool) -> Verdict:
    try:
        item = Item.model_validate(raw)
    except ValidationError as exc:
        error = InvalidInput(
            f"the item is malformed: {describe(exc)}",
            hint="An item is an object with the texts `prompt` and `response`, and maybe an `id`.",
        )
        return work.public(judge.failed(error))
    return await work.verdict(judge, item.prompt, item.response, reason)


def _id_of(raw: Any) -> str | int | None:
    found = raw.get("id") if isinstance(raw, dict) else None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None
