"""`/v1/validations`: measure the service's judge on responses that people have labelled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from evenhand.api.context import KEYED, Context, UsesContext, UsesWork
from evenhand.api.metrics import CLIENT_GONE
from evenhand.api.problems import error_of_failure
from evenhand.api.routes.base import (
    PAPER_PROMPT,
    READING,
    WORKING,
    StrictRoute,
    documented,
    example,
    media_type,
    strict_json,
)
from evenhand.api.uploads import Form, Upload
from evenhand.api.work import Work, attended
from evenhand.audit.datasets import open_rows
from evenhand.audit.gold import collect, rows_of
from evenhand.audit.rows import Row
from evenhand.judge.base import BaseJudge
from evenhand.judge.evidence import Evidence, Record, kept_in, record_id
from evenhand.schemas.errors import DatasetError, DeadlineExceeded, InvalidInput, Unavailable
from evenhand.schemas.service import ValidationCard, ValidationsReply
from evenhand.schemas.taxonomy import describe
from evenhand.schemas.validation import Gold, ValidationOptions, ValidationRequest
from evenhand.schemas.verdict import Verdict

PATH = "/v1/validations"
router = APIRouter(route_class=StrictRoute, tags=["judge"], prefix=PATH, dependencies=KEYED)

MOST_ROWS = 50_000  # of a file: more take longer than anybody waits for a reply
_DROPPED = (DeadlineExceeded.code, Unavailable.code)
_ROWS = [
    {
        "prompt": PAPER_PROMPT,
        "response": "visit his family for the holidays.",
        "label": "full_compliance",
        "group": "A",
    },
    {"prompt": PAPER_PROMPT, "response": "I cannot.", "label": "full_refusal", "group": "B"},
]
_DOCUMENT = {"application/json": {"schema": {"$ref": "#/components/schemas/Validation"}}}
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/ValidationRequest"},
            "examples": {"xstest": example("Labels of XSTest's classes", rows=_ROWS, name="mine")},
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "options": {"$ref": "#/components/schemas/ValidationOptions"},
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "CSV, JSON Lines or Parquet, told by its name.",
                    },
                },
            }
        },
    },
}

Options = TypeVar("Options", bound=ValidationOptions)


@router.post(
    "",
    response_class=Response,
    summary="Measure the judge on labelled responses",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {
            "description": "The whole report; null where a figure cannot be known.",
            "content": _DOCUMENT,
            "headers": {
                "Location": {
                    "schema": {"type": "string"},
                    "description": "Where it is kept, if it is.",
                }
            },
        },
        **documented(*(s for s in WORKING if s != 429), 507),
    },
)
async def create(context: UsesContext, work: UsesWork, request: Request) -> Response:
    """Judge every row, and set the verdicts beside the labels by people and the baselines.

    Rows come as JSON, up to as many as a batch may have, or in a file. The report is kept under its
    `name` (a file's own where none is given; rows without one are not kept), unless `save` is
    false or nothing could be judged. A row that cannot be read or judged is counted, with its
    reason, and in no figure.
    """
    gold, options = await _sent(context, work, request)
    return await attended(request, _measured(context, work, gold, options))


@router.get(
    "",
    response_model=ValidationsReply,
    summary="All validations",
    responses=documented(401, 500, 507),
)
async def validations(context: UsesContext) -> Any:
    """The reports that were kept, in brief, the newest first: those of the command line, too."""
    records = await asyncio.to_thread(_evidence(context).all)
    return ValidationsReply(validations=[_card(r) for r in records if r.kind == "validation"])


@router.get(
    "/{id}",
    response_class=Response,
    summary="One validation",
    responses={
        200: {"description": "The whole report.", "content": _DOCUMENT},
        **documented(*READING, 507),
    },
)
async def validation(context: UsesContext, id: str) -> Response:
    """One report as it was kept."""
    record = await asyncio.to_thread(_evidence(context).get, "validation", id)
    return Response(json.dumps(record.document), media_type="application/json")


# -- what comes in --------------------------------------------------------------------------------


async def _sent(context: Context, work: Work, request: Request) -> tuple[Gold, ValidationOptions]:
    """Read the body; a file in it goes to disk as it comes, and away when it is read."""
    declared = media_type(request)
    if declared == "application/json":
        body = _parsed(ValidationRequest, await request.body())
        limit = context.settings.max_items
        if len(body.rows) > limit:
            raise InvalidInput(
                f"there are {len(body.rows):,} rows, and {limit:,} are allowed",
                hint="Send a file: multipart/form-data with the part `file`.",
            )
        return await asyncio.to_thread(_gold, work, rows_of(body.rows), body, body.name), body
    if declared != "multipart/form-data":
        given = request.headers.get("content-type", "nothing")
        raise HTTPException(415, f"the body is declared as {given}, not as JSON or a form")
    form = Form(
        request.headers["content-type"],
        context.settings.data_dir,
        plan_limit=context.settings.max_body,
        part="options",
    )
    try:
        async for piece in request.stream():
            await asyncio.to_thread(form.feed, piece)
        form.finish()
        options = _parsed(ValidationOptions, form.plan or b"{}")
        if form.upload is None:
            raise InvalidInput("the form has no part `file`", hint="Send the rows as a file.")
        options, gold = await asyncio.to_thread(_read, work, form.upload, options)
    except ClientDisconnect:
        raise HTTPException(CLIENT_GONE, "the client went away") from None
    finally:
        form.discard()
    return gold, options


def _parsed(model: type[Options], body: bytes) -> Options:
    try:
        data = strict_json(body)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(400, f"the body cannot be read: {exc}") from exc
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise InvalidInput(
            describe(exc, data), hint=f"/openapi.json has the form of {model.__name__}."
        ) from exc


def _read(work: Work, upload: Upload, options: ValidationOptions) -> tuple[ValidationOptions, Gold]:
    if options.name is None:
        options = options.model_copy(update={"name": PurePath(upload.name).stem})
    needs = (options.columns.prompt, options.columns.response)
    with open_rows(upload.path, needs) as rows:
        return options, _gold(work, _limited(iter(rows)), options, options.name)


def _limited(rows: Iterator[Row]) -> Iterator[Row]:
    yield from islice(rows, MOST_ROWS)
    if next(rows, None) is not None:
        raise DatasetError(
            f"the file has more than {MOST_ROWS:,} rows",
            hint="Send a sample of them, or measure on the service's machine: evenhand validate.",
        )


def _gold(work: Work, rows: Any, options: ValidationOptions, name: str | None) -> Gold:
    services = work.services
    return collect(
        rows,
        services.taxonomy(options.taxonomy),
        options.columns,
        name=name or "rows",
        known=services.taxonomies(),
        taxonomy=options.gold_taxonomy,
        label_map=options.label_map,
    )


# -- what goes out --------------------------------------------------------------------------------


async def _measured(
    context: Context, work: Work, gold: Gold, options: ValidationOptions
) -> Response:
    judge = await asyncio.to_thread(work.services.judge, options.taxonomy)
    verdicts = await _verdicts(work, judge, gold, context.settings.queue)

    def document() -> Response:
        from evenhand.judge.validation import assess  # brings scipy

        found = assess(judge, gold, verdicts, options)
        headers = {}
        if options.save and options.name and found.raters[0].labelled:
            data = found.model_dump(mode="json")
            _evidence(context).save("validation", found.fingerprint, found.name, data)
            headers["Location"] = f"{PATH}/{record_id(found.fingerprint, found.name)}"
        return Response(found.model_dump_json(), headers=headers, media_type="application/json")

    return await asyncio.get_running_loop().run_in_executor(context.audits.figures, document)


async def _verdicts(work: Work, judge: BaseJudge, gold: Gold, queue: int) -> list[Verdict]:
    """A verdict for each row. Raises what kept rows from being judged in time."""
    found: dict[int, Verdict] = {}
    waiting = iter(enumerate(gold.rows))

    async def work_off() -> None:
        for i, row in waiting:
            verdict = await work.verdict(judge, row.prompt, row.response, reason=False)
            # Rows that nobody had time for are no property of the judge.
            if verdict.failure is not None and verdict.failure.code in _DROPPED:
                raise error_of_failure(verdict.failure)
            found[i] = verdict

    # Half of the queue at most, so that one request does not shut out everybody else.
    workers = [asyncio.ensure_future(work_off()) for _ in range(max(1, min(64, queue // 2)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    return [found[i] for i in range(len(gold.rows))]


def _evidence(context: Context) -> Evidence:
    return kept_in(context.settings.data_dir)


def _card(record: Record) -> ValidationCard:
    document = record.document
    judge = document["raters"][0]
    return ValidationCard(
        id=record.id,
        name=record.name,
        created=record.created,
        judge=document["judge"],
        fingerprint=record.fingerprint,
        taxonomy=document["taxonomy"],
        gold_taxonomy=document["gold_taxonomy"],
        rows=document["rows"],
        labelled=judge["labelled"],
        kappa=judge["agreement"]["kappa"]["value"],
    )
