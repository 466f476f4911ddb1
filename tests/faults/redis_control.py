"""Redis under a test's control: a master, its replica, and the one address clients know."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any

from redis.asyncio import Redis

from ops.redis_server import RedisServer
from shared.errors import StoreDown
from shared.keys import Keys
from shared.redis import open_redis, redis_errors
from shared.streams import StreamInfo, now_ms_of, stream_info
from tests.faults.fake_clock import FakeClock, find_faketime
from tests.faults.tcp_proxy import TcpProxy
from tests.plays import STREAM
from tests.waiting import until


class Node:
    """One Redis, with a clock of its own where libfaketime is installed.

    What it acknowledged is on disk (`appendfsync always`), so a SIGKILL loses nothing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = find_faketime()
        self.clock = FakeClock(library, folder / "clock") if library else None
        self.server = RedisServer(
            folder,
            appendfsync="always",
            death_signal=SIGKILL,
            environ=self.clock.environ() if self.clock else None,
        )

    async def start(self) -> None:
        """Launch it and wait until it answers."""
        self.server.launch()
        await until(self.server.answers, f"Redis in {self.server.directory.name} answers")

    async def end(self, number: Signals = SIGKILL) -> None:
        """End it as a crash (SIGKILL) or an operator (SIGTERM) does; returns when it is gone."""
        if (pid := self.server.pid) is None:
            return
        if number is SIGKILL:
            self.server.kill()
        else:
            self.server.terminate()
            await until(lambda: self.server.pid is None, "Redis ends")
        if self.clock is not None:
            self.clock.forget(pid)

    def client(self) -> Redis:
        """A client of this very server, past every proxy. Its caller closes it."""
        return open_redis(self.server.url)

    async def command(self, *words: Any) -> Any:
        """One command to this very server; raises `StoreDown`."""
        with redis_errors():
            async with self.client() as redis, redis.pipeline(transaction=False) as pipe:
                pipe.execute_command(*words)
                [reply] = await pipe.execute()
                return reply

    async def streams(self, keys: Keys, shards: int) -> list[StreamInfo]:
        """What it says of each shard's stream, all at one moment."""
        with redis_errors():
            async with self.client() as redis, redis.pipeline(transaction=True) as pipe:
                for shard in range(shards):
                    pipe.xinfo_stream(keys.stream(STREAM, shard))
                return [stream_info(reply) for reply in await pipe.execute(raise_on_error=False)]

    async def replication(self) -> dict[str, Any]:
        """INFO replication."""
        about: dict[str, Any] = await self.command("INFO", "replication")
        return about

    async def ahead_ms(self) -> int:
        """How far its clock is ahead of the machine's."""
        return now_ms_of(await self.command("TIME")) - round(time.time() * 1000)

    def lose_tail(self, size: int) -> int:
        """Cut *size* bytes off the append-only file of a server that is down.

        What was acknowledged last is gone, as after a power cut with `appendfsync no`.
        Returns the bytes that are left in that file.
        """
        files = (self.server.data / "appendonlydir").glob("*.incr.aof")
        newest = max(files, key=lambda file: int(file.name.split(".")[-3]))
        left = max(newest.stat().st_size - size, 0)
        with newest.open("r+b") as file:
            file.truncate(left)
        return left


class RedisControl:
    """`proxy` leads to `master`; `replica` follows it through `replication`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes = 0
        self.master = self._new_node()
        self.replica = self._new_node()
        self.proxy = TcpProxy(0)
        #: The way from the master to its replica.
        self.replication = TcpProxy(0)

    @property
    def url(self) -> str:
        """For REDIS_URL: the proxy's address."""
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    def direct(self) -> Redis:
        """A client of the present master, past the proxy. Its caller closes it."""
        return self.master.client()

    async def start(self) -> None:
        """Both servers and both proxies; returns when the replica follows."""
        await self.master.start()
        self.proxy.target_port = self.master.server.port
        await self.proxy.start()
        await self.replication.start()
        await self._follow(self.replica)

    async def close(self) -> None:
        """Kill both; their data goes away with the folder."""
        for node in (self.master, self.replica):
            await node.end()
        await self.proxy.close()
        await self.replication.close()

    async def restart_master(self, *, lose_bytes: int = 0) -> None:
        """SIGKILL and a start from the append-only file, of which *lose_bytes* were cut off."""
        await self.master.end()
        if lose_bytes:
            self.master.lose_tail(lose_bytes)
        await self.master.start()

    # --- a failover, in its steps --------------------------------------------------------

    def cut_replication(self) -> None:
        """From now on the replica hears of nothing; the master goes on."""
        self.replication.refusing = True
        self.replication.drop_all()

    async def in_step(self) -> bool:
        """Whether the replica has everything the master had at this moment."""
        try:
            ours = await self.master.replication()
            theirs = await self.replica.replication()
        except StoreDown:
            return False
        return bool(
            theirs.get("master_link_status") == "up"
            and theirs["slave_repl_offset"] >= ours["master_repl_offset"]
        )

    async def until_in_step(self) -> None:
        """Return when the replica is `in_step`."""
        await until(self.in_step, "the replica is in step with its master")

    async def disconnect_clients(self) -> None:
        """Return when nobody behind the proxy can reach the master any more."""
        ports = self.proxy.source_ports
        self.proxy.refusing = True
        self.proxy.drop_all()

        async def none_is_left() -> bool:
            async with self.direct() as redis:
                clients = await redis.client_list()
            return not ports & {int(client["addr"].rpartition(":")[2]) for client in clients}

        # What the proxy had passed on is done when the server has noticed their end.
        await until(none_is_left, "the master has no clients behind the proxy")

    async def promote_replica(self) -> None:
        """The master dies, its replica takes its place, and clients find it there."""
        await self.master.end()
        shutil.rmtree(self.master.server.data)
        await self.replica.command("REPLICAOF", "NO", "ONE")
        self.master, self.replica = self.replica, self._new_node()
        self.proxy.target_port = self.master.server.port
        self.proxy.drop_all()

    async def replace_replica(self) -> None:
        """A fresh replica of the present master; returns when it follows."""
        self.replication.heal()
        await self._follow(self.replica)

    async def _follow(self, node: Node) -> None:
        self.replication.target_port = self.master.server.port
        # By default the master waits five seconds for more replicas to come.
        await self.master.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        if node.server.pid is None:
            await node.start()
        await node.command("REPLICAOF", "127.0.0.1", self.replication.port)
        await self.until_in_step()

    def _new_node(self) -> Node:
        self._nodes += 1
        return Node(self._folder / f"redis-{self._nodes}")


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[RedisControl]:
    """A pair that is in step, behind its proxy; killed at the end."""
    control = RedisControl(folder)
    try:
        await control.start()
        yield control
    finally:
        await control.close()
