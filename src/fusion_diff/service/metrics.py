"""The Prometheus metrics of the service."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fusion_diff.fewshot.decision import Decision

FAULTS = ("checkpoint", "database", "dependency", "device", "disk", "fault", "memory", "service", "store")
"""Kinds of faults that `problems.problem` tells."""
_REFUSED = (400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 500, 501, 503, 504, 507)


class Metrics:
    """The metrics of one app, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
        self.requests = Histogram(
            "fusion_diff_request_seconds",
            "Seconds to answer a request, by route.",
            ("method", "route", "status"),
            registry=self.registry,
            buckets=seconds,
        )
        self.inspecting = Histogram(
            "fusion_diff_inspection_seconds",
            "Seconds from queue to verdict, waiting included.",
            registry=self.registry,
            buckets=seconds,
        )
        self.queue = Gauge(
            "fusion_diff_queue_depth", "Micrographs that wait or are being inspected.", registry=self.registry
        )
        self.scores = Histogram(
            "fusion_diff_score",
            "Scores of inspected micrographs.",
            registry=self.registry,
            buckets=[step / 10 for step in range(1, 11)],
        )
        self.decisions = Counter(
            "fusion_diff_decisions",
            "Verdicts; inconclusive ones are abstentions.",
            ("decision",),
            registry=self.registry,
        )
        self.database_up = Gauge(
            "fusion_diff_database_up", "1 if the database answers and takes changes, else 0.", registry=self.registry
        )
        self.overruled = Counter("fusion_diff_overruled", "Verdicts overruled by an expert.", registry=self.registry)
        self.faults = Counter(
            "fusion_diff_faults",
            "Internal errors of the service, by kind; each is in the log.",
            ("kind",),
            registry=self.registry,
        )
        self.refusals = Counter(
            "fusion_diff_refusals", "Requests and micrographs refused, by status.", ("status",), registry=self.registry
        )
        # From 0 on: a counter that appeared with its first event would not have grown, and would raise no alert.
        for kind in FAULTS:
            self.faults.labels(kind)
        for decision in get_args(Decision):
            self.decisions.labels(decision)
        for status in _REFUSED:
            self.refusals.labels(str(status))
