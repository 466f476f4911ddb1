"""
The worker process: `python -m worker`. The only module that knows arq.

arq hands drain jobs from worker to worker and runs the cron jobs. It exits when
its Redis goes away and cancels jobs when it stops; so it runs in a loop, and the
drains are tasks of this process (protocol 23).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import orjson
import structlog
from arq import Worker, cron
from arq.connections import ArqRedis, RedisSettings
from arq.cron import CronJob
from arq.worker import func
from redis.asyncio import ConnectionPool

import schema
from shared import instance
from shared.errors import MoonwakeError, StoreDown, Transient
from shared.mysql import reading
from shared.redis import redis_errors
from shared.settings import Settings
from worker.deps import Deps, open_deps
from worker.dispatch import SLICE_S, Dispatcher
from worker.jobs.aggregate import aggregate
from worker.jobs.housekeeping import keep_house
from worker.sinks.plays import PlaysSink

if TYPE_CHECKING:
    from arq.typing import WorkerCoroutine

log = structlog.get_logger()

POLL_S = 0.1
_RESTART_S = (0.2, 0.5, 1.0, 2.0)
#: A job waits for its drain for a slice at most. Not long, because arq keeps a killed
#: worker's jobs in its queue until then.
_DRAIN_TIMEOUT_S = SLICE_S + 15
#: Jobs arq looks at per poll: more than workers in a crash loop leave behind, or they
#: would hide the others.
_QUEUE_READ_MAX = 1_000
_CRON_TIMEOUT_S = 240
#: A store that takes connections and says nothing for this long is down.
_CHECK_TIMEOUT_S = 5.0


class WorkerProcess:
    """Everything one worker process runs, from open connections to the last batch."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._settings = deps.settings
        self._queue = deps.keys.arq_queue("drain")
        self._arq: ArqRedis | None = None
        self._stopping = asyncio.Event()
        sinks = [PlaysSink(deps.settings)]
        self._dispatcher = Dispatcher(
            deps, {sink.stream: sink for sink in sinks}, enqueue=self._enqueue
        )
        self._jobs_max = len(sinks) * deps.settings.shards + 2

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop` is called. Raises what a background task died of."""
        dispatching = asyncio.create_task(self._dispatcher.run(), name="dispatcher")
        tasks: list[asyncio.Task[None]] = [
            dispatching,
            asyncio.create_task(self._keep_running(self._drain_worker), name="arq-drain"),
            asyncio.create_task(self._keep_running(self._cron_worker), name="arq-cron"),
        ]
        stopping: asyncio.Task[Any] = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        died = [task for task in tasks if task.done()]
        self._stopping.set()
        # Drains first: arq would cancel the jobs that wait for them.
        await self._dispatcher.stop()
        for task in tasks:
            if task is not dispatching:
                task.cancel()
        await asyncio.wait(tasks)
        for task in died:
            task.result()  # a dead background task is an outage: the process says so

    # --- arq ------------------------------------------------------------------------

    def _drain_worker(self) -> Worker:
        async def drain(_ctx: dict[Any, Any], stream: str, shard: int, lease_id: str) -> None:
            with suppress(StoreDown):  # the lease runs out and another job tries
                await self._dispatcher.drain(stream, shard, lease_id)

        job = func(
            cast("WorkerCoroutine", drain),
            name="drain",
            timeout=_DRAIN_TIMEOUT_S,
            keep_result=0,
            max_tries=1,
        )
        return self._worker(
            self._queue,
            functions=[job],
            max_jobs=self._jobs_max,
            queue_read_limit=_QUEUE_READ_MAX,
        )

    def _cron_worker(self) -> Worker:
        # Every zone's midnight falls on one of these minutes.
        jobs = [
            self._cron("aggregate", lambda: aggregate(self._deps.pool, self._settings), second=5),
            self._cron("housekeeping", lambda: keep_house(self._deps.pool), second=35),
        ]
        return self._worker(self._deps.keys.arq_queue("cron"), cron_jobs=jobs, poll_delay=1.0)

    def _cron(self, name: str, work: Callable[[], Awaitable[object]], *, second: int) -> CronJob:
        """Do *work* every five minutes, in one of the workers."""

        async def run(_ctx: dict[Any, Any]) -> None:
            try:
                await work()
            except (MoonwakeError, TimeoutError) as error:
                log.warning("job_failed", job=name, error=str(error))

        return cron(
            cast("WorkerCoroutine", run),
            # arq's own keys know no prefix: two sites may share a Redis.
            name=f"{self._settings.key_prefix}{name}",
            minute=set(range(0, 60, 5)),
            second=second,
            run_at_startup=True,
            timeout=_CRON_TIMEOUT_S,
            keep_result=0,
            max_tries=1,
        )

    def _worker(self, queue: str, **options: Any) -> Worker:
        return Worker(
            **{"poll_delay": POLL_S, **options},
            queue_name=queue,
            redis_settings=_redis_settings(self._settings.arq_redis_url),
            handle_signals=False,
            retry_jobs=False,
            log_results=False,
            health_check_interval=60,
            keep_result=0,
            job_serializer=_to_json,
            job_deserializer=orjson.loads,
        )

    async def _keep_running(self, build: Callable[[], Worker]) -> None:
        """Run an arq worker, and another one whenever its Redis went away."""
        failures = 0
        while not self._stopping.is_set():
            worker = build()
            try:
                with redis_errors():
                    await worker.async_run()
            except StoreDown as error:
                log.warning("arq_stopped", error=str(error))
            except asyncio.CancelledError:
                if self._stopping.is_set():
                    raise
                log.warning("arq_stopped", error="one of its jobs was cancelled")
            finally:
                await _close(worker)
            await asyncio.sleep(_RESTART_S[min(failures, len(_RESTART_S) - 1)])
            failures += 1

    async def _enqueue(self, stream: str, shard: int, lease_id: str) -> None:
        with redis_errors():
            await self._arq_redis().enqueue_job(
                "drain",
                stream,
                shard,
                lease_id,
                _job_id=f"drain:{stream}:{shard}:{lease_id}",
                _queue_name=self._queue,
            )

    def _arq_redis(self) -> ArqRedis:
        if self._arq is None:
            pool = ConnectionPool.from_url(self._settings.arq_redis_url, socket_timeout=5.0)
            # A job outlives its lease by little: nobody would run it later.
            self._arq = ArqRedis(pool, job_serializer=_to_json, expires_extra_ms=60_000)
        return self._arq

    async def close(self) -> None:
        if self._arq is not None:
            await self._arq.aclose()


async def _close(worker: Worker) -> None:
    """Close an arq worker, whose Redis may be away.

    It cancels its jobs; one that was in its last step makes it end as if we were cancelled.
    """
    closing = asyncio.ensure_future(worker.close())
    await asyncio.wait([closing])
    if not closing.cancelled():
        with suppress(StoreDown), redis_errors():
            closing.result()


def _to_json(job: dict[str, Any]) -> bytes:
    # Of a job that failed arq keeps the exception, if only for a moment.
    return orjson.dumps(job, default=repr)


def _redis_settings(url: str) -> RedisSettings:
    settings = RedisSettings.from_dsn(url)
    settings.conn_retries = 0
    return settings


# --- the process ------------------------------------------------------------------


async def run_worker(settings: Settings) -> None:
    """Start, work until SIGTERM or SIGINT, finish what is in hand.

    Raises `SettingsError` or `SchemaError` where it must not start, and whatever a
    background task died of.
    """
    async with open_deps(settings) as deps:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        if not await _wait_for_stores(deps, stopping):
            return
        worker = WorkerProcess(deps)
        watching = asyncio.create_task(_stop_when(stopping, worker.stop))
        log.info("worker_started", shards=settings.shards)
        try:
            await worker.run()
        finally:
            watching.cancel()
            await worker.close()
        log.info("worker_stopped")


async def _stop_when(event: asyncio.Event, stop: Callable[[], None]) -> None:
    await event.wait()
    stop()


async def _wait_for_stores(deps: Deps, stopping: asyncio.Event) -> bool:
    """Check both stores once they answer; False if told to stop before they did."""
    checks: list[Callable[[Deps], Awaitable[None]]] = [_check_redis, _check_mysql]
    while checks and not stopping.is_set():
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await checks[0](deps)
            checks.pop(0)
        except (StoreDown, Transient, TimeoutError) as error:
            log.warning("waiting_for_store", error=repr(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await stopping.wait()
    return not stopping.is_set()


async def _check_redis(deps: Deps) -> None:
    await instance.check_redis(deps.redis)
    await instance.fix_shard_count(deps.redis, deps.keys, deps.settings.shards)


async def _check_mysql(deps: Deps) -> None:
    async with reading(deps.pool) as cursor:
        await schema.check(cursor)
        await instance.keep_shard_count(cursor, deps.settings.shards)
