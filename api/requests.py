"""
Figures of requests and groups: counted in plain lists, handed to Prometheus once a second.

Its own values take a lock or a mapped file each: per request that would be a tenth
of the time a heartbeat takes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

FLUSH_INTERVAL_S = 1.0
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)
_METHODS = frozenset(("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"))


class BulkHistogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add *counts* per bucket (the last is above all bounds), of values that sum to *total*."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


REQUESTS = BulkHistogram(
    "moonwake_http_request_duration_seconds",
    "Time from a request's headers to the end of its answer.",
    ["route", "method", "status"],
    buckets=_SECONDS,
)
GROUPS = BulkHistogram(
    "moonwake_append_group_events",
    "Events that went to Redis in one round trip.",
    buckets=_EVENTS,
)


class Tally:
    """Observations not handed over yet."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def hand_over(self, histogram: BulkHistogram) -> None:
        if any(self.counts):
            histogram.add(self.counts, self.total)
            self.counts = [0] * len(self.counts)
            self.total = 0.0


class RequestFigures:
    """What one front counted since the last hand-over."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], Tally] = {}
        self._groups = Tally(_EVENTS)
        self.record_group: Callable[[float], None] = self._groups.add

    def recorder(self, method: str, route: str) -> Callable[[int, float], None]:
        """A function that takes one request's status and seconds."""
        return partial(self.record, method, route)

    def record(self, method: str, route: str, status: int, duration_s: float) -> None:
        key = (route, method, status)
        tally = self._requests.get(key)
        if tally is None:
            tally = self._requests[key] = Tally(_SECONDS)
        tally.add(duration_s)

    def hand_over(self) -> None:
        """Give everything counted to Prometheus."""
        for (route, method, status), tally in self._requests.items():
            known = method if method in _METHODS else "other"
            tally.hand_over(REQUESTS.labels(route, known, str(status)))
        self._groups.hand_over(GROUPS)

    async def run(self) -> None:
        """Hand over again and again; another process may be the one that is scraped."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            self.hand_over()
