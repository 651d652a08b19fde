"""Metrics for Prometheus: one registry per application, so that two in a process do not clash."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evenhand.schemas.generation import Generation
from evenhand.schemas.verdict import Verdict

T = TypeVar("T")

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Seconds: a cached verdict takes a millisecond, a long answer of a large model minutes.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CLIENT_GONE = 499


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "evenhand_requests",
            "Requests answered, by route and HTTP status (499: the client went away).",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "evenhand_request_seconds",
            "Seconds from a request's arrival to the end of its reply.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(
            "evenhand_errors",
            "Problems told to clients, by code.",
            ["code"],
            registry=self.registry,
        )
        self.verdicts = Counter(
            "evenhand_verdicts",
            "Verdicts given, by taxonomy, status and label (empty where there is none).",
            ["taxonomy", "status", "label"],
            registry=self.registry,
        )
        self.verdict_seconds = Histogram(
            "evenhand_verdict_seconds",
            "Seconds from submission to verdict, cached ones left out.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.cached = Counter(
            "evenhand_verdicts_cached",
            "Verdicts that came from the cache.",
            registry=self.registry,
        )
        self.tokens = Counter(
            "evenhand_generated_tokens", "Tokens generated.", registry=self.registry
        )
        self.pending = Gauge(
            "evenhand_pending",
            "Items handed to an engine and not finished: waiting or under way.",
            ["kind"],
            registry=self.registry,
        )
        self.ready = Gauge(
            "evenhand_ready", "1 when every model is loaded.", registry=self.registry
        )
        for kind in ("generate", "judge"):
            self.pending.labels(kind=kind)

    def track(self, kind: str, future: Future[T]) -> Future[T]:
        """Count a future as pending until it is settled or cancelled."""
        gauge = self.pending.labels(kind=kind)
        gauge.inc()
        future.add_done_callback(lambda _: gauge.dec())
        return future

    def saw(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self.verdicts.labels(
            taxonomy=verdict.taxonomy, status=verdict.status.value, label=verdict.label or ""
        ).inc()
        if verdict.cached:
            self.cached.inc()
        else:
            self.verdict_seconds.observe(verdict.seconds)

    def generated(self, generations: Iterable[Generation]) -> None:
        """Count the tokens of generations."""
        self.tokens.inc(sum(g.completion_tokens or 0 for g in generations))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)


class Metered:
    """ASGI middleware: counts and times every request, under its route's template."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # A path that nobody routes is no label: scanners would fill the registry with them.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(
                method=scope["method"] if route != "unmatched" else "-",
                route=route,
                status=str(status),
            ).inc()
            self._metrics.request_seconds.labels(route=route).observe(time.monotonic() - started)
