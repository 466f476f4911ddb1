"""What makes the stores lose what they held: each is prepared at one moment and strikes later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.sink import STREAM
from tests.simulation.world import World

DISASTERS = (
    "a stranger trims",
    "flushall",
    "a stream is deleted",
    "failover",
    "failover, clock behind",
    "mysql restored",
)
_DOWN_S = (0.0, 0.01, 0.3)
_CLOCKS_BEHIND_MS = (50, 1_000, 30_000)


class Disasters:
    """The disasters of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        #: How often the data of Redis was changed behind a replica's back.
        self._breaks = 0

    def named(self, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """(what happens first, what happens then) in the disaster *name*."""
        if name == "mysql restored":
            return self._of_a_backup()
        if name.startswith("failover"):
            return self._failover(behind="behind" in name)
        at_once = {
            "a stranger trims": self._trim,
            "flushall": self._flush,
            "a stream is deleted": self._delete,
        }
        return (lambda: None), at_once[name]

    def restart_redis(self) -> None:
        """Its data is on disk; the replication id is a new one."""
        self._world.trace.tell("redis", "restarts")
        self._redis_went_back()
        self._world.redis.replid = self._new_replid()
        self._world.redis_wire.restart(self._rng.choice(_DOWN_S))

    def restart_mysql(self) -> None:
        self._world.trace.tell("mysql", "restarts")
        self._world.mysql_wire.restart(self._rng.choice(_DOWN_S))
        self._world.mysql.restart()

    # --- Redis ------------------------------------------------------------------------------

    def _trim(self) -> None:
        stream = self._stream()
        left = self._rng.randrange(4)
        self._breaks += 1
        watch, self._world.redis.watch = self._world.redis.watch, lambda *_: None
        gone = self._world.redis.xtrim(stream, maxlen=left, approximate=False)
        self._world.redis.watch = watch
        self._world.trace.tell("stranger", f"trims {gone} of {stream}")

    def _flush(self) -> None:
        self._world.trace.tell("stranger", "FLUSHALL")
        self._redis_went_back()
        self._world.redis.flushall()

    def _delete(self) -> None:
        stream = self._stream()
        self._world.trace.tell("stranger", f"DEL {stream}")
        self._breaks += 1
        self._world.redis.delete(stream)

    def _failover(self, *, behind: bool) -> tuple[Callable[[], None], Callable[[], None]]:
        """A replica takes over that has what the master had a moment ago."""
        world, replica = self._world, list[Any]()

        def copy() -> None:
            world.trace.tell("replica", "gets nothing any more")
            replica.extend((self._breaks, world.redis.snapshot()))

        def take_over() -> None:
            if behind:
                world.clock_off_ms -= self._rng.choice(_CLOCKS_BEHIND_MS)
            breaks, snapshot = replica
            # What another disaster took away does not come back: the replica synchronized.
            world.redis.become(
                snapshot if breaks == self._breaks else world.redis.snapshot(), self._new_replid()
            )
            self._redis_went_back()
            world.redis_wire.restart(self._rng.choice(_DOWN_S))
            world.trace.tell("replica", f"takes over, {world.clock_off_ms} ms")

        return copy, take_over

    def _redis_went_back(self) -> None:
        self._breaks += 1
        self._world.promises.redis_went_back()

    def _new_replid(self) -> str:
        return f"{self._rng.getrandbits(160):040x}"

    def _stream(self) -> str:
        shard = self._rng.randrange(self._world.settings.shards)
        return self._world.keys.stream(STREAM, shard)

    # --- MySQL ------------------------------------------------------------------------------

    def _of_a_backup(self) -> tuple[Callable[[], None], Callable[[], None]]:
        world, backups = self._world, list[Any]()

        def back_up() -> None:
            world.trace.tell("mysql", "is backed up")
            backups.append(world.mysql.backup())

        def restore() -> None:
            world.trace.tell("mysql", "is restored")
            world.mysql_wire.restart(self._rng.choice(_DOWN_S))
            world.mysql.restart()
            world.mysql.restore(backups.pop())
            world.promises.restored()

        return back_up, restore
