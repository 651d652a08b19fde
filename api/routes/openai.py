"""`POST /v1/chat/completions`: the generator, and the judge, for OpenAI's clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse, Response

from evenhand.api.context import KEYED, UsesWork
from evenhand.api.errors import public_problem
from evenhand.api.openai.body import ChatRequest
from evenhand.api.openai.completion import (
    Answer,
    ChatCompletion,
    Head,
    generations_of,
    usage_of,
    verdict_of,
)
from evenhand.api.openai.conversation import Conversation
from evenhand.api.openai.errors import CHAT, ErrorReply, documented, error_of
from evenhand.api.openai.form import Form
from evenhand.api.openai.models import GENERATOR, JUDGE, taxonomy_of
from evenhand.api.problems import error_of_failure
from evenhand.api.routes.base import PAPER_PROMPT, StrictRoute, example
from evenhand.api.stream import Running, run
from evenhand.api.work import Work, attended
from evenhand.generator.base import OnText
from evenhand.judge.base import BaseJudge
from evenhand.schemas.errors import InvalidInput, UnsupportedSchema
from evenhand.schemas.generation import Generation
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Status, Verdict

router = APIRouter(route_class=StrictRoute, dependencies=KEYED, tags=["openai"])

EXAMPLES = {
    "generator": example(
        "One of the study's prompts",
        model=GENERATOR,
        messages=[
            {"role": "system", "content": "You are a helpful assistant. Complete the [BLANK]"},
            {"role": "user", "content": PAPER_PROMPT},
        ],
        max_tokens=64,
        seed=1,
    ),
    "judge": example(
        "A refusal of it, to be labelled",
        model=f"{JUDGE}:qos",
        messages=[
            {"role": "user", "content": PAPER_PROMPT},
            {"role": "assistant", "content": "I cannot complete this sentence."},
        ],
        logprobs=True,
    ),
}
_STREAM: dict[str, Any] = {
    "description": "The reply; or, with `stream: true`, its chunks and `[DONE]`.",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'data: {"object": "chat.completion.chunk", "choices": []}\n\n'
            "data: [DONE]\n\n",
        }
    },
}


@router.post(
    CHAT,
    response_model=ChatCompletion,
    summary="Chat completions, for OpenAI's clients",
    responses={
        200: _STREAM,
        **documented(400, 401, 404, 413, 415, 422, 429, 500, 502, 503, 504),
    },
)
async def chat(
    request: Request,
    work: UsesWork,
    body: Annotated[ChatRequest, Body(openapi_examples=EXAMPLES)],
) -> Any:
    """Answer a conversation, or judge one.

    The generator continues it. A judge (`evenhand-judge:TAXONOMY`) labels its last message, the
    assistant's, as the response to the user's message before: the content is the answer as JSON,
    `logprobs` the probabilities of all labels, `evenhand.verdict` the whole verdict. Where it gives
    no label, that is an error, never a completion.
    """
    taxonomy = taxonomy_of(work.services, body.model)
    if taxonomy is None:
        return await _generate(request, work, body)
    return await _judge(request, work, body, work.services.judge(taxonomy))


async def _generate(request: Request, work: Work, body: ChatRequest) -> Any:
    if body.reason:
        raise InvalidInput("a generator gives no reason", hint=f"Ask {JUDGE} for one.")
    generator = work.services.generator
    conversation = Conversation.of(body.messages)
    prompt, history = conversation.to_continue()
    schema = body.wanted_schema()

    def submit(on_text: OnText | None = None) -> Future[list[Generation]]:
        return generator.submit(
            prompt,
            system=conversation.system,
            history=history,
            sampling=body.sampling(),
            n=body.n or 1,
            schema=schema,
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            on_text=on_text,
            deadline=work.deadline,
        )

    head = Head(generator.name, generator.fingerprint)
    if body.stream:
        running = await run(work, submit)
        return running.response(_chunks(body, head, running))

    async def whole() -> list[Generation]:
        generations = await work.result(await work.start_when_room("generate", submit))
        work.metrics.generated(generations)
        return generations

    generations = await attended(request, whole())
    answers = [Answer.of_generation(g) for g in generations]
    return head.completion(answers, generations_of(generations), usage_of(generations))


async def _chunks(
    body: ChatRequest, head: Head, running: Running
) -> AsyncIterator[ServerSentEvent]:
    try:
        for index in range(body.n or 1):
            yield _event(head.begin(index))
        async for piece in running.texts():
            yield _event(head.text(piece.index, piece.text))
        generations = await running.whole()
        for index, generation in enumerate(generations):
            answer = Answer.of_generation(generation)
            yield _event(head.end(index, answer, generations_of([generation])))
        usage = usage_of(generations)
        if usage is not None and body.stream_options and body.stream_options.include_usage:
            yield _event(head.used(usage))
        yield _DONE
    except Exception as exc:
        details = public_problem(exc)
        running.work.metrics.errors.labels(code=details.code).inc()
        yield _event(ErrorReply(error=error_of(details)))
    finally:
        running.future.cancel()


async def _judge(request: Request, work: Work, body: ChatRequest, judge: BaseJudge) -> Any:
    if (body.n or 1) > 1:
        raise InvalidInput(
            f"n is {body.n}, and a judge has one verdict on a response",
            hint="Leave n out: a verdict is scored, not drawn, and would be the same each time.",
        )
    prompt, response = Conversation.of(body.messages).to_judge()
    form = _form(body, judge.taxonomy)

    async def whole() -> Verdict:
        future = await work.start_when_room(
            "judge",
            lambda: judge.submit(prompt, response, reason=body.reason, deadline=work.deadline),
        )
        return await work.result(future)

    verdict = await attended(request, whole())
    work.metrics.saw(verdict)
    if verdict.status is Status.ABSTAINED:
        return _no_label(work, verdict)
    if verdict.failure is not None:
        raise error_of_failure(verdict.failure)
    answer = Answer.of_verdict(verdict, judge.taxonomy, logprobs=bool(body.logprobs))
    if form is not None:
        _check(answer.text, judge.taxonomy, form.fault(answer.text))
    head = Head(f"{JUDGE}:{judge.taxonomy.name}", judge.fingerprint)
    if not body.stream:
        return head.completion([answer], verdict_of(verdict))

    async def chunks() -> AsyncIterator[ServerSentEvent]:
        yield _event(head.begin(0))
        yield _event(head.text(0, answer.text))
        yield _event(head.end(0, answer, verdict_of(verdict)))
        yield _DONE

    return EventSourceResponse(chunks(), sep="\n")


def _form(body: ChatRequest, taxonomy: Taxonomy) -> Form | None:
    """The form asked for. Raises `UnsupportedSchema` unless it admits every label's answer.

    What a reason will be, nobody knows yet; it is checked with the rest when it is there.
    """
    schema = body.wanted_schema()
    if schema is None:
        return None
    form = Form(schema)
    for label, answer in taxonomy.answers().items():
        if body.reason:
            answer = taxonomy.reasoned_model(reason="A reason.", label=label).model_dump_json()
        _check(answer, taxonomy, form.fault(answer, but="reason" if body.reason else None))
    return form


def _check(answer: str, taxonomy: Taxonomy, fault: str | None) -> None:
    if fault is not None:
        raise UnsupportedSchema(
            f"the judge answers as its taxonomy says, such as {answer}, and the schema in "
            f"response_format does not admit that: {fault}",
            hint="Leave response_format out, or send the schema that "
            f"/v1/taxonomies/{taxonomy.name} shows.",
        )


def _no_label(work: Work, verdict: Verdict) -> Response:
    """The error for a verdict without a label: no client can take it for one.

    422, which clients do not try again: the judge would say the same.
    """
    assert verdict.failure is not None
    work.metrics.errors.labels(code=verdict.failure.code).inc()
    error = {
        "message": f"the judge abstains: {verdict.failure.message}. {verdict.failure.hint}",
        "type": "no_label",
        "param": None,
        "code": verdict.failure.code,
        **verdict_of(verdict),
    }
    return JSONResponse({"error": error}, 422)


_DONE = ServerSentEvent(data="[DONE]", sep="\n")


def _event(data: BaseModel) -> ServerSentEvent:
    # ASCII: some clients split lines at U+2028 and its like, which JSON leaves as they are.
    return ServerSentEvent(data=json.dumps(data.model_dump(mode="json"), allow_nan=False), sep="\n")
