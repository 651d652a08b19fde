"""The audits of the service: one thread runs them, one after another, until none is left to run.

Knows the store, and which audits the service has promised to bring to their end: those that were
sent to it or resumed through it. A promise is an empty file, kept until the audit ends or is
cancelled, so that a service that is started again goes on by itself, and leaves alone what
somebody interrupted at the command line. Everything here blocks, and may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from evenhand.api.auditing import ServiceModels, ask_to_stop, stoppable
from evenhand.api.plans import shown
from evenhand.api.services import Services
from evenhand.api.uploads import FOLDER, Upload, discard, discard_stale, of_plan
from evenhand.audit.plan import plan_hash
from evenhand.audit.run import Progress, run
from evenhand.audit.store import Audit, State, Store
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import Conflict, EvenhandError, InternalError, NotFound, StoreError
from evenhand.schemas.service import AuditCard, AuditReply, AuditsReply
from evenhand.schemas.verdict import Failure

log = logging.getLogger(__name__)

DEFECT = "Something broke in the service; the store on its machine has the details."
PROMISES = "promised"  # the folder of the promises, in the data directory
_PATIENCE = 5.0  # seconds that a cancelled audit is waited for; it stops within one as a rule
_CLOSING = 10.0  # seconds that closing waits: a model that is being loaded cannot be interrupted
_OVER: tuple[State, ...] = ("done", "cancelled", "failed")
_ELSEWHERE = 5.0  # seconds between looks at an audit that another process runs


class Audits:
    """Runs audits in the background and tells how they stand.

    `start` goes on with what was promised before, `close` interrupts what runs; the next service
    over the same data directory goes on with it. Raises `StoreError` and `StoreBusy` as the store.
    """

    def __init__(self, services: Services):
        self.folder = services.settings.data_dir.absolute()  # as the files of plans are
        self._services = services
        self._promises = self.folder / PROMISES
        self._deciding = threading.Lock()  # one caller at a time changes what is to be done
        self._change = threading.Condition()  # guards what follows
        self._waiting: deque[str] = deque()
        self._running: str | None = None
        self._progress: Progress | None = None
        self._before = 0.0  # seconds that earlier runs took
        self._stop: threading.Event | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        # Statistics keep a core busy for seconds: one at a time, and no thread of anybody else's.
        self.figures = ThreadPoolExecutor(1, thread_name_prefix="evenhand-figures")

    def start(self) -> None:
        """Begin to run audits, those first that were promised before."""
        try:
            files = self._promises.iterdir() if self._promises.is_dir() else ()
            promised = sorted(files, key=lambda file: file.stat().st_mtime_ns)
            self._waiting.extend(file.name for file in promised)
        except OSError as exc:  # no reason for the rest of the service not to start
            log.error("unfinished audits cannot be taken up: %s", exc)
        self._thread = threading.Thread(target=self._work, name="evenhand-audits", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Interrupt what runs; what was promised is kept for the next start. Safe to call twice."""
        with self._change:
            self._closing = True
            if self._stop is not None:
                self._stop.set()
            self._change.notify_all()
        self.figures.shutdown(wait=False, cancel_futures=True)
        if self._thread is not None:
            self._thread.join(_CLOSING)

    # -- what callers ask for -----------------------------------------------------------------

    def create(self, plan: Plan, *, request: str | None, body: str, upload: Upload | None) -> Audit:
        """A new audit, which will be run; the one that `request` made before, where there is one.

        Raises `Conflict` for a request with another `body` than before, `DatasetError`,
        `StoreError`; then nothing new is left.
        """
        digest = plan_hash(plan)
        with self._deciding, Store(self.folder) as store:
            audit, new = store.create(plan, digest, request=request, body=body)
            if not new and upload is not None:
                discard(upload.path)
            if audit.state == "created":  # or the service was killed before it could promise
                try:
                    self._promise(audit.id)
                except StoreError:
                    if new:  # the caller discards the file, and asks again
                        store.delete(audit.id)
                    raise
        return audit

    def cancel(self, id: str) -> None:
        """Stop an audit for good, until it is resumed. Raises `Conflict` where it is done."""
        with self._deciding, Store(self.folder) as store:
            audit = self._find(store, id)
            if audit.state == "done":
                raise Conflict(
                    f"audit {id} is done", hint="DELETE removes it; there is nothing to cancel."
                )
            running = self._withdraw(id) or audit.state == "running"
            if running:
                ask_to_stop(store, id)
            elif audit.state != "cancelled":
                store.set_state(id, "cancelled")
        if running:
            with self._change:
                self._change.wait_for(lambda: self._running != id, _PATIENCE)

    def resume(self, id: str, *, retry_errors: bool = False) -> None:
        """Have an audit run to its end; with `retry_errors` what failed is tried again.

        Raises `Conflict` where another process runs it, or where it is done.
        """
        with self._deciding, Store(self.folder) as store:
            audit = self._find(store, id)
            if self.is_promised(id):
                return
            if audit.state == "done" and not (retry_errors and audit.statuses.get("error")):
                raise Conflict(
                    f"audit {id} is done",
                    hint="With retry_errors=true, verdicts of the status `error` are tried again.",
                )
            if retry_errors:
                store.forget_errors(id)
            with store.hold(id):  # or another process runs it
                if audit.state != "created":
                    store.set_state(id, "interrupted")
            self._promise(id)

    def delete(self, id: str) -> None:
        """Remove an audit and its file. Raises `Conflict` while it runs."""
        with self._deciding, Store(self.folder) as store:
            audit = self._find(store, id)
            with self._change:
                if id == self._running:
                    raise Conflict(f"audit {id} runs", hint="Cancel it first.")
                self._withdraw(id)
            store.delete(id)
            for path in of_plan(audit.plan, self.folder):
                discard(path)

    # -- how they stand -----------------------------------------------------------------------

    def reply(self, id: str) -> AuditReply:
        """One audit in full. Raises `NotFound`."""
        audit = self.audit(id)
        return AuditReply(
            **dict(self.card(audit)),
            plan=shown(audit.plan, self._services).model_dump(mode="json", exclude_unset=True),
            plan_hash=audit.plan_hash,
            fingerprints=audit.fingerprints,
        )

    def replies(self) -> AuditsReply:
        """All audits in brief, the newest first."""
        with Store(self.folder) as store:
            return AuditsReply(audits=[self.card(audit) for audit in store.audits()])

    def card(self, audit: Audit) -> AuditCard:
        """An audit in brief, with how far it is by now where it runs here."""
        running = audit.state == "running"
        card = AuditCard(
            id=audit.id,
            name=audit.plan.name,
            title=audit.plan.title,
            state=audit.state,
            queued=not running and self.is_promised(audit.id),
            created=audit.created,
            updated=audit.updated,
            seconds=audit.seconds + (time.time() - audit.updated if running else 0.0),
            done=audit.done,
            total=audit.total,
            statuses=audit.statuses,
            labels=audit.labels,
            failure=None if audit.failure is None else public_failure(audit.failure),
        )
        return card.model_copy(update=self.progress(audit.id) or {})

    def audit(self, id: str) -> Audit:
        """One audit as the store has it, by its whole id. Raises `NotFound`."""
        with Store(self.folder) as store:
            return self._find(store, id)

    def progress(self, id: str) -> Mapping[str, Any] | None:
        """The fields of a card that change while the audit runs here; None where it does not.

        Reads no disk.
        """
        with self._change:
            found = self._progress if id == self._running else None
        if found is None:
            return None
        return {
            "state": "running",
            "queued": False,
            "seconds": self._before + found.seconds,
            "done": found.done,
            "total": found.total,
            "statuses": found.statuses,
            "labels": found.labels,
            "rate": found.rate,
            "eta": found.eta,
        }

    def is_promised(self, id: str) -> bool:
        """Whether the audit runs here or will by itself."""
        with self._change:
            return id == self._running or id in self._waiting

    # -- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._sweep()
        except EvenhandError as exc:
            log.error("the audits cannot be read: %s (%s)", exc, exc.hint)
        while (id := self._next()) is not None:
            state: State | None = "interrupted"
            try:
                state = self._run(id)
            except NotFound:
                state = None  # deleted by another process
            except Exception:
                log.exception("audit %s cannot be run; a restart of the service tries again", id)
            with self._change:
                self._running = self._progress = self._stop = None
                self._change.notify_all()
                if state is None or state in _OVER:
                    self._promise_of(id).unlink(missing_ok=True)
                elif state == "running" and self._promise_of(id).exists():
                    self._waiting.append(id)
                    self._change.wait_for(lambda: self._closing, _ELSEWHERE)

    def _next(self) -> str | None:
        """Wait for the next audit; None once closing."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closing)
            self._running = None if self._closing else self._waiting.popleft()
            return self._running

    def _run(self, id: str) -> State:
        """Run an audit for as long as nobody stops it, and return how it stands then.

        It stands at `running` where another process runs it.
        """
        with ExitStack() as stack:
            store = stack.enter_context(Store(self.folder))
            audit = store.audit(id)
            if audit.state in (*_OVER, "running"):  # by another process
                return audit.state
            stop = stack.enter_context(stoppable(store, id))
            with self._change:
                self._stop, self._before = stop, audit.seconds
                # Who cancelled a moment ago was not heard by this run.
                if self._closing or not self._promise_of(id).exists():
                    stop.set()
            try:
                if not stop.is_set():
                    with ServiceModels(self._services) as models:
                        run(store, id, models, on_progress=self._note, stop=stop)
            except EvenhandError as exc:
                log.warning("audit %s: %s (%s)", id, exc, exc.hint)
            except Exception:
                log.exception("audit %s failed", id)
            state = store.audit(id).state
            if stop.is_set() and state not in ("done", "running"):
                # `run` knows of no reason to stop but a wish to cancel.
                closed = self._closing and self._promise_of(id).exists()
                state = "interrupted" if closed else "cancelled"
                store.set_state(id, state)
            return state

    def _note(self, progress: Progress) -> None:
        counts = dict(progress.statuses)
        labels = {judge: dict(of_judge) for judge, of_judge in progress.labels.items()}
        self._progress = replace(progress, statuses=counts, labels=labels)

    def _sweep(self) -> None:
        """Remove files that a service which was killed left behind."""
        if (self.folder / FOLDER).is_dir():
            with Store(self.folder) as store:
                used = [p for audit in store.audits() for p in of_plan(audit.plan, self.folder)]
            discard_stale(self.folder, used)

    # -- inside -------------------------------------------------------------------------------

    def _find(self, store: Store, id: str) -> Audit:
        """By the whole id: what a beginning stands for may change, and DELETE is for good."""
        audit = store.audit(id)
        if audit.id != id:
            raise NotFound(f"there is no audit {id!r}", hint="GET /v1/audits shows them all.")
        return audit

    def _promise_of(self, id: str) -> Path:
        return self._promises / id

    def _promise(self, id: str) -> None:
        with self._change:
            try:
                self._promises.mkdir(exist_ok=True, mode=0o700)
                self._promise_of(id).touch()
            except OSError as exc:
                raise StoreError(
                    f"the audit cannot be noted in {PROMISES!r}: {exc.strerror or exc}",
                    hint="Make room on the service's disk, or check the rights of "
                    "EVENHAND_DATA_DIR.",
                ) from exc
            if id != self._running and id not in self._waiting:
                self._waiting.append(id)
                self._change.notify_all()

    def _withdraw(self, id: str) -> bool:
        """Take a promise back; True where the audit runs here already."""
        with self._change:
            self._promise_of(id).unlink(missing_ok=True)
            if id in self._waiting:
                self._waiting.remove(id)
            return id == self._running


def public_failure(failure: Failure) -> Failure:
    """The same failure; what a defect said stays in the store, where the operator can read it."""
    if failure.code != InternalError.code:
        return failure
    return Failure(code=failure.code, message=DEFECT, hint=failure.hint)
