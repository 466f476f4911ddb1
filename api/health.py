"""Probes: is this process alive, can it take writes, are both stores there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
from litestar import Response, get
from redis.exceptions import RedisError

from api.described import Described
from api.errors import NO_STORE, Answer, response_of
from api.site import AnyRequest, Site, site_of
from shared.durability import prove
from shared.errors import AckUnmet, StoreDown, Transient
from shared.mysql import MySQLError, reading

PROBE_TIMEOUT_S = 2.0


class Probe(msgspec.Struct, omit_defaults=True):
    """ok, closed or down, and why."""

    status: str
    reason: str = ""


class Service(msgspec.Struct):
    """One store; *latency* in milliseconds."""

    status: str
    connected: bool
    latency: float | None


class Services(msgspec.Struct):
    mysql: Service
    redis: Service


class Health(msgspec.Struct):
    """ok or degraded, at *timestamp* (ISO, UTC)."""

    status: str
    timestamp: str
    storage: str
    services: Services


@get("/livez", status_code=200)
async def live() -> Response[bytes]:
    """The process answers. A flusher that died takes the process with it."""
    return _answer(200, Probe("ok"))


@get("/readyz", status_code=200)
async def ready(request: AnyRequest) -> Response[bytes]:
    """Redis takes writes as safely as INGEST_ACK promises, and no shard is above its mark.

    Proxies probe this: a front whose every write is a 503 is none to send players to.
    """
    site = site_of(request)
    if any(site.backpressure.closed):
        return _answer(503, Probe("closed", "a shard is above its high-water mark"))
    if await _latency_ms(lambda: _write(site)) is None:
        return _answer(503, Probe("down", "Redis takes no writes"))
    if unmet := await _unmet(site):
        return _answer(503, Probe("down", unmet))
    return _answer(200, Probe("ok"))


@get("/api/health", status_code=200)
async def health(request: AnyRequest) -> Response[bytes]:
    """Both stores; degraded (503) while one of them is away, though writes may go on."""
    site = site_of(request)
    mysql, redis, unmet = await asyncio.gather(
        _latency_ms(lambda: _select(site)), _latency_ms(lambda: _write(site)), _unmet(site)
    )
    degraded = mysql is None or redis is None or bool(unmet)
    return _answer(
        503 if degraded else 200,
        Health(
            status="degraded" if degraded else "ok",
            timestamp=datetime.now(UTC).isoformat(timespec="milliseconds"),
            storage=site.settings.storage_type,
            services=Services(_service(mysql), _service(redis, unmet)),
        ),
    )


async def _write(site: Site) -> None:
    # Only a write tells of a full memory, a replica or a failed save.
    await site.redis.set(site.keys.probe, 1, px=60_000)


async def _unmet(site: Site) -> str:
    """Why INGEST_ACK is not kept now; empty if it is."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await prove(site.redis, site.settings.ingest_ack, site.keys.probe)
    except AckUnmet as unmet:
        return str(unmet)
    except (StoreDown, TimeoutError):
        return "Redis takes no writes"
    return ""


async def _select(site: Site) -> None:
    async with reading(site.pool) as cursor:
        await cursor.execute("SELECT 1")
        await cursor.fetchall()


async def _latency_ms(probe: Callable[[], Awaitable[None]]) -> float | None:
    """How long *probe* took; None if it failed or took too long."""
    started_s = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe()
    except (RedisError, MySQLError, Transient, OSError, TimeoutError):
        return None
    return round((time.perf_counter() - started_s) * 1000, 2)


def _service(latency_ms: float | None, unmet: str = "") -> Service:
    if latency_ms is None:
        return Service("down", connected=False, latency=None)
    return Service("degraded" if unmet else "ok", connected=True, latency=latency_ms)


def _answer(status: int, body: Probe | Health) -> Response[bytes]:
    return response_of(Answer(status, msgspec.json.encode(body), headers=[NO_STORE]))


ROUTES = (health, live, ready)
_TAG = "probes"
DESCRIBED = {
    ("/api/health", "get"): Described(_TAG, Health, tells_why=True),
    ("/livez", "get"): Described(_TAG, Probe),
    ("/readyz", "get"): Described(_TAG, Probe, tells_why=True),
}
