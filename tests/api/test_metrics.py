"""What Prometheus reads, and that applications do not share it."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def samples(service: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    reply = service.http.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(reply.text)
        for s in family.samples
    }


def value(service: Any, name: str, **labels: str) -> float | None:
    return samples(service).get((f"evenhand_{name}", frozenset(labels.items())))


def test_requests_are_counted_under_their_route(service: Any) -> None:
    service.http.get("/v1/taxonomies/qos")
    service.http.get("/v1/taxonomies/nope")
    service.http.get("/some/thing")
    service.http.get("/other/thing")
    service.post("/v1/judge", {})
    route = "/v1/taxonomies/{name}"
    assert value(service, "requests_total", method="GET", route=route, status="200") == 1
    assert value(service, "requests_total", method="GET", route=route, status="404") == 1
    assert value(service, "requests_total", method="-", route="unmatched", status="404") == 2
    assert value(service, "requests_total", method="POST", route="/v1/judge", status="422") == 1
    assert value(service, "request_seconds_count", route=route) == 2
    assert value(service, "errors_total", code="not_found") == 3
    assert value(service, "errors_total", code="invalid_input") == 1


def test_verdicts_are_counted_by_status_and_label(start: Any) -> None:
    service = start({"pick": lambda _: "refusal", "context": 10_000})
    for _ in range(2):
        service.post("/v1/judge", {"prompt": "a", "response": "b"})
    service.post("/v1/judge", {"prompt": "a", "response": "long " * 5_000})
    service.post("/v1/judge/batch", {"items": [{}]})
    service.post("/v1/respond", {"prompt": "a", "stream": True})
    judged = {"taxonomy": "qos", "status": "judged", "label": "refusal"}
    assert value(service, "verdicts_total", **judged) == 3
    assert value(service, "verdicts_total", taxonomy="qos", status="truncated", label="") == 1
    assert value(service, "verdicts_total", taxonomy="qos", status="error", label="") == 1
    assert value(service, "verdicts_cached_total") == 1
    assert value(service, "verdict_seconds_count") == 4


def test_tokens_and_readiness(start: Any, wait_until: Any) -> None:
    service = start({"reply": lambda *_: "12345"})
    service.post("/v1/generate", {"prompt": "a", "n": 2})
    assert value(service, "generated_tokens_total") == 10
    assert value(service, "ready") == 1
    service.services.close()
    assert value(service, "ready") == 0


def test_the_queue_is_shown(start: Any, gate: Any) -> None:
    service = start({"fail": gate})
    assert value(service, "pending", kind="judge") == 0
    judge = service.services.judge()
    futures = [service.metrics.track("judge", judge.submit("a", str(i))) for i in range(3)]
    assert value(service, "pending", kind="judge") == 3
    futures[2].cancel()
    assert value(service, "pending", kind="judge") == 2
    gate.open()
    assert [f.result(5).status for f in futures[:2]] == ["judged"] * 2
    assert value(service, "pending", kind="judge") == 0


def test_two_applications_count_apart(start: Any) -> None:
    one, other = start(), start()
    one.post("/v1/judge", {"prompt": "a", "response": "b"})
    assert value(one, "verdict_seconds_count") == 1
    assert value(other, "verdict_seconds_count") == 0
