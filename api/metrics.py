"""
GET /metrics: Prometheus text.

Stream figures come from Redis at the time of the scrape, so any process answers
for all workers; request figures are those of all processes where
PROMETHEUS_MULTIPROC_DIR is set (by the launcher, before Python starts).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue, ValueClass

from api.errors import Answer, response_of
from api.site import STREAM, AnyRequest, Site, site_of
from shared.durability import prove
from shared.errors import AppendRefused, StoreDown, Transient
from shared.incidents import CAUSES, CauseTotal, read_incident_totals
from shared.mysql import MySQLError
from shared.published import Checkpoint
from shared.status import ShardStatus, read_committed, read_status

MYSQL_TIMEOUT_S = 1.0

Value = Callable[[ShardStatus], float | None]
_GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("stream_lag_entries", "Entries past the published checkpoint.", lambda s: s.lag),
    ("stream_lag_seconds", "Age of the oldest entry past it.", lambda s: s.lag_s),
    ("stream_pending_entries", "Entries past it, counted by reading.", lambda s: s.pending),
    (
        "stream_books_difference_entries",
        "Added less applied, dead, lost and pending: always 0.",
        lambda s: s.difference,
    ),
    ("stream_dead_entries", "Kept as dead letters.", lambda s: s.checkpoint.dead),
    ("stream_closed", "1 above the high-water mark.", lambda s: s.closed),
    ("drain_last_batch_entries", "Entries of the last batch.", lambda s: s.work.batch_entries),
    ("drain_last_batch_rows", "Rows of the last batch.", lambda s: s.work.batch_rows),
    (
        "drain_last_batch_seconds",
        "Time MySQL took for the last batch.",
        lambda s: s.work.batch_ms / 1000,
    ),
)
_COUNTERS: tuple[tuple[str, str, Value], ...] = (
    ("stream_added_entries", "Entries ever added.", lambda s: s.added),
    ("stream_ordinal_entries", "Entries up to the checkpoint.", lambda s: s.checkpoint.ordinal),
    ("stream_applied_entries", "Applied to MySQL.", lambda s: s.checkpoint.applied),
    ("stream_lost_entries", "Known to be lost by Redis.", lambda s: s.checkpoint.lost),
    ("drain_batches", "Batches committed.", lambda s: s.work.batches),
    ("drain_entries", "Entries in them.", lambda s: s.work.entries),
    ("drain_rows", "Rows they wrote.", lambda s: s.work.rows),
    ("drain_write_seconds", "Time MySQL took for them.", lambda s: s.work.write_ms / 1000),
    ("drain_takeovers", "Times a worker took the shard over.", lambda s: s.work.takeovers),
)
_LABELS = ("stream", "shard")
# No label for 'exact': a later witness may turn 'at least' into 'exactly', and a counter that
# goes down would look like one that began anew. No shard: `moonwake status` tells it.
_OF_CAUSES: tuple[tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, str], ...] = (
    (CounterMetricFamily, "incidents", "Losses, also of nothing.", "incidents"),
    (CounterMetricFamily, "incident_lost_entries", "Entries lost by them, at least.", "lost"),
    (GaugeMetricFamily, "incidents_inexact", "Those that may have lost more.", "inexact"),
)


@get("/metrics", status_code=200, include_in_schema=False)
async def read_metrics(request: AnyRequest) -> Response[bytes]:
    """Everything this front knows, as Prometheus reads it."""
    site = site_of(request)
    site.figures.hand_over()
    families = [*await _stream_families(site), *await _mysql_families(site)]
    text = generate_latest(_process_registry()) + generate_latest(_registry_of(families))
    return response_of(Answer(200, text, CONTENT_TYPE_LATEST.encode()))


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry_of(families: Iterable[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return registry


def _process_registry() -> CollectorRegistry:
    if ValueClass is MutexValue:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


async def _stream_families(site: Site) -> list[Metric]:
    try:
        shards = await read_status(site.redis, site.keys, STREAM, site.settings.shards)
    except StoreDown:
        return [_up("redis", up=False)]
    return [_up("redis", up=True), await _ack(site), *_families_of(shards)]


def _families_of(shards: Iterable[ShardStatus]) -> Iterator[Metric]:
    for family, table in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for name, about, value_of in table:
            metric = family(f"moonwake_{name}", about, labels=_LABELS)
            for status in shards:
                if (value := value_of(status)) is not None:
                    metric.add_metric([STREAM, str(status.shard)], float(value))
            yield metric


async def _mysql_families(site: Site) -> list[Metric]:
    """MySQL's own checkpoints, ahead of the published ones only between commit and publish,
    and the incidents.
    """
    try:
        async with asyncio.timeout(MYSQL_TIMEOUT_S):
            committed = await read_committed(site.pool, STREAM)
            totals = await read_incident_totals(site.pool)
    except (Transient, MySQLError, TimeoutError):
        return [_up("mysql", up=False)]
    return [_up("mysql", up=True), _ordinals_of(committed), *_incidents_of(totals)]


def _ordinals_of(committed: dict[int, Checkpoint]) -> Metric:
    metric = CounterMetricFamily(
        "moonwake_mysql_ordinal_entries", "Entries up to MySQL's own checkpoint.", labels=_LABELS
    )
    for shard, checkpoint in committed.items():
        metric.add_metric([STREAM, str(shard)], checkpoint.ordinal)
    return metric


def _incidents_of(totals: Iterable[CauseTotal]) -> Iterator[Metric]:
    """Every cause, also those that never struck: the first time would else be no increase."""
    known = {(total.stream, total.cause): total for total in totals}
    for family, name, about, field in _OF_CAUSES:
        metric = family(f"moonwake_{name}", about, labels=("stream", "cause"))
        for cause in CAUSES:
            total = known.get((STREAM, cause))
            metric.add_metric([STREAM, cause], getattr(total, field) if total else 0)
        yield metric


async def _ack(site: Site) -> Metric:
    level = site.settings.ingest_ack
    try:
        await prove(site.redis, level, site.keys.probe)
    except (AppendRefused, StoreDown):
        is_met = False
    else:
        is_met = True
    about = "1 while Redis keeps what INGEST_ACK promises; else writes are refused."
    metric = GaugeMetricFamily("moonwake_ack_level_met", about, labels=["level"])
    metric.add_metric([level], float(is_met))
    return metric


def _up(store: str, *, up: bool) -> Metric:
    return GaugeMetricFamily(f"moonwake_{store}_up", f"1 while {store} answers.", value=float(up))
