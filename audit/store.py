"""Where audits are kept: one SQLite file in WAL mode, shared by command line and service.

Knows rows and states. It runs nothing and computes no figure. Each trial is written when it is
done, and each write is whole or not there at all: a process that is killed loses what it had not
written, and the next one does that again. A power cut may cost the last moments besides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import polars as pl

from evenhand.audit.trials import Trial
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import Conflict, EvenhandError, NotFound, StoreBusy, StoreError
from evenhand.schemas.generation import Generation
from evenhand.schemas.verdict import Failure, Status, Verdict

State = Literal["created", "running", "interrupted", "cancelled", "failed", "done"]
STATES: tuple[State, ...] = get_args(State)
FILE = "audits.sqlite3"
PATIENCE = 30.0  # seconds that a write waits for another process
_LOOK = 0.2  # seconds, and far more than it takes to look whether somebody runs an audit

_SCHEMA = """
CREATE TABLE IF NOT EXISTS audits (
    id TEXT PRIMARY KEY, created REAL NOT NULL, updated REAL NOT NULL, seconds REAL NOT NULL,
    state TEXT NOT NULL, plan TEXT NOT NULL, plan_hash TEXT NOT NULL, total INTEGER,
    fingerprints TEXT NOT NULL, failure TEXT, request TEXT UNIQUE, request_hash TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY, audit TEXT NOT NULL REFERENCES audits ON DELETE CASCADE,
    id TEXT NOT NULL, generator TEXT NOT NULL, prompt TEXT NOT NULL, system TEXT,
    sample INTEGER NOT NULL, seed INTEGER NOT NULL, "group" TEXT, name TEXT, commonness TEXT,
    template TEXT, gold TEXT, line INTEGER, problem TEXT, UNIQUE (audit, id)
) STRICT;
CREATE INDEX IF NOT EXISTS trials_by_audit ON trials (audit);
CREATE TABLE IF NOT EXISTS generations (
    trial INTEGER PRIMARY KEY REFERENCES trials ON DELETE CASCADE,
    response TEXT NOT NULL, details TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS verdicts (
    trial INTEGER NOT NULL REFERENCES trials ON DELETE CASCADE, judge TEXT NOT NULL,
    status TEXT NOT NULL, label TEXT, verdict TEXT NOT NULL, input BLOB, PRIMARY KEY (trial, judge)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS verdicts_by_input ON verdicts (input) WHERE input IS NOT NULL;
CREATE TABLE IF NOT EXISTS samples (
    audit TEXT PRIMARY KEY REFERENCES audits ON DELETE CASCADE, design TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sampled (
    audit TEXT NOT NULL REFERENCES samples ON DELETE CASCADE, trial TEXT NOT NULL,
    item TEXT NOT NULL, stratum TEXT NOT NULL, weight REAL NOT NULL, PRIMARY KEY (audit, trial),
    FOREIGN KEY (audit, trial) REFERENCES trials (audit, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS human_labels (
    audit TEXT NOT NULL REFERENCES audits ON DELETE CASCADE, item TEXT NOT NULL,
    annotator TEXT NOT NULL, third INTEGER NOT NULL, label TEXT NOT NULL, notes TEXT,
    PRIMARY KEY (audit, item, annotator)
) STRICT, WITHOUT ROWID;
"""
_RECORD = """
SELECT t.id, NULLIF(t.generator, '') AS model, v.judge, t.prompt, t.system, g.response, t."group",
    t.name, t.commonness, t.template, t.sample, t.seed, t.gold, t.line, v.status, v.label,
    t.problem, g.details, v.verdict
FROM verdicts v JOIN trials t ON t.number = v.trial LEFT JOIN generations g ON g.trial = t.number
WHERE t.audit = ?
"""
Input = tuple[str, str, str, bool]  # fingerprint, prompt, response, reason


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit as it stands. Times are seconds since 1970; `seconds` is time spent running.

    `total` is how many verdicts there will be, None until it is known; `statuses` and `labels`
    (by judge) count those that are there.
    """

    id: str
    created: float
    updated: float
    seconds: float
    state: State
    plan: Plan
    plan_hash: str
    total: int | None
    fingerprints: Mapping[str, str]
    failure: Failure | None
    statuses: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many verdicts are there, of whatever status."""
        return sum(self.statuses.values())


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of a trial: its row, its response, and which judges have been heard."""

    number: int
    response: str | None
    problem: Failure | None
    judges: frozenset[str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A trial that people are asked about. Trials of one text share their `item`.

    `weight` is the inverse of its chance to be drawn from its `stratum`.
    """

    trial: str
    item: str
    stratum: str
    weight: float


@dataclass(frozen=True, slots=True)
class HumanLabel:
    """What a person said of an item; a `third` was asked because others disagreed."""

    item: str
    annotator: str
    third: bool
    label: str
    notes: str | None = None


class Store:
    """The audits under a folder. One thread uses a store; each opens its own.

    Raises `StoreError` for a folder, disk or file that cannot be used, `StoreBusy` where another
    process holds it for too long.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / FILE
        with _guard(self.path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            try:
                # One at a time: SQLite fails at once where two put a new file into WAL mode.
                with self._lock("opening") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    self._db.executescript(
                        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                        f"PRAGMA foreign_keys = ON;{_SCHEMA}"
                    )
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- audits -------------------------------------------------------------------------------

    def create(
        self, plan: Plan, plan_hash: str, *, request: str | None = None, body: str = ""
    ) -> tuple[Audit, bool]:
        """A new audit, and whether it is new: the same `request` again finds the first one.

        Raises `Conflict` for a request that came before with another `body`.
        """
        digest = hashlib.sha256(body.encode()).hexdigest()
        with self._writing() as db:
            if request is not None:
                row = db.execute(
                    "SELECT id, request_hash FROM audits WHERE request = ?", (request,)
                ).fetchone()
                if row is not None:
                    if row["request_hash"] != digest:
                        raise Conflict(
                            f"the key {request!r} was used for another audit",
                            hint="Use a key of its own for each audit.",
                        )
                    return self.audit(row["id"]), False
            id, now = uuid.uuid4().hex[:12], time.time()
            db.execute(
                "INSERT INTO audits VALUES (?, ?, ?, 0, 'created', ?, ?, NULL, '{}', NULL, ?, ?)",
                (id, now, now, _plan_text(plan), plan_hash, request, digest),
            )
        return self.audit(id), True

    def audits(self) -> list[Audit]:
        """All audits, the newest first."""
        with self._reading() as db:
            rows = db.execute("SELECT * FROM audits ORDER BY created DESC").fetchall()
            return [self._audit(row) for row in rows]

    def audit(self, id: str) -> Audit:
        """One audit, by its id or the beginning of it. Raises `NotFound`."""
        with self._reading():
            return self._audit(self._row(id))

    def _row(self, id: str) -> sqlite3.Row:
        rows = self._db.execute(
            "SELECT * FROM audits WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2", (id,)
        ).fetchall()
        if len(rows) != 1 or not id:
            raise NotFound(
                f"{'several audits begin' if len(rows) > 1 else 'no audit begins'} with {id!r}",
                hint="`evenhand audit list` and GET /v1/audits show them all.",
            )
        row: sqlite3.Row = rows[0]
        return row

    def _audit(self, row: sqlite3.Row) -> Audit:
        state: State = row["state"]
        if state == "running" and not self._is_held(row["id"]):
            state = "interrupted"  # whoever ran it is gone
        statuses: dict[str, int] = {}
        labels: dict[str, dict[str, int]] = {}
        for judge, status, label, n in self._db.execute(
            "SELECT v.judge, v.status, v.label, count(*) FROM verdicts v JOIN trials t "
            "ON t.number = v.trial WHERE t.audit = ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            (row["id"],),
        ):
            statuses[status] = statuses.get(status, 0) + n
            if label is not None:
                labels.setdefault(judge, {})[label] = n
        return Audit(
            id=row["id"],
            created=row["created"],
            updated=row["updated"],
            seconds=row["seconds"],
            state=state,
            plan=Plan.parse(json.loads(row["plan"])),
            plan_hash=row["plan_hash"],
            total=row["total"],
            fingerprints=json.loads(row["fingerprints"]),
            failure=Failure.model_validate_json(row["failure"]) if row["failure"] else None,
            statuses=statuses,
            labels=labels,
        )

    def set_state(
        self, id: str, state: State, *, error: BaseException | None = None, seconds: float = 0.0
    ) -> None:
        """Note how an audit stands, why it failed, and how long it ran since the last time."""
        failure = None if error is None else Failure.of(error).model_dump_json()
        with self._writing() as db:
            db.execute(
                "UPDATE audits SET state = ?, failure = ?, updated = ?, seconds = seconds + ? "
                "WHERE id = ?",
                (state, failure, time.time(), seconds, id),
            )

    def set_total(self, id: str, total: int) -> None:
        """Note how many verdicts there will be."""
        with self._writing() as db:
            db.execute("UPDATE audits SET total = ? WHERE id = ?", (total, id))

    def check_fingerprints(self, id: str, found: Mapping[str, str]) -> None:
        """Note who responds and judges, or raise `Conflict` where they were others before."""
        before = dict(self.audit(id).fingerprints)
        for who, fingerprint in found.items():
            if before.setdefault(who, fingerprint) != fingerprint:
                raise Conflict(
                    f"{who} is not what it was when audit {id} began: its model file, template, "
                    f"settings or version changed ({before[who][:12]} then, {fingerprint[:12]} "
                    "now)",
                    hint="Bring back what it was, or start a new audit; results of the two must "
                    "not be mixed. What was done stays.",
                )
        with self._writing() as db:
            db.execute("UPDATE audits SET fingerprints = ? WHERE id = ?", (json.dumps(before), id))

    def delete(self, id: str) -> None:
        """Remove an audit and all that belongs to it. Raises `Conflict` while it runs."""
        id = self.audit(id).id
        with self.hold(id), self._writing() as db:
            db.execute("DELETE FROM audits WHERE id = ?", (id,))
        (self.folder / f"{id}.lock").unlink(missing_ok=True)
        self.wish(id).unlink(missing_ok=True)

    def wish(self, id: str) -> Path:
        """The file whose presence asks whoever runs an audit to stop; given the whole id."""
        return self.folder / f"{id}.cancel"

    # -- who runs it --------------------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, id: str) -> Iterator[None]:
        """Run an audit alone: the lock falls with the process that holds it, however it ends.

        Raises `Conflict` where another holds it.
        """
        with self._lock(id) as lock:
            given_up = time.monotonic() + _LOOK
            while not self._locked(lock, fcntl.LOCK_EX):
                if time.monotonic() > given_up:
                    raise Conflict(
                        f"audit {id} is being run by another process",
                        hint="Follow it with `evenhand audit status`, or cancel it there.",
                    )
                time.sleep(_LOOK / 10)
            yield

    def _is_held(self, id: str) -> bool:
        with self._lock(id) as lock:
            # Shared, so that two who look do not take each other for the one who runs it.
            return not self._locked(lock, fcntl.LOCK_SH)

    def _lock(self, id: str) -> TextIO:
        with _guard(self.path):
            return (self.folder / f"{id}.lock").open("w")

    def _locked(self, lock: TextIO, kind: int) -> bool:
        with _guard(self.path):
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    # -- trials -------------------------------------------------------------------------------

    def known(self, id: str, trial: str) -> Known | None:
        """What is stored of a trial."""
        with self._reading() as db:
            row = db.execute(
                "SELECT number, problem, response FROM trials LEFT JOIN generations "
                "ON trial = number WHERE audit = ? AND id = ?",
                (id, trial),
            ).fetchone()
            if row is None:
                return None
            judges = db.execute("SELECT judge FROM verdicts WHERE trial = ?", (row["number"],))
            problem = row["problem"]
            return Known(
                row["number"],
                row["response"],
                Failure.model_validate_json(problem) if problem else None,
                frozenset(judge for (judge,) in judges),
            )

    def add(
        self,
        id: str,
        trial: Trial,
        *,
        generation: Generation | None = None,
        problem: BaseException | None = None,
    ) -> int:
        """Write a trial with its response, or with what went wrong; returns its number."""
        failure = None if problem is None else Failure.of(problem).model_dump_json()
        response = trial.response if generation is None else generation.text
        details = None if generation is None else generation.model_dump_json(exclude={"text"})
        with self._writing() as db:
            number = db.execute(
                "INSERT INTO trials VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(id, trial.id, trial.generator, trial.prompt, trial.system, trial.sample),
                    *(trial.seed, trial.group, trial.name, trial.commonness, trial.template),
                    *(trial.gold, trial.line, failure),
                ),
            ).lastrowid
            assert number is not None
            if response is not None:
                db.execute("INSERT INTO generations VALUES (?, ?, ?)", (number, response, details))
        return number

    def add_verdict(
        self, number: int, judge: str, verdict: Verdict, input: Input | None = None
    ) -> None:
        """Write a verdict on a trial. With its `input` it is found again, unless it is an error.

        Nor is a panel's verdict, where a member's is one: next time all may be heard.
        """
        failed = any(v.status is Status.ERROR for v in (verdict, *verdict.members))
        found = None if input is None or failed else _digest(input)
        with self._writing() as db:
            db.execute(
                "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?)",
                (number, judge, verdict.status, verdict.label, verdict.model_dump_json(), found),
            )

    def verdict_on(self, input: Input) -> Verdict | None:
        """The verdict that the same judge gave on the same text in any audit, marked as cached."""
        with self._reading() as db:
            row = db.execute(
                "SELECT verdict FROM verdicts WHERE input = ? LIMIT 1", (_digest(input),)
            ).fetchone()
        if row is None:
            return None
        verdict = Verdict.model_validate_json(row["verdict"])
        return verdict.model_copy(update={"cached": True, "seconds": 0.0})

    def forget_errors(self, id: str) -> int:
        """Remove what failed, so that it is tried again, and say how many verdicts that were.

        Bad rows of a file stay, and texts that were too long: they would be so again. Raises
        `Conflict` while the audit runs.
        """
        id = self.audit(id).id
        failed = (
            "SELECT number FROM trials WHERE audit = ? "
            "AND coalesce(problem ->> 'code', '') != 'invalid_dataset'"
        )
        with self.hold(id), self._writing() as db:
            gone = db.execute(
                f"DELETE FROM verdicts WHERE status = 'error' AND trial IN ({failed})", (id,)
            ).rowcount
            db.execute(
                f"DELETE FROM trials WHERE problem IS NOT NULL AND number IN ({failed}) "
                "AND NOT EXISTS (SELECT 1 FROM verdicts WHERE trial = number)",
                (id,),
            )
        return gone

    # -- what came of it ----------------------------------------------------------------------

    def records(
        self,
        id: str,
        *,
        group: str | None = None,
        label: str | None = None,
        status: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A flat record for each verdict, in the order in which trials were written. Streams.

        What is written after the first record is not among them; until the last one, write by
        another store. Raises `NotFound`.
        """
        wanted = {'t."group"': group, "v.label": label, "v.status": status}
        given = {column: value for column, value in wanted.items() if value is not None}
        query = " AND ".join([_RECORD, *(f"{column} = ?" for column in given)])
        with self._reading() as db:
            values = (self._row(id)["id"], *given.values())
            for row in db.execute(f"{query} ORDER BY t.number, v.judge", values):
                yield _record(row)

    def table(self, id: str) -> pl.DataFrame:
        """What the statistics need, a row for each verdict, without the texts.

        Raises `NotFound`.
        """
        columns = {
            "trial": "t.id",
            "judge": "v.judge",
            "model": "NULLIF(t.generator, '')",  # null: of a row that does not say
            "group": 't."group"',
            "name": "t.name",
            "commonness": "t.commonness",
            "template": "t.template",
            "status": "v.status",
            "label": "v.label",
            "gold": "t.gold",
            "sample": "t.sample",
            "answered": "g.trial IS NOT NULL AND t.problem IS NULL",
        }
        query = (
            f"SELECT {', '.join(columns.values())} FROM verdicts v "
            "JOIN trials t ON t.number = v.trial LEFT JOIN generations g ON g.trial = t.number "
            "WHERE t.audit = ? ORDER BY t.number, v.judge"
        )
        numbers = {"sample": pl.Int64, "answered": pl.Int64}
        schema = {c: numbers.get(c, pl.String) for c in columns}
        with self._reading() as db:
            rows = [tuple(row) for row in db.execute(query, (self._row(id)["id"],))]
        table = pl.DataFrame(rows, schema=schema, orient="row")
        return table.with_columns(pl.col("answered").cast(pl.Boolean))

    # -- what people say of it ----------------------------------------------------------------

    def set_sample(self, id: str, design: str, drawn: Iterable[Drawn]) -> None:
        """Note which trials people are asked about, in the place of those before."""
        with self._writing() as db:
            db.execute("DELETE FROM samples WHERE audit = ?", (id,))
            db.execute("INSERT INTO samples VALUES (?, ?)", (id, design))
            db.executemany(
                "INSERT INTO sampled VALUES (?, ?, ?, ?, ?)",
                ((id, one.trial, one.item, one.stratum, one.weight) for one in drawn),
            )

    def sample(self, id: str) -> tuple[str, list[Drawn]] | None:
        """The design of an audit's sample, as `set_sample` was given it, and what was drawn."""
        with self._reading() as db:
            row = db.execute("SELECT design FROM samples WHERE audit = ?", (id,)).fetchone()
            if row is None:
                return None
            drawn = db.execute(
                "SELECT trial, item, stratum, weight FROM sampled WHERE audit = ? ORDER BY trial",
                (id,),
            )
            return row["design"], [Drawn(*one) for one in drawn]

    def texts(self, id: str, trials: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        """Trial, prompt and response of the trials that have a response."""
        with self._reading() as db:
            for trial in trials:
                row = db.execute(
                    "SELECT id, prompt, response FROM trials JOIN generations ON trial = number "
                    "WHERE audit = ? AND id = ?",
                    (id, trial),
                ).fetchone()
                if row is not None:
                    yield tuple(row)

    def set_labels(
        self, id: str, annotator: str, items: Iterable[str], labels: Iterable[HumanLabel]
    ) -> None:
        """Write what an annotator says of `items`, in the place of what that one said of them."""
        with self._writing() as db:
            db.executemany(
                "DELETE FROM human_labels WHERE audit = ? AND item = ? AND annotator = ?",
                ((id, item, annotator) for item in items),
            )
            db.executemany(
                "INSERT INTO human_labels VALUES (?, ?, ?, ?, ?, ?)",
                ((id, x.item, annotator, x.third, x.label, x.notes) for x in labels),
            )

    def human_labels(self, id: str) -> list[HumanLabel]:
        """All labels by people, by annotator and item."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT item, annotator, third, label, notes FROM human_labels WHERE audit = ? "
                "ORDER BY annotator, item",
                (id,),
            )
            return [HumanLabel(row[0], row[1], bool(row[2]), row[3], row[4]) for row in rows]

    def forget_annotator(self, id: str, annotator: str) -> int:
        """Remove an annotator's labels, and say how many that were."""
        with self._writing() as db:
            return db.execute(
                "DELETE FROM human_labels WHERE audit = ? AND annotator = ?", (id, annotator)
            ).rowcount

    # -- inside -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _guard(self.path):
            yield self._db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _guard(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _plan_text(plan: Plan) -> str:
    return plan.model_dump_json(exclude_unset=True)


def _digest(input: Input) -> bytes:
    return hashlib.sha256(json.dumps(input).encode()).digest()


def _record(row: sqlite3.Row) -> dict[str, Any]:
    out = {key: row[key] for key in row.keys() if key not in ("problem", "details", "verdict")}  # noqa: SIM118
    verdict = json.loads(row["verdict"])
    details = json.loads(row["details"]) if row["details"] else {}
    for key in ("probabilities", "mass", "margin", "reason", "notes", "cached", "failure"):
        out[key] = verdict[key]
    out["members"] = [_member(member) for member in verdict.get("members", ())] or None
    for key in ("finish_reason", "prompt_tokens", "completion_tokens"):
        out[key] = details.get(key)
    out["judge_fingerprint"] = verdict["fingerprint"]
    out["generator_fingerprint"] = details.get("fingerprint")
    return out


def _member(verdict: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the verdict of a panel's member."""
    keys = ("judge", "status", "label", "probabilities", "reason", "notes", "failure")
    return {
        **{key: verdict[key] for key in keys},
        "judge_fingerprint": verdict["fingerprint"],
    }


@contextlib.contextmanager
def _guard(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors as ours, each with what to do."""
    try:
        yield
    except EvenhandError:
        raise
    except sqlite3.Error as exc:
        name = getattr(exc, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StoreBusy(f"{path.name} is held by another process: {exc}") from exc
        if name.startswith("SQLITE_FULL"):
            hint = "Free some space, then resume the audit: what was done is kept."
        elif name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            hint = (
                "Move the file away and start anew, or bring back a copy; `sqlite3 FILE .recover` "
                "may save what is in it."
            )
        elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
            hint = "Check that the folder exists, is writable and has space, then resume the audit."
        else:
            raise
        raise StoreError(f"{str(path)!r} cannot be used: {exc}", hint=hint) from exc
    except OSError as exc:
        raise StoreError(
            f"{str(path)!r} cannot be used: {exc.strerror or exc}",
            hint="Check the data directory and its rights (EVENHAND_DATA_DIR).",
        ) from exc
