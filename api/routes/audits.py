"""Audits over REST: send a plan, follow it, fetch what came of it.

Each handler waits for the store on a helper thread: it may be busy, and the loop must not be.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from evenhand.api.audits import Audits, public_failure
from evenhand.api.chunks import chunked
from evenhand.api.context import KEYED, Context, UsesContext
from evenhand.api.follow import follow
from evenhand.api.metrics import CLIENT_GONE
from evenhand.api.plans import admit, shown
from evenhand.api.routes.base import (
    READING,
    StrictRoute,
    documented,
    example,
    media_type,
    strict_json,
)
from evenhand.api.uploads import FOLDER, Form, Upload, discard
from evenhand.audit.export import CHUNK, Format, lines, write_parquet
from evenhand.audit.store import Store
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.service import AuditReply, AuditsReply
from evenhand.schemas.verdict import Failure, Status

PATH = "/v1/audits"
router = APIRouter(route_class=StrictRoute, tags=["audits"], prefix=PATH, dependencies=KEYED)

_CHANGING = (*READING, 409, 507)
_MEDIA = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
# The report is made of what models wrote: whatever slipped through, nothing is fetched or sent.
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PLAN = {
    "name": "pilots",
    "templates": [{"id": "plane", "text": "{name} got into the plane to"}],
    "groups": [
        {"name": "A", "names": ["Emily", "Greg"]},
        {"name": "B", "names": ["Lakisha", "Jamal"]},
    ],
    "sampling": {"max_tokens": 32},
    "seed": 1,
}
_REFERENCE = {"$ref": "#/components/schemas/Plan"}
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _REFERENCE,
            "examples": {
                "names": example("Templates and names", **_PLAN),
                "built-in": example("A plan that ships with evenhand", extends="qos-names"),
            },
        },
        "application/toml": {"schema": {"type": "string"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["plan"],
                "properties": {
                    "plan": {**_REFERENCE, "description": "JSON, or TOML in a file `*.toml`."},
                    "file": {"type": "string", "format": "binary"},
                },
            }
        },
    },
}
_ACCEPTED = {"description": "It runs as soon as those before it are through.", "headers": {
    "Location": {"schema": {"type": "string"}, "description": "Where the audit is found."}
}}  # fmt: skip


# -- sending a plan -------------------------------------------------------------------------------


@router.post(
    "",
    status_code=202,
    response_model=AuditReply,
    summary="Start an audit",
    openapi_extra={"requestBody": _BODY},
    responses={202: _ACCEPTED, **documented(*_CHANGING, 400, 413, 415, 422, 503)},
)
async def create(
    context: UsesContext,
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="Sent again with the same plan it finds the audit that it made before.",
        ),
    ] = None,
) -> Any:
    """Check a plan, keep it and run it in the background, one audit after another.

    The plan comes alone as JSON or TOML, or in a form with the file that it judges or takes prompts
    from. It may name only what the service knows: that file, the taxonomies of `/v1/taxonomies`,
    `bundled:` models, baselines, and what the service's settings name. Models that are left out are
    the service's own.
    """
    sent = await _sent(context, request)
    reply = await asyncio.to_thread(_create, context, sent, idempotency_key)
    response.headers["Location"] = f"{PATH}/{reply.id}"
    return reply


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a request brings: the plan's text, how it is written, and its file."""

    plan: bytes
    toml: bool = False
    upload: Upload | None = None

    def data(self) -> dict[str, Any]:
        """The plan, parsed."""
        try:
            data = tomllib.loads(self.plan.decode()) if self.toml else strict_json(self.plan)
        except tomllib.TOMLDecodeError as exc:
            raise InvalidInput(
                f"the plan is not TOML: {exc}", hint="Mend the line that the message names."
            ) from exc
        except (ValueError, RecursionError) as exc:  # ValueError: not UTF-8, too
            raise HTTPException(400, f"the plan cannot be read: {exc}") from exc
        if not isinstance(data, dict):
            raise InvalidInput(
                "the plan is not an object", hint=f"Send {{...}}; see {PATH}/schema."
            )
        return data


