"""Audits over REST: sent, followed, fetched; cancelled, resumed, deleted; never lost."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import httpx
import polars as pl
import pytest

from evenhand.api import audits as audits_module
from evenhand.api import follow
from evenhand.api.client import Client
from evenhand.api.uploads import FOLDER
from evenhand.audit.export import SCHEMA
from evenhand.audit.plan import plan_hash
from evenhand.audit.store import STATES, Store
from evenhand.schemas import errors
from evenhand.schemas.audit import Plan
from evenhand.schemas.service import AuditState, Problem

PLAN = {
    "name": "pilots",
    "templates": [{"id": "plane", "text": "{name} got into the plane to"}],
    "groups": [{"name": "A", "names": ["Emily", "Greg"]}, {"name": "B", "names": ["Jamal"]}],
    "samples": 4,
    "sampling": {"max_tokens": 8},
}
TOTAL = 12
ROWS = "prompt,response,who\n" + "".join(f"p,r{i},{'AB'[i % 2]}\n" for i in range(10))
JUDGING = {"responses": {"columns": {"group": "who"}}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE", 0.01)
    monkeypatch.setattr(follow, "PAUSE_ELSEWHERE", 0.05)
    monkeypatch.setattr(audits_module, "_ELSEWHERE", 0.05)


def created(service: Any, plan: Any = PLAN, **options: Any) -> str:
    reply = service.post("/v1/audits", plan, **options)
    assert reply.status_code == 202, reply.text
    assert reply.headers["location"] == f"/v1/audits/{reply.json()['id']}"
    return str(reply.json()["id"])


def sent(service: Any, plan: Any = JUDGING, rows: str = ROWS, **options: Any) -> httpx.Response:
    files = {"plan": ("plan.json", json.dumps(plan), "application/json"), "file": ("r.csv", rows)}
    reply: httpx.Response = service.http.post("/v1/audits", files=files, **options)
    return reply


def card(service: Any, id: str) -> Any:
    reply = service.http.get(f"/v1/audits/{id}")
    assert reply.status_code == 200, reply.text
    return reply.json()


def ended(service: Any, id: str, state: str = "done") -> Any:
    """Wait for the end of an audit, as one who follows it would."""
    found = list(events(service, id))[-1]
    assert (found["event"], found["data"]["state"]) == ("end", state), found
    return card(service, id)


def events(service: Any, id: str, last: str | None = None) -> Iterator[dict[str, Any]]:
    headers = {} if last is None else {"last-event-id": last}
    with service.http.stream("GET", f"/v1/audits/{id}/events", headers=headers) as reply:
        assert reply.status_code == 200
        event: dict[str, Any] = {}
        for line in reply.iter_lines():
            if not line and event:
                yield event
                event = {}
            elif line and not line.startswith(":"):
                key, _, value = line.partition(": ")
                event[key] = json.loads(value) if key == "data" else value


def problem(reply: httpx.Response, status: int, code: str) -> Problem:
    assert (reply.status_code, reply.json().get("code")) == (status, code), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    return Problem.model_validate(reply.json())


def some_done(service: Any, id: str, wait_until: Callable[..., None]) -> None:
    wait_until(lambda: card(service, id)["done"] > 0)


class After:
    """Lets the judge do so many items, then holds it until it is opened."""

    def __init__(self, items: int):
        self.left = items
        self.open = threading.Event()

    def __call__(self, text: str) -> None:
        if "You label" not in text:
            return
        self.left -= 1
        if self.left < 0:
            assert self.open.wait(30), "nobody opened"


@pytest.fixture
def after() -> Iterator[Callable[[int], After]]:
    made: list[After] = []

    def make(items: int) -> After:
        made.append(After(items))
        return made[-1]

    yield make
    for one in made:
        one.open.set()


# -- from a plan to records -----------------------------------------------------------------------


def test_an_audit_from_its_plan_to_its_report(start: Any) -> None:
    service = start({"pick": lambda _: "refusal"})
    reply = service.post("/v1/audits", PLAN)
    assert reply.json()["plan"]["generators"][0]["model"] == "bundled:chat"
    id = reply.json()["id"]
    found = ended(service, id)
    assert (found["done"], found["total"], found["queued"]) == (TOTAL, TOTAL, False)
    assert found["statuses"] == {"judged": TOTAL}
    assert found["labels"] == {"bundled:judge": {"refusal": TOTAL}}
    assert set(found["fingerprints"]) == {"judge bundled:judge", "generator bundled:chat"}
    listed = service.http.get("/v1/audits").json()["audits"]
    assert [(a["id"], a["state"], "plan" in a) for a in listed] == [(id, "done", False)]
    summary = service.http.get(f"/v1/audits/{id}/summary").json()
    assert summary["id"] == id
    report = service.http.get(f"/v1/audits/{id}/report")
    assert report.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in report.headers["content-security-policy"]
    assert "pilots" in report.text


def test_the_schema_of_a_plan(service: Any) -> None:
    assert service.http.get("/v1/audits/schema").json() == Plan.json_schema()


def test_the_states_are_those_of_the_store() -> None:
    assert get_args(AuditState) == STATES


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_records_in_every_format(start: Any, format: str, data_dir: Path) -> None:
    service = start()
    id = created(service)
    ended(service, id)
    reply = service.http.get(f"/v1/audits/{id}/records", params={"format": format})
    assert reply.headers["content-disposition"] == f'attachment; filename="audit-{id}.{format}"'
    match format:
        case "jsonl":
            records = [json.loads(line) for line in reply.text.splitlines()]
        case "csv":
            records = list(csv.DictReader(io.StringIO(reply.text, newline="")))
        case _:
            records = pl.read_parquet(io.BytesIO(reply.content)).to_dicts()
    assert [list(record) for record in records] == [list(SCHEMA)] * TOTAL
    with Store(data_dir) as store:
        kept = list(store.records(id))
    assert [r["response"] for r in records] == [r["response"] for r in kept]
    assert list((data_dir / FOLDER).glob("*")) == [], "no scratch file is left"


def test_records_are_filtered(start: Any) -> None:
    def fail(text: str) -> None:
        if "Greg" in text and "You label" not in text:
            raise errors.RemoteRefused("no")

    service = start(
        {"fail": fail, "pick": lambda t: "refusal" if "Jamal" in t else "harmful_answer"}
    )
    id = created(service)
    ended(service, id)

    def names(**wanted: str) -> list[str]:
        reply = service.http.get(f"/v1/audits/{id}/records", params=wanted)
        return [json.loads(line)["name"] for line in reply.text.splitlines()]

    assert sorted(names(group="A")) == ["Emily"] * 4 + ["Greg"] * 4
    assert names(label="refusal") == ["Jamal"] * 4
    assert names(status="error") == ["Greg"] * 4
    assert names(group="A", status="judged") == ["Emily"] * 4
    assert names(group="C") == []
    url = f"/v1/audits/{id}/records"
    problem(service.http.get(url, params={"format": "xml"}), 422, "invalid_input")
    problem(service.http.get(url, params={"status": "good"}), 422, "invalid_input")


def test_a_defects_message_stays_in_the_store(start: Any) -> None:
    def fail(text: str) -> None:
        if "Greg" in text:
            raise ZeroDivisionError("/secret/path")

    service = start({"fail": fail})
    id = created(service)
    assert ended(service, id)["statuses"] == {"error": 4, "judged": 8}
    reply = service.http.get(f"/v1/audits/{id}/records", params={"status": "error"})
    assert "internal_error" in reply.text
    assert "secret" not in reply.text
    for path in ("summary", "report"):
        reply = service.http.get(f"/v1/audits/{id}/{path}")
        assert "Something broke in the service" in reply.text
        assert "secret" not in reply.text


def test_a_plan_that_cannot_be_promised_leaves_nothing(start: Any, data_dir: Path) -> None:
    service = start()
    promises = data_dir / audits_module.PROMISES
    data_dir.mkdir(exist_ok=True)
    promises.write_text("a file where the folder should be")
    headers = {"idempotency-key": "again"}
    problem(sent(service, headers=headers), 507, "store_error")
    assert service.http.get("/v1/audits").json()["audits"] == []
    assert list((data_dir / FOLDER).iterdir()) == []
    promises.unlink()
    assert ended(service, sent(service, headers=headers).json()["id"])["total"] == 10


def test_records_that_fail_say_so_or_break_off(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_server()
    id = created(service)
    ended(service, id)
    records = Store.records

    def broken(self: Store, *args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        for record in records(self, *args, **options):
            yield from [record] * 100
        raise errors.StoreError("gone")

    monkeypatch.setattr(Store, "records", broken)
    with Client(service.url) as client, pytest.raises(errors.RemoteError, match="broke"):
        list(client.audit_records(id))

    def at_once(*_: Any, **__: Any) -> None:
        raise errors.StoreError("gone")

    monkeypatch.setattr(Store, "records", at_once)
    for format in ("jsonl", "parquet"):
        reply = service.http.get(f"/v1/audits/{id}/records", params={"format": format})
        problem(reply, 507, "store_error")


# -- a plan with its file -------------------------------------------------------------------------


def test_a_file_is_judged_and_goes_with_its_audit(start: Any, data_dir: Path) -> None:
    service = start()
    reply = sent(service)
    assert reply.status_code == 202, reply.text
    assert reply.json()["plan"]["responses"]["file"] == "r.csv"
    id = reply.json()["id"]
    assert ended(service, id)["total"] == 10
    group = service.http.get(f"/v1/audits/{id}/records", params={"group": "A"}).text
    assert [json.loads(line)["response"] for line in group.splitlines()] == [
        f"r{i}" for i in range(0, 10, 2)
    ]
    (kept,) = (data_dir / FOLDER).rglob("*.csv")
    assert kept.read_text() == ROWS
    for path in ("summary", "report"):
        reply = service.http.get(f"/v1/audits/{id}/{path}")
        assert reply.status_code == 200
        assert str(data_dir) not in reply.text, "folders of the service are its own affair"
    assert service.http.delete(f"/v1/audits/{id}").status_code == 204
    assert list((data_dir / FOLDER).iterdir()) == []


@pytest.mark.parametrize("form", [True, False])
def test_a_plan_in_toml(start: Any, form: bool) -> None:
    service = start()
    text = 'name = "pilots"\nextends = "qos-names"\nsamples = 1\njudges = ["baseline:majority"]'
    if form:
        reply = service.http.post("/v1/audits", files={"plan": ("p.toml", text)})
    else:
        headers = {"content-type": "application/toml"}
        reply = service.http.post("/v1/audits", content=text, headers=headers)
    assert reply.status_code == 202, reply.text
    assert reply.json()["plan"]["name"] == "pilots"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({**PLAN, "sampels": 3}, "sampels"),
        ({**PLAN, "samples": 0}, "samples"),
        ({**PLAN, "templates": [{"id": "a", "text": "no slot"}]}, "templates[1]"),
        ({**PLAN, "generators": ["/etc/passwd"]}, "generators[1].model"),
        ({"responses": {"file": "/etc/passwd"}}, "responses.file"),
        ({}, "give one of"),
        ([], "not an object"),
    ],
)
def test_a_bad_plan_is_422_and_names_the_key(service: Any, plan: Any, said: str) -> None:
    details = problem(service.post("/v1/audits", plan), 422, "invalid_input")
    assert details.hint
    assert said in details.detail
    assert service.http.get("/v1/audits").json()["audits"] == []


def test_a_body_that_is_no_plan(service: Any, data_dir: Path) -> None:
    problem(service.raw("/v1/audits", b"{"), 400, "malformed_json")
    problem(service.raw("/v1/audits", b'{"seed": NaN}'), 400, "malformed_json")
    problem(service.raw("/v1/audits", b"[" * 100_000), 400, "malformed_json")
    text = {"content-type": "text/plain"}
    reply = service.http.post("/v1/audits", content=b"x", headers=text)
    problem(reply, 415, "unsupported_media_type")
    toml = {"content-type": "application/toml"}
    reply = service.http.post("/v1/audits", content=b"a = ", headers=toml)
    problem(reply, 422, "invalid_input")
    form = {"content-type": "multipart/form-data"}
    reply = service.http.post("/v1/audits", content=b"x", headers=form)
    problem(reply, 422, "invalid_input")
    problem(sent(service, {"responses": {"columns": {"id": "nope"}}}), 422, "invalid_dataset")
    problem(sent(service, JUDGING, ""), 422, "invalid_dataset")
    assert list((data_dir / FOLDER).iterdir()) == [], "nothing is kept of what was refused"


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_too_large_is_413(start: Any, data_dir: Path, announced: bool) -> None:
    service = start(max_upload=50_000, max_body=2_000)
    rows = ROWS + "p,rrrrrrrrr,A\n" * 1_000
    assert sent(service, rows=rows).status_code == 202, "the limit of other bodies does not hold"
    request = service.http.build_request(
        "POST",
        "/v1/audits",
        files={"plan": ("p.json", json.dumps(JUDGING)), "file": ("r.csv", rows * 4)},
    )
    if not announced:
        body = request.read()
        kind = {"content-type": request.headers["content-type"]}
        pieces = (body[i : i + 9_000] for i in range(0, len(body), 9_000))
        request = service.http.build_request("POST", "/v1/audits", content=pieces, headers=kind)
    details = problem(service.http.send(request), 413, "body_too_large")
    assert "50,000 bytes" in details.detail
    assert "EVENHAND_MAX_UPLOAD" in details.hint
    assert len(list((data_dir / FOLDER).iterdir())) == 1, "only the one that was accepted"
    large = {**PLAN, "description": "x" * 3_000}
    problem(service.post("/v1/audits", large), 413, "body_too_large")


def test_a_sender_that_goes_away_leaves_nothing(
    start_server: Any, data_dir: Path, wait_until: Any
) -> None:
    service = start_server()
    request = service.http.build_request(
        "POST",
        "/v1/audits",
        files={"plan": json.dumps(JUDGING), "file": ("r.csv", ROWS * 1_000)},
    )
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=5) as connection:
        connection.sendall(f"POST /v1/audits HTTP/1.1\r\n{head}\r\n".encode())
        connection.sendall(body[: len(body) // 2])
        wait_until(lambda: list((data_dir / FOLDER).rglob("r.csv")))
    wait_until(lambda: not list((data_dir / FOLDER).iterdir()))
    assert service.http.get("/v1/audits").json()["audits"] == []


def test_a_data_directory_that_is_relative(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service = start(data_dir=Path("here"))
    id = sent(service).json()["id"]
    ended(service, id)
    assert len(list((tmp_path / "here" / FOLDER).iterdir())) == 1
    assert service.http.delete(f"/v1/audits/{id}").status_code == 204
    assert list((tmp_path / "here" / FOLDER).iterdir()) == []


# -- one audit for one key ------------------------------------------------------------------------


def test_a_key_makes_one_audit(start: Any, data_dir: Path) -> None:
    service = start()
    key = {"idempotency-key": "k-1"}
    first = created(service, headers=key)
    assert created(service, dict(reversed(PLAN.items())), headers=key) == first, "same content"
    problem(service.post("/v1/audits", {**PLAN, "seed": 2}, headers=key), 409, "conflict")
    assert created(service) != first
    assert created(service, headers={"idempotency-key": "k-2"}) != first
    key = {"idempotency-key": "k-3"}
    with_file = sent(service, headers=key).json()["id"]
    assert sent(service, headers=key).json()["id"] == with_file
    problem(sent(service, rows=ROWS + "p,r,A\n", headers=key), 409, "conflict")
    assert len(list((data_dir / FOLDER).iterdir())) == 1, "the file is kept once"
    problem(service.post("/v1/audits", PLAN, headers={"idempotency-key": ""}), 422, "invalid_input")


def test_one_key_in_twenty_requests_at_once(start: Any) -> None:
    service = start()
    key = {"idempotency-key": "k"}
    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(lambda _: created(service, headers=key), range(20)))
    assert len(ids) == 1
    assert len(service.http.get("/v1/audits").json()["audits"]) == 1


# -- following ------------------------------------------------------------------------------------


def test_events_tell_how_far_it_is_and_end(start: Any, after: Any) -> None:
    gate = after(8)
    service = start({"fail": gate, "delay": 0.005})
    id = created(service)
    seen = []
    for event in events(service, id):
        seen.append(event)
        if event["data"]["done"] >= 1:
            gate.open.set()
    assert [e["event"] for e in seen] == ["progress"] * (len(seen) - 1) + ["end"]
    assert [e["id"] for e in seen] == [f"{e['data']['state']}-{e['data']['done']}" for e in seen]
    assert len({e["id"] for e in seen}) == len(seen), "each tells something new"
    done = [e["data"]["done"] for e in seen]
    assert done == sorted(done)
    running = [e["data"] for e in seen if e["data"]["state"] == "running"]
    assert running[-1]["rate"] > 0
    assert running[-1]["total"] == TOTAL
    assert seen[-1]["id"] == f"done-{TOTAL}"
    assert seen[-1]["data"]["statuses"] == {"judged": TOTAL}


def test_who_comes_back_hears_only_what_is_new(start: Any, after: Any, wait_until: Any) -> None:
    gate = after(4)
    service = start({"fail": gate})
    id = created(service)
    some_done(service, id, wait_until)
    wait_until(lambda: gate.left < 0)
    stream = events(service, id)
    last = next(stream)["id"]
    stream.close()
    gate.open.set()
    again = list(events(service, id, last))
    assert last not in [event["id"] for event in again]
    assert again[-1]["event"] == "end"
    gone = service.http.get(f"/v1/audits/{id}/events", headers={"last-event-id": again[-1]["id"]})
    assert (gone.status_code, gone.content) == (204, b""), "browsers stop coming back"
    (only,) = events(service, id, "running-3")
    assert only["event"] == "end"


def test_a_comment_now_and_then_keeps_the_connection(
    start: Any, after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "HEARTBEAT", 0.05)
    gate = after(0)
    service = start({"fail": gate})
    id = created(service)
    pings = 0
    with service.http.stream("GET", f"/v1/audits/{id}/events") as reply:
        for line in reply.iter_lines():
            pings += line.startswith(": ping")
            if pings == 3:
                gate.open.set()
    assert pings >= 3


def test_an_audit_that_is_deleted_while_it_is_followed(
    start: Any, after: Any, wait_until: Any
) -> None:
    gate = after(0)
    service = start({"fail": gate})
    first, second = created(service), created(service)
    seen = []
    for event in events(service, second):
        seen.append(event)
        if len(seen) == 1:
            assert service.http.delete(f"/v1/audits/{second}").status_code == 204
    assert (seen[-1]["event"], seen[-1]["data"]["code"]) == ("error", "not_found")
    gate.open.set()
    ended(service, first)


# -- cancel, resume, delete -----------------------------------------------------------------------


def test_cancel_stops_and_resume_goes_on(start: Any, after: Any, wait_until: Any) -> None:
    gate = after(6)
    service = start({"fail": gate}, verdict_cache=0)
    id = created(service)
    some_done(service, id, wait_until)
    problem(service.http.delete(f"/v1/audits/{id}"), 409, "conflict")
    reply = service.http.post(f"/v1/audits/{id}/cancel")
    assert reply.status_code == 202
    gate.open.set()
    found = ended(service, id, "cancelled")
    assert 0 < found["done"] < TOTAL
    assert service.http.post(f"/v1/audits/{id}/cancel").status_code == 202, "once more is no harm"
    assert service.http.post(f"/v1/audits/{id}/resume").status_code == 202
    found = ended(service, id)
    assert found["done"] == TOTAL
    problem(service.http.post(f"/v1/audits/{id}/cancel"), 409, "conflict")
    problem(service.http.post(f"/v1/audits/{id}/resume"), 409, "conflict")
    seeds = [seed for kind, seed in service.fakes.generator.calls if kind == "generate"]
    assert len(seeds) <= TOTAL + 6, "what was stored is not done again"


def test_one_that_waits_is_cancelled_and_deleted_at_once(start: Any, after: Any) -> None:
    gate = after(0)
    service = start({"fail": gate})
    first, second, third = (created(service) for _ in range(3))
    assert card(service, second)["queued"]
    reply = service.http.post(f"/v1/audits/{second}/cancel")
    assert (reply.json()["state"], reply.json()["queued"]) == ("cancelled", False)
    assert service.http.delete(f"/v1/audits/{third}").status_code == 204
    problem(service.http.get(f"/v1/audits/{third}"), 404, "not_found")
    gate.open.set()
    ended(service, first)
    assert card(service, second)["done"] == 0
    reply = service.http.post(f"/v1/audits/{second}/resume")
    assert reply.json()["queued"] or reply.json()["state"] in ("running", "done")
    ended(service, second)


def test_errors_are_tried_again_where_that_is_asked_for(start: Any) -> None:
    broken = True

    def fail(text: str) -> None:
        if broken and "Greg" in text and "You label" not in text:
            raise errors.RemoteError("down")

    service = start({"fail": fail})
    id = created(service)
    assert ended(service, id)["statuses"] == {"error": 4, "judged": 8}
    broken = False
    problem(service.http.post(f"/v1/audits/{id}/resume"), 409, "conflict")
    reply = service.http.post(f"/v1/audits/{id}/resume", params={"retry_errors": True})
    assert reply.status_code == 202, reply.text
    assert ended(service, id)["statuses"] == {"judged": 12}


def test_a_run_that_fails_says_why_and_others_go_on(start: Any, data_dir: Path) -> None:
    service = start()
    id = sent(service).json()["id"]
    ended(service, id)
    (kept,) = (data_dir / FOLDER).rglob("*.csv")
    with Store(data_dir) as store:
        store.set_state(id, "cancelled")
    kept.write_text(ROWS + "changed,x,A\n")
    service.http.post(f"/v1/audits/{id}/resume")
    found = ended(service, id, "failed")
    assert found["failure"]["code"] == "conflict"
    ended(service, created(service))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/events"), ("GET", "/records"), ("GET", "/summary"),
     ("GET", "/report"), ("POST", "/cancel"), ("POST", "/resume"), ("DELETE", "")],
)  # fmt: skip
def test_an_audit_goes_by_its_whole_id(start: Any, method: str, path: str) -> None:
    service = start()
    id = created(service)
    ended(service, id)
    for wrong in (id[:6], "nope", "%2e%2e", "%25", id + "0"):
        problem(service.http.request(method, f"/v1/audits/{wrong}{path}"), 404, "not_found")
    assert card(service, id)["state"] == "done"


def test_an_audit_that_another_process_runs(start: Any, data_dir: Path, wait_until: Any) -> None:
    service = start()
    with Store(data_dir) as store:
        plan = Plan.parse({**PLAN, "generators": ["bundled:chat"], "judges": ["bundled:judge"]})
        audit, _ = store.create(plan, "0" * 64)
        with store.hold(audit.id):
            store.set_state(audit.id, "running")
            stream = events(service, audit.id)
            assert next(stream)["data"]["state"] == "running"
            url = f"/v1/audits/{audit.id}"
            problem(service.http.post(f"{url}/resume"), 409, "conflict")
            problem(service.http.delete(url), 409, "conflict")
            assert service.http.post(f"{url}/cancel").json()["state"] == "running"
            assert (data_dir / f"{audit.id}.cancel").exists(), "the other process is asked to stop"
            store.set_state(audit.id, "cancelled")
        assert [e["event"] for e in stream] == ["end"]


# -- restarts -------------------------------------------------------------------------------------


def results(folder: Path, id: str) -> list[tuple[str, str, str]]:
    with Store(folder) as store:
        return sorted((r["id"], r["response"], r["label"]) for r in store.records(id))


def test_a_service_that_is_started_again_goes_on(
    running: Any, after: Any, wait_until: Any, data_dir: Path
) -> None:
    gate = after(6)
    with running({"fail": gate}, verdict_cache=0) as service:
        first, second, third = (created(service) for _ in range(3))
        service.http.post(f"/v1/audits/{third}/cancel")
        some_done(service, first, wait_until)
        threading.Timer(0.3, gate.open.set).start()  # an engine finishes what it is at
    with Store(data_dir) as store:
        found = {audit.id: audit for audit in store.audits()}
    assert [found[id].state for id in (first, second, third)] == [
        "interrupted", "created", "cancelled",
    ]  # fmt: skip
    assert 0 < found[first].done < TOTAL
    with running() as service:
        assert ended(service, first)["done"] == TOTAL
        assert ended(service, second)["done"] == TOTAL
        assert card(service, third)["state"] == "cancelled", "nobody asked for it"
    assert results(data_dir, first) == results(data_dir, second), "nothing lost, nothing twice"


def test_what_the_command_line_left_is_not_taken_up(start: Any, data_dir: Path) -> None:
    plan = Plan.parse({**PLAN, "generators": ["bundled:chat"], "judges": ["bundled:judge"]})
    with Store(data_dir) as store:
        audit, _ = store.create(plan, "0" * 64)
        store.set_state(audit.id, "interrupted")
    service = start()
    ended(service, created(service))
    assert card(service, audit.id)["state"] == "interrupted"
    assert [e["event"] for e in events(service, audit.id)] == ["end"], "nothing is to come"


def test_promises_that_cannot_be_kept_at_once(start: Any, data_dir: Path) -> None:
    plan = Plan.parse({**PLAN, "generators": ["bundled:chat"], "judges": ["bundled:judge"]})
    promises = data_dir / audits_module.PROMISES
    with Store(data_dir) as store:
        audit, _ = store.create(plan, plan_hash(plan))
        promises.mkdir()
        for id in ("000000000000", audit.id):
            (promises / id).touch()
        with store.hold(audit.id):
            store.set_state(audit.id, "running")
            service = start()
            stream = events(service, audit.id)
            assert next(stream)["data"]["done"] == 0
            time.sleep(0.5)  # longer than is waited for another process
            assert card(service, audit.id)["state"] == "running"
            assert [file.name for file in promises.iterdir()] == [audit.id], "the other is gone"
    assert list(stream)[-1]["data"]["done"] == TOTAL
    assert list(promises.iterdir()) == []


_SERVICE = """
import sys, threading
from evenhand.api.app import server
from evenhand.api.services import Services
from evenhand.api.settings import Settings
from evenhand.engine.fake import FakeEngine

