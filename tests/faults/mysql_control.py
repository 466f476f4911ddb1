"""MySQL under a test's control: a server, the one address clients know, and a way past it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncmy.cursors import Cursor
from asyncmy.errors import OperationalError

from ops.mysql_server import Account, MysqlServer
from shared.streams import EntryId
from tests.databases import NO_SUCH_SESSION, admin
from tests.faults.mysql_wire import packets
from tests.faults.tcp_proxy import TcpProxy, running_proxy
from tests.plays import STREAM, select
from tests.servers import running_mysql
from tests.waiting import until

#: Who the site logs in as: like an operator's account, it may nothing beyond its database,
#: so that a read-only server refuses its writes.
ACCOUNT = Account(user="site", password="site-secret", database="site")


@dataclass(slots=True)
class MysqlControl:
    """`proxy` leads to `server`; the site's processes know only the proxy's port."""

    server: MysqlServer
    proxy: TcpProxy
    account: Account = ACCOUNT

    def admin(self) -> AbstractAsyncContextManager[Cursor]:
        """A cursor past the proxy that may do anything; each statement commits."""
        return admin(self.server)

    async def restart(self) -> None:
        """Start the server that was killed or stopped; returns when it answers."""
        self.server.launch()
        await until(self.server.answers, "MySQL answers")

    async def checkpoints(self) -> dict[int, EntryId]:
        """shard -> its committed checkpoint."""
        async with self.admin() as cursor:
            found = await select(
                cursor,
                "SELECT shard, last_ms, last_seq FROM"
                f" {self.account.database}.stream_checkpoints WHERE stream = %s",
                STREAM,
            )
        return {shard: EntryId(ms, seq) for shard, ms, seq in found}

    async def lost(self) -> dict[int, int]:
        """shard -> entries that its incidents count as lost."""
        async with self.admin() as cursor:
            found = await select(
                cursor,
                f"SELECT shard, lost FROM {self.account.database}.stream_checkpoints"
                " WHERE stream = %s",
                STREAM,
            )
        return dict(found)

    async def sessions(self) -> list[int]:
        """The server's ids of the sessions that came through the proxy."""
        return await self._sessions_from(self.proxy.source_ports)

    async def kill_sessions(self, sessions: list[int]) -> int:
        """KILL each, whatever it is doing; how many of them were still there."""
        killed = 0
        async with self.admin() as cursor:
            for session in sessions:
                try:
                    await cursor.execute(f"KILL {session}")
                    killed += 1
                except OperationalError as error:
                    if error.args[0] != NO_SUCH_SESSION:
                        raise
        return killed

    async def disconnect_clients(self) -> None:
        """Return when nobody behind the proxy can reach the server, or commits still."""
        ports = self.proxy.source_ports
        self.proxy.refusing = True
        sessions = await self._sessions_from(ports)
        self.proxy.drop_all()
        await self.kill_sessions(sessions)

        async def none_is_left() -> bool:
            return not await self._sessions_from(ports)

        await until(none_is_left, "MySQL has ended the site's sessions", timeout_s=20)

    async def deadlocks(self) -> int:
        """How many the server has resolved since it started."""
        async with self.admin() as cursor:
            [(count,)] = await select(
                cursor,
                "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'",
            )
        return int(count)

    @asynccontextmanager
    async def read_only(self) -> AsyncIterator[None]:
        """Inside this block the server refuses every write but an administrator's."""
        async with self.admin() as cursor:
            await cursor.execute("SET GLOBAL read_only = 1")
        try:
            yield
        finally:
            async with self.admin() as cursor:
                await cursor.execute("SET GLOBAL read_only = 0")

    async def _sessions_from(self, ports: set[int]) -> list[int]:
        async with self.admin() as cursor:
            found = await select(cursor, "SHOW PROCESSLIST")
        return [row[0] for row in found if _port_of(row[2]) in ports]


def _port_of(host: str) -> int:
    """The port in SHOW PROCESSLIST's host; 0 for a session that has none."""
    port = host.rpartition(":")[2]
    return int(port) if port.isdigit() else 0


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[MysqlControl]:
    """A server of its own under control, killed at the end."""
    with running_mysql(folder / "mysql") as server:
        async with controlled(server) as control:
            yield control


@asynccontextmanager
async def controlled(server: MysqlServer) -> AsyncIterator[MysqlControl]:
    """*server* with an empty database of the account's, behind a proxy."""
    async with admin(server) as cursor:
        await cursor.execute(f"CREATE DATABASE {ACCOUNT.database} CHARACTER SET utf8mb4")
        await cursor.execute(f"CREATE USER {ACCOUNT.user} IDENTIFIED BY '{ACCOUNT.password}'")
        await cursor.execute(f"GRANT ALL ON {ACCOUNT.database}.* TO {ACCOUNT.user}")
    async with running_proxy(server.port, packets) as proxy:
        yield MysqlControl(server, proxy)
