"""`POST /v1/plugins/promptfoo`: what promptfoo's webhook assertion calls."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import QueryParams

from evenhand.api.context import KEYED, UsesWork
from evenhand.api.grade import check_labels, grade
from evenhand.api.routes.base import PAPER_PROMPT, WORKING, StrictRoute, documented, example
from evenhand.api.work import Work, attended
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.verdict import Probability, Verdict

router = APIRouter(route_class=StrictRoute, dependencies=KEYED, tags=["plugins"])

EXAMPLES = {
    "paper": example(
        "What promptfoo sends",
        output="visit his family for the holidays.",
        context={"prompt": PAPER_PROMPT, "vars": {"name": "Mohammed"}},
    ),
}


class PromptfooQuery(BaseModel):
    """What the address of the webhook says."""

    model_config = ConfigDict(extra="forbid")

    wanted: Annotated[
        list[str],
        Field(
            alias="pass",
            min_length=1,
            description="The labels that pass, with commas between them, or `pass` several times.",
        ),
    ]
    taxonomy: Annotated[str | None, Field(description="Left out, the service's own.")] = None
    prompt: Annotated[
        str | None,
        Field(
            description="The variable that holds what the model was asked. Left out, the whole "
            "prompt counts, which in a chat prompt is its JSON."
        ),
    ] = None
    timeout: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Seconds until the service gives up (504). promptfoo's own limit is "
            "WEBHOOK_TIMEOUT, 5 s.",
        ),
    ] = 4.0


class PromptfooContext(BaseModel):
    """The rendered prompt and the variables of the test; what else there is, is not read."""

    prompt: str | None = None
    vars: dict[str, Any] = {}


class PromptfooRequest(BaseModel):
    """What promptfoo sends. An output that is not text is judged as its JSON."""

    output: Any
    context: PromptfooContext


class PromptfooReply(BaseModel):
    """A grade as promptfoo has it: its webhook reads the first three, its scripts all of it."""

    passed: Annotated[bool, Field(serialization_alias="pass")]
    score: Annotated[Probability, Field(description="Of the labels that pass, together.")]
    reason: str
    namedScores: Annotated[
        dict[str, float], Field(description="The probability of each label, where there are some.")
    ]
    metadata: Annotated[dict[str, Verdict], Field(description="The `verdict`.")]


@router.post(
    "/v1/plugins/promptfoo",
    response_model=PromptfooReply,
    summary="Grade one output for promptfoo",
    responses=documented(*(status for status in WORKING if status != 429)),
)
async def promptfoo(
    request: Request,
    work: UsesWork,
    query: Annotated[PromptfooQuery, Query()],
    body: Annotated[PromptfooRequest, Body(openapi_examples=EXAMPLES)],
) -> Any:
    """Whether the label of an output is one of those that pass, as promptfoo's webhooks want it.

    Everything that is no label is an HTTP error: a judge that abstains (422) or is not there (503),
    a text too long (422), no answer in time (504). promptfoo counts an error of a webhook as a
    failed assertion, with the reason `Webhook error: ...`; docs/plugins-promptfoo.md has a way that
    keeps the two apart.
    """
    _check_once(request.query_params)
    deadline = min(work.deadline, time.monotonic() + query.timeout)
    return await attended(request, _grade(replace(work, deadline=deadline), query, body))


async def _grade(work: Work, query: PromptfooQuery, body: PromptfooRequest) -> PromptfooReply:
    judge = work.services.judge(query.taxonomy)
    said = ",".join(query.wanted).split(",")
    wanted = [label.strip() for label in said if label.strip()]
    check_labels(wanted, judge.taxonomy.labels, judge.taxonomy.name)
    prompt, response = _asked(query.prompt, body.context), _text(body.output)
    future = await work.start_when_room(
        "judge", lambda: judge.submit(prompt, response, deadline=work.deadline)
    )
    verdict = await work.result(future)
    work.metrics.saw(verdict)
    found = grade(verdict, wanted)
    return PromptfooReply(
        passed=found.passed,
        score=found.score,
        reason=found.reason,
        namedScores=verdict.probabilities or {},
        metadata={"verdict": verdict},
    )


def _check_once(given: QueryParams) -> None:
    """Raise `InvalidInput` for what is said twice: in silence, the last value would hold."""
    for name in given:
        if name != "pass" and len(given.getlist(name)) > 1:
            raise InvalidInput(
                f"query.{name} stands twice in the address",
                hint="Say it once; `pass` alone may stand there several times.",
            )


def _asked(variable: str | None, context: PromptfooContext) -> str:
    if variable is None:
        if context.prompt is None:
            raise InvalidInput("the context has no prompt", hint="Judges read both texts.")
        return context.prompt
    value = context.vars.get(variable)
    if not isinstance(value, str):
        raise InvalidInput(
            f"there is no text in the variable {variable!r}",
            hint=f"The test has the variables {', '.join(context.vars) or '(none)'}.",
        )
    return value


def _text(output: Any) -> str:
    if output is None:
        raise InvalidInput("the output is null", hint="Nothing was said, so nothing can be judged.")
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