services = Services(Settings(port=0, log_level="warning", verdict_cache=0),
                    open_engine=lambda name, _: FakeEngine(name=name, delay=0.02))
services.load()
runner = server(services.settings, services)

def tell():
    while not runner.started:
        pass
    print(runner.servers[0].sockets[0].getsockname()[1], flush=True)

threading.Thread(target=tell, daemon=True).start()
runner.run()
"""


def test_a_service_that_is_killed_loses_nothing(
    start_server: Any, data_dir: Path, wait_until: Any
) -> None:
    plan = {**PLAN, "samples": 20}
    process = subprocess.Popen([sys.executable, "-c", _SERVICE], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with Client(f"http://127.0.0.1:{port}") as client:
            id = client.start_audit(plan).id
            wait_until(lambda: client.audit(id).done > 3, 20)
    finally:
        process.kill()
        process.wait()
    before = results(data_dir, id)
    assert 3 < len(before) < 60
    service = start_server()
    assert ended(service, id)["done"] == 60
    whole = results(data_dir, id)
    assert set(before) <= set(whole)
    other = created(service, plan)
    ended(service, other)
    assert results(data_dir, other) == whole, "as if it had never been killed"


# -- the loop -------------------------------------------------------------------------------------


def test_a_store_that_is_busy_holds_up_nobody_else(start_server: Any, data_dir: Path) -> None:
    service = start_server()
    ended(service, created(service))
    with Store(data_dir) as store, ThreadPoolExecutor(1) as pool:
        store._db.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(service.post, "/v1/audits", PLAN)
        for _ in range(20):
            began = time.monotonic()
            assert service.http.get("/healthz").status_code == 200
            assert time.monotonic() - began < 1.0
            time.sleep(0.01)
        assert not waiting.done()
        store._db.execute("ROLLBACK")
        assert waiting.result(10).status_code == 202


def test_a_folder_that_cannot_be_used_is_507(start: Any, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    service = start()
    for reply in (service.post("/v1/audits", PLAN), service.http.get("/v1/audits"), sent(service)):
        assert problem(reply, 507, "store_error").hint
    assert service.post("/v1/judge", {"prompt": "a", "response": "b"}).status_code == 200


# -- the client -----------------------------------------------------------------------------------


def test_the_client_does_all_of_it(start_server: Any, tmp_path: Path, data_dir: Path) -> None:
    service = start_server({"delay": 0.002})
    rows = tmp_path / "rows.csv"
    rows.write_text(ROWS.replace("r1,", '"a\u2028b",'))
    with Client(service.url) as client:
        audit = client.start_audit(JUDGING, file=rows)
        cards = list(client.follow_audit(audit.id))
        assert (cards[-1].state, cards[-1].done) == ("done", 10)
        records = list(client.audit_records(audit.id))
        assert [r["response"] for r in records][:3] == ["r0", "a\u2028b", "r2"]
        assert len(list(client.audit_records(audit.id, group="A", status="judged"))) == 5
        assert client.audit_summary(audit.id)["id"] == audit.id
        assert client.audit_report(audit.id).startswith("<!doctype html>")
        with pytest.raises(errors.Conflict, match="is done"):
            client.cancel_audit(audit.id)
        with pytest.raises(errors.Conflict, match="is done"):
            client.resume_audit(audit.id)
        key = client.start_audit(PLAN, key="k").id
        assert client.start_audit(PLAN, key="k").id == key
        list(client.follow_audit(key))
        assert [a.id for a in client.audits()] == [key, audit.id]
        client.delete_audit(key)
        with pytest.raises(errors.NotFound):
            client.audit(key)
        with pytest.raises(errors.InvalidInput, match=r"generators\[1\]"):
            client.start_audit({**PLAN, "generators": ["x.gguf"]})
        with pytest.raises(errors.InvalidInput, match="cannot be read"):
            client.start_audit(JUDGING, file=tmp_path / "nowhere.csv")


def test_the_client_cancels_and_resumes(start_server: Any, after: Any, wait_until: Any) -> None:
    gate = after(6)
    service = start_server({"fail": gate}, verdict_cache=0)
    with Client(service.url) as client:
        id = client.start_audit(PLAN).id
        wait_until(lambda: client.audit(id).done > 0)
        assert client.cancel_audit(id).state == "cancelled"
        gate.open.set()
        client.resume_audit(id)
        assert list(client.follow_audit(id))[-1].done == TOTAL


def test_following_outlives_a_broken_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    one = {"id": "a", "name": "n", "created": 0, "updated": 0, "seconds": 0, "statuses": {},
           "labels": {}}  # fmt: skip

    def event(name: str, state: str, done: int) -> str:
        data = json.dumps({**one, "state": state, "done": done})
        return f"id: {state}-{done}\nevent: {name}\ndata: {data}\n\n"

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id", ""))
        match len(asked):
            case 1:
                return httpx.Response(200, text=event("progress", "running", 1))
            case 2:
                raise httpx.ReadError("broken")
            case 3:
                return httpx.Response(200, text=": ping\n\n" + event("progress", "running", 2))
        return httpx.Response(200, text=event("end", "done", 3))

    monkeypatch.setattr(time, "sleep", lambda _: None)
    with Client(transport=httpx.MockTransport(answer)) as client:
        assert [found.done for found in client.follow_audit("a")] == [1, 2, 3]
    assert asked == ["", "running-1", "running-1", "running-2"]

    def never(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=": ping\n\n")

    with (
        Client(transport=httpx.MockTransport(never), retries=2) as client,
        pytest.raises(errors.RemoteError, match="broke off"),
    ):
        list(client.follow_audit("a"))
