"""Both servers, everybody's way to them, and the processes that work on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, cast

from asyncmy.errors import OperationalError
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.errors import ShardStopped, StoreDown
from shared.keys import Keys
from shared.mysql import Pool as MysqlPool
from shared.settings import Settings
from tests.simulation.loop import NOBODY, Crashed, Process, VirtualLoop
from tests.simulation.mysql_client import Pool
from tests.simulation.mysql_server import MysqlServer
from tests.simulation.network import Trace, Wire
from tests.simulation.product import BEGIN_MS
from tests.simulation.promises import Promises
from tests.simulation.redis_client import RedisClient
from tests.simulation.redis_server import RedisServer
from tests.simulation.sink import STREAM, CountingSink
from worker.deps import Deps
from worker.dispatch import Dispatcher
from worker.drain import ShardDrain


@dataclass(slots=True)
class World:
    """Everything there is in one simulation."""

    settings: Settings
    rng: Random
    trace: Trace
    redis: RedisServer = field(init=False)
    redis_wire: Wire = field(init=False)
    mysql: MysqlServer = field(init=False)
    mysql_wire: Wire = field(init=False)
    promises: Promises = field(init=False)
    keys: Keys = field(init=False)
    #: How far the clock of the present Redis server is off.
    clock_off_ms: int = 0
    #: The chance of an error of MySQL's own, per statement.
    trouble: float = 0.0
    processes: list[Process] = field(default_factory=list)
    ending: bool = False

    def __post_init__(self) -> None:
        loop, rng, trace = self.trace.loop, self.rng, self.trace
        self.keys = Keys(self.settings.key_prefix)
        self.redis = RedisServer(self.redis_ms, replid=f"{rng.getrandbits(160):040x}")
        self.redis_wire = Wire(loop, rng, trace, RedisConnectionError)
        self.mysql = MysqlServer(loop)
        self.mysql.trouble = self._trouble
        self.mysql_wire = Wire(loop, rng, trace, lambda how: OperationalError(2013, how))
        self.promises = Promises(self.keys, self.settings.shards, self.redis, self.mysql)

    @property
    def loop(self) -> VirtualLoop:
        return self.trace.loop

    def redis_ms(self) -> int:
        return BEGIN_MS + int(self.loop.time() * 1000) + self.clock_off_ms

    def _trouble(self) -> int:
        if self.rng.random() >= self.trouble:
            return 0
        return self.rng.choice((1205, 1213, 1290))

    # --- processes ------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        process = Process(name)
        self.processes.append(process)
        return process

    def client(self, process: Process) -> Redis:
        return cast("Redis", RedisClient(self.redis, self.redis_wire, process))

    def deps(self, process: Process) -> Deps:
        pool = cast("MysqlPool", Pool(self.mysql, self.mysql_wire, process))
        return Deps(self.settings, self.client(process), pool, self.keys)

    def end_faults(self) -> None:
        """From now on everything works, and everybody goes on."""
        self.redis_wire.faults.end()
        self.mysql_wire.faults.end()
        self.trouble = 0.0
        self.mysql_wire.slowness = 1.0
        for wire in (self.redis_wire, self.mysql_wire):
            wire.down_until_s = wire.frozen_until_s = 0.0

    async def clear_away(self) -> None:
        """Kill what is left, so that the next simulation begins with nothing."""
        for process in self.processes:
            process.kill()
        while left := [task for each in self.processes for task in each.tasks]:
            await asyncio.wait(left)


class Worker:
    """A worker process that dies and is started again by whoever supervises it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.process = world.process(name)
        self._lives = 1

    def start(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        """SIGTERM."""
        raise NotImplementedError

    def kill(self, back_in_s: float) -> None:
        """SIGKILL now, and another one of it in *back_in_s*."""
        self.world.trace.tell(self.process.name, "is killed")
        self.process.kill()
        self.world.loop.call_later(back_in_s, self._come_back, context=NOBODY)

    def _come_back(self) -> None:
        if self.world.ending:
            return
        self._lives += 1
        self.process = self.world.process(f"{self.name}.{self._lives}")
        self.start()

    def stop(self, for_s: float) -> None:
        """SIGSTOP now, and SIGCONT *for_s* later."""
        self.world.trace.tell(self.process.name, f"is stopped for {for_s:.3f} s")
        self.process.stopped_until_s = self.world.loop.time() + for_s


class Rival(Worker):
    """Drains every shard whenever it likes, with no regard for leases: only the fence decides."""

    def start(self) -> None:
        self._drain: ShardDrain | None = None
        self._work = self.process.start(self._run())

    async def _run(self) -> None:
        world = self.world
        deps, sink = world.deps(self.process), CountingSink(world.keys)
        while not world.ending:
            shard = world.rng.randrange(world.settings.shards)
            self._drain = ShardDrain(deps, sink, shard)
            try:
                await self._drain.run(world.rng.choice((0.0, 0.2, 5.0)))
            except StoreDown as error:
                world.trace.tell(self.process.name, repr(error))
            except ShardStopped as error:
                world.promises.breaks(f"shard {shard} is stopped: {error}")
            except Exception as error:
                world.promises.breaks(f"a drain died of {error!r}")
                raise
            await asyncio.sleep(world.rng.choice((0.0, 0.2, 1.0)))

    async def end(self) -> None:
        if self._drain is not None:
            self._drain.stop()
        await asyncio.wait([self._work])


class Jobs:
    """What arq does: a job goes to any worker that lives, and now and then it is lost."""

    def __init__(self, world: World, lost: float) -> None:
        self._world = world
        self._lost = lost
        self.workers: list[Dispatched] = []

    def enqueue_from(self, process: Process) -> Callable[[str, int, str], Awaitable[None]]:
        wire, world = self._world.redis_wire, self._world

        async def enqueue(stream: str, shard: int, lease_id: str) -> None:
            def take() -> None:
                delay_s = wire.delay_s()
                world.loop.call_later(
                    delay_s, self._hand_out, stream, shard, lease_id, context=NOBODY
                )

            try:
                await wire.ask(process, ("enqueue", (stream, shard, lease_id)), take)
            except RedisConnectionError as error:
                raise StoreDown(str(error)) from error

        return enqueue

    def _hand_out(self, *job: Any) -> None:
        now_s, rng = self._world.loop.time(), self._world.rng
        running = [
            worker
            for worker in self.workers
            if worker.process.alive and worker.process.stopped_until_s <= now_s
        ]
        if running and rng.random() >= self._lost:
            rng.choice(running).take(*job)


class Dispatched(Worker):
    """A worker as it is: its dispatcher, and the jobs that it is given."""

    def __init__(self, world: World, name: str, jobs: Jobs) -> None:
        super().__init__(world, name)
        self._jobs = jobs
        jobs.workers.append(self)

    def start(self) -> None:
        deps, sink = self.world.deps(self.process), CountingSink(self.world.keys)
        self._dispatcher = Dispatcher(
            deps,
            {STREAM: sink},
            enqueue=self._jobs.enqueue_from(self.process),
            worker_id=self.process.name,
            _started_s=BEGIN_MS / 1000,
        )
        self._work = self.process.start(self._watched())

    async def _watched(self) -> None:
        try:
            await self._dispatcher.run()
        except Exception as error:
            self.world.promises.breaks(f"a dispatcher died of {error!r}")
            raise

    def take(self, stream: str, shard: int, lease_id: str) -> None:
        self.process.start(self._job(stream, shard, lease_id))

    async def _job(self, stream: str, shard: int, lease_id: str) -> None:
        try:
            await self._dispatcher.drain(stream, shard, lease_id)
        except StoreDown as error:
            self.world.trace.tell(self.process.name, repr(error))

    async def end(self) -> None:
        await asyncio.wait([self.process.start(self._dispatcher.stop()), self._work])


def with_settings(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, **changes)


__all__ = ["Crashed", "Dispatched", "Jobs", "Rival", "Worker", "World", "with_settings"]