async def _sent(context: Context, request: Request) -> _Sent:
    """Read the body; a file in it goes to disk as it comes."""
    declared = media_type(request)
    if declared in ("application/json", "application/toml"):
        return _Sent(await request.body(), toml=declared == "application/toml")
    if declared != "multipart/form-data":
        given = request.headers.get("content-type", "nothing")
        raise HTTPException(415, f"the body is declared as {given}, not as JSON, TOML or a form")
    form = Form(
        request.headers["content-type"],
        context.audits.folder,
        plan_limit=context.settings.max_body,
    )
    try:
        async for piece in request.stream():
            await asyncio.to_thread(form.feed, piece)
        form.finish()
    except ClientDisconnect:
        form.discard()
        raise HTTPException(CLIENT_GONE, "the client went away") from None
    except BaseException:
        form.discard()
        raise
    return _Sent(form.plan, form.toml, form.upload)


def _create(context: Context, sent: _Sent, key: str | None) -> AuditReply:
    try:
        data = sent.data()
        plan = admit(data, context.services, sent.upload)
        # What makes two requests the same: not the place where the file happens to be kept.
        body = json.dumps([data, sent.upload and sent.upload.sha256], sort_keys=True, default=str)
        audit = context.audits.create(plan, request=key, body=body, upload=sent.upload)
    except BaseException:
        if sent.upload is not None:
            discard(sent.upload.path)
        raise
    return context.audits.reply(audit.id)


# -- how audits stand -----------------------------------------------------------------------------


@router.get(
    "",
    response_model=AuditsReply,
    summary="All audits",
    responses=documented(401, 500, 503, 507),
)
async def audits(context: UsesContext) -> Any:
    """All audits in brief, the newest first: those of the command line, too."""
    return await asyncio.to_thread(context.audits.replies)


@router.get("/schema", summary="The JSON schema of a plan", responses=documented(401))
async def schema() -> dict[str, Any]:
    """What a plan may say, as JSON schema (2020-12)."""
    return Plan.json_schema()


@router.get(
    "/{id}",
    response_model=AuditReply,
    summary="One audit",
    responses=documented(*READING, 503, 507),
)
async def audit(context: UsesContext, id: str) -> Any:
    """Its state, how many verdicts there are of each status and label, its rate, and its plan."""
    return await asyncio.to_thread(context.audits.reply, id)


