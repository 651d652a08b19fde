"""`evenhand audit cancel` and `delete`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from evenhand.api.cli import options as shared
from evenhand.api.cli.audit import options

_PATIENCE = 20.0  # seconds to wait for another process to stop
_LOOK = 0.1


def cancel(id: options.Id, json: shared.Json = False) -> None:
    """Stop an audit, whoever runs it. What is done is kept, and `resume` goes on with it."""
    from evenhand.api.auditing import ask_to_stop
    from evenhand.api.cli import console
    from evenhand.api.cli.audit.common import document, opened_store, show_audit
    from evenhand.schemas.errors import Conflict, Unavailable

    with opened_store() as store:
        audit = store.audit(id)
        if audit.state == "done":
            raise Conflict(
                f"audit {audit.id} is done",
                hint="There is nothing to cancel; `evenhand audit delete` removes it.",
            )
        if audit.state == "running":
            ask_to_stop(store, audit.id)
            given_up = time.monotonic() + _PATIENCE
            with console.status("waiting for it to stop"):
                while store.audit(audit.id).state == "running":
                    if time.monotonic() > given_up:
                        raise Unavailable(
                            f"audit {audit.id} was asked to stop and has not done so yet",
                            hint="Look again with `evenhand audit status`.",
                        )
                    time.sleep(_LOOK)
        elif audit.state != "cancelled":
            with store.hold(audit.id):
                store.set_state(audit.id, "cancelled")
        audit = store.audit(audit.id)
    if json:
        console.emit(document(audit))
    else:
        show_audit(audit)


def delete(
    id: options.Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: shared.Json = False,
) -> None:
    """Remove an audit, all its records and a file that was sent with it, for good."""
    from evenhand.api.cli import console
    from evenhand.api.cli.audit.common import opened_store, share
    from evenhand.api.uploads import discard, of_plan
    from evenhand.schemas.errors import InvalidInput

    with opened_store() as store:
        audit = store.audit(id)
        if not yes:
            if json or not sys.stdin.isatty():
                raise InvalidInput(
                    f"audit {audit.id} would be gone for good", hint="Add --yes to delete it."
                )
            what = f"Delete audit {audit.id} ({audit.plan.name}, {share(audit.done, audit.total)})?"
            typer.confirm(what, abort=True, err=True)
        store.delete(audit.id)
        for path in of_plan(audit.plan, store.folder):
            discard(path)
    if json:
        console.emit({"deleted": audit.id})
    else:
        console.stdout().print(f"deleted {audit.id}")