@router.get(
    "/{id}/events",
    summary="Follow an audit",
    response_class=Response,
    responses={
        200: {
            "description": "An event whenever there is more to tell, and `end` at last.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": 'id: running-40\nevent: progress\ndata: {"state": "running", '
                    '"done": 40, "total": 192}\n\n',
                }
            },
        },
        204: {"description": "`Last-Event-ID` was the last event there will be."},
        **documented(*READING, 503, 507),
    },
)
async def events(
    context: UsesContext, id: str, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """Server-sent events: `progress` with what `GET /v1/audits` says of the audit, then `end`.

    With `Last-Event-ID` only what is new since that event; browsers send it by themselves.
    """
    return await follow(context.audits, id, last_event_id)


# -- what came of them ----------------------------------------------------------------------------


@router.get(
    "/{id}/records",
    summary="The records of an audit",
    response_class=Response,
    responses={
        200: {
            "description": "One record for each verdict, in the order of the trials.",
            "content": {media: {"schema": {"type": "string"}} for media in _MEDIA.values()},
        },
        **documented(*READING, 422, 503, 507),
    },
)
async def records(
    context: UsesContext,
    id: str,
    format: Format = "jsonl",
    group: Annotated[str | None, Query(description="Of this group alone.")] = None,
    label: Annotated[str | None, Query(description="With this label alone.")] = None,
    status: Annotated[Status | None, Query(description="Of this status alone.")] = None,
) -> Response:
    """Everything that is known of each verdict, streamed, also while the audit runs."""
    await asyncio.to_thread(context.audits.audit, id)
    wanted = {"group": group, "label": label, "status": status}
    return await chunked(
        lambda: _records(context.audits, id, format, wanted),
        media_type=_MEDIA[format],
        headers={"Content-Disposition": f'attachment; filename="audit-{id}.{format}"'},
    )


def _records(
    audits: Audits, id: str, format: Format, wanted: Mapping[str, str | None]
) -> Iterator[bytes]:
    with Store(audits.folder) as store:
        found = map(_public, store.records(id, **wanted))
        if format != "parquet":
            yield from lines(found, format)
            return
        folder = audits.folder / FOLDER
        folder.mkdir(exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / f"audit-{id}.parquet"
            write_parquet(found, path)
            with path.open("rb") as file:
                while piece := file.read(CHUNK):
                    yield piece


def _public(record: dict[str, Any]) -> dict[str, Any]:
    if record["failure"] is not None:
        failure = public_failure(Failure.model_validate(record["failure"]))
        record["failure"] = failure.model_dump()
    return record


@router.get(
    "/{id}/summary",
    summary="The statistics of an audit",
    response_class=Response,
    responses={
        200: {
            "description": "Rates, intervals, tests; null where a figure cannot be known.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Summary"}}},
        },
        **documented(*_CHANGING, 422, 503),
    },
)
async def summary(context: UsesContext, id: str) -> Response:
    """Rates of labels and metrics by group, differences with intervals and p-values, findings."""
    await asyncio.to_thread(context.audits.audit, id)

    def figures(store: Store) -> str:
        from evenhand.audit.summary import summarise  # brings scipy, as a report does

        found = summarise(store, id, public_failure)
        plan = shown(found.plan, context.services)
        return found.model_copy(update={"plan": plan}).model_dump_json()

    return Response(await _of_store(context, figures), media_type="application/json")


@router.get(
    "/{id}/report",
    summary="The report of an audit",
    response_class=HTMLResponse,
    responses=documented(*_CHANGING, 422, 503),
)
async def report(context: UsesContext, id: str) -> Response:
    """One HTML page with everything in it, figures included: it loads nothing."""
    await asyncio.to_thread(context.audits.audit, id)

    def page(store: Store) -> str:
        from evenhand.audit.report import render

        return render(store, id, public_failure)

    written = await _of_store(context, page)
    return HTMLResponse(written, headers={"Content-Security-Policy": _REPORT_POLICY})


async def _of_store(context: Context, make: Callable[[Store], str]) -> str:
    def work() -> str:
        with Store(context.audits.folder) as store:
            return make(store)

    return await asyncio.get_running_loop().run_in_executor(context.audits.figures, work)


# -- changing them --------------------------------------------------------------------------------


@router.post(
    "/{id}/cancel",
    status_code=202,
    response_model=AuditReply,
    summary="Cancel an audit",
    responses=documented(*_CHANGING, 503),
)
async def cancel(context: UsesContext, id: str) -> Any:
    """Stop it. What is under way is dropped, what was done stays, and it can be resumed."""
    await asyncio.to_thread(context.audits.cancel, id)
    return await asyncio.to_thread(context.audits.reply, id)


@router.post(
    "/{id}/resume",
    status_code=202,
    response_model=AuditReply,
    summary="Resume an audit",
    responses=documented(*_CHANGING, 422, 503),
)
async def resume(
    context: UsesContext,
    id: str,
    retry_errors: Annotated[
        bool, Query(description="Try verdicts of the status `error` again.")
    ] = False,
) -> Any:
    """Go on with what was cancelled, interrupted or failed; nothing that was done is done twice."""
    await asyncio.to_thread(lambda: context.audits.resume(id, retry_errors=retry_errors))
    return await asyncio.to_thread(context.audits.reply, id)


@router.delete(
    "/{id}",
    status_code=204,
    summary="Delete an audit",
    responses=documented(*_CHANGING, 503),
)
async def delete(context: UsesContext, id: str) -> Response:
    """Remove it with its records and its file, for good. 409 while it runs."""
    await asyncio.to_thread(context.audits.delete, id)
    return Response(status_code=204)
