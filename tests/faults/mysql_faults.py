"""Faults of MySQL: it ends, is silent, loses connections, refuses, or is what it was before."""

from __future__ import annotations

import asyncio
import time
from signal import SIGKILL, SIGTERM, Signals
from typing import ClassVar

import asyncmy
from asyncmy.cursors import Cursor
from asyncmy.errors import MySQLError, OperationalError

from shared.streams import BEGINNING, EntryId
from tests.faults.fault import Fault, NotInjected, register
from tests.faults.mysql_backup import Backup
from tests.faults.mysql_control import MysqlControl
from tests.faults.mysql_wire import CommitKiller, CommitLoss, Refusal
from tests.faults.redis_losses import refuse_unless
from tests.faults.rewinds import Forgotten
from tests.faults.site import Site
from tests.sessions import waiters
from tests.waiting import until

_DOWN_S = (0.0, 4.0)
_FROZEN_S = (1.0, 8.0)
_WHILE_S = (2.0, 6.0)
_AGE_S = (2.0, 6.0)
_WITHIN_S = 15.0
_READ_ONLY = 1290
_LOCK_WAIT, _DEADLOCK = 1205, 1213
#: Disk full, and a table that cannot grow: what InnoDB says when there is no room.
_DISK_FULL = ((1021, "Disk full (simulated)"), (1114, "The table is full (simulated)"))
#: More than any batch changes: the server's victim is whoever changed less.
_HEAVY_ROWS = 2_000


class _End(Fault):
    """The server ends by a signal and is started again."""

    holds: ClassVar[frozenset[str]] = frozenset({"mysql"})
    number: ClassVar[Signals]

    async def inject(self, site: Site) -> None:
        server = site.mysql.server
        if self.number is SIGKILL:
            server.kill()
        else:
            server.terminate()
            await until(lambda: server.pid is None, "MySQL ends")
        await asyncio.sleep(site.dice.uniform(*_DOWN_S))
        await site.mysql.restart()


@register
class MysqlKill(_End):
    """A crash: it recovers what it had committed."""

    kind: ClassVar[str] = "mysql_kill"
    number: ClassVar[Signals] = SIGKILL


@register
class MysqlRestart(_End):
    """A clean stop and a start, as for an update."""

    kind: ClassVar[str] = "mysql_restart"
    number: ClassVar[Signals] = SIGTERM


@register
class MysqlFreeze(Fault):
    """SIGSTOP: connections stay open and nothing answers."""

    kind: ClassVar[str] = "mysql_freeze"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql"})

    async def inject(self, site: Site) -> None:
        site.mysql.server.pause()
        try:
            await asyncio.sleep(site.dice.uniform(*_FROZEN_S))
        finally:
            site.mysql.server.resume()


@register
class MysqlSessionsKilled(Fault):
    """KILL of sessions at random, in whatever they are doing."""

    kind: ClassVar[str] = "mysql_sessions_killed"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql"})

    async def inject(self, site: Site) -> None:
        killed = 0
        for _ in range(site.dice.randint(2, 8)):
            sessions = await site.mysql.sessions()
            victims = site.dice.sample(sessions, site.dice.randint(0, len(sessions)))
            killed += await site.mysql.kill_sessions(victims)
            await asyncio.sleep(site.dice.uniform(0.0, 0.5))
        if not killed:
            raise NotInjected("nobody was connected to MySQL")


@register
class MysqlCommitLost(Fault):
    """Connections are lost inside COMMIT, before the server gets it or after it did it."""

    kind: ClassVar[str] = "mysql_commit_lost"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql_proxy"})

    async def inject(self, site: Site) -> None:
        loss = site.dice.choice(list(CommitLoss))
        killer = CommitKiller(loss, times=site.dice.randint(1, 6))
        site.mysql.proxy.watch = killer
        try:
            await asyncio.sleep(site.dice.uniform(*_WHILE_S))
        finally:
            site.mysql.proxy.heal()
        site.note(f"{self.kind}: {killer.lost} {loss.value}")
        if not killer.lost:
            raise NotInjected("nobody committed meanwhile")


@register
class MysqlDiskFull(Fault):
    """Whatever would make a table grow is refused, in the middle of transactions too."""

    kind: ClassVar[str] = "mysql_disk_full"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql_proxy"})

    async def inject(self, site: Site) -> None:
        refusal = Refusal(*site.dice.choice(_DISK_FULL), (b"INSERT",))
        site.mysql.proxy.watch = refusal
        try:
            await asyncio.sleep(site.dice.uniform(*_WHILE_S))
        finally:
            site.mysql.proxy.heal()
        if not refusal.refused:
            raise NotInjected("nobody inserted anything meanwhile")


@register
class MysqlReadOnly(Fault):
    """As during a planned switch of primaries: reads go on, writes are refused."""

    kind: ClassVar[str] = "mysql_read_only"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql"})

    async def inject(self, site: Site) -> None:
        async with site.mysql.read_only():
            if not await _refuses_writes(site.mysql):
                raise NotInjected("the site's account may write to a read-only server")
            await asyncio.sleep(site.dice.uniform(*_WHILE_S))


async def _refuses_writes(control: MysqlControl) -> bool:
    """Whether the site's own account, past the proxy, is told that the server is read-only."""
    connection = await asyncmy.connect(
        host="127.0.0.1",
        port=control.server.port,
        user=control.account.user,
        password=control.account.password,
        db=control.account.database,
    )
    cursor: Cursor
    async with connection, connection.cursor() as cursor:
        try:
            await cursor.execute("UPDATE stream_checkpoints SET shard = shard WHERE FALSE")
        except MySQLError as error:
            return bool(error.args[0] == _READ_ONLY)
    return False


@register
class MysqlDeadlock(Fault):
    """A session of ours locks what a batch locks, in the opposite order; the batch loses."""

    kind: ClassVar[str] = "mysql_deadlock"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql"})

    async def inject(self, site: Site) -> None:
        before = await site.mysql.deadlocks()
        for _ in range(site.dice.randint(1, 3)):
            await self._meet(site.mysql)
        forced = await site.mysql.deadlocks() - before
        site.note(f"{self.kind}: {forced} deadlocks")
        if not forced:
            raise NotInjected("no batch met the locks, or the server's victim was ours")

    async def _meet(self, control: MysqlControl) -> None:
        async with control.admin() as cursor:
            await cursor.execute(f"USE {control.account.database}")
            await cursor.execute("SET foreign_key_checks = 0")
            await cursor.execute("BEGIN")
            try:
                await _change_much(cursor)
                await cursor.execute("SELECT * FROM content_stats FOR UPDATE")
                await cursor.fetchall()
                await refuse_unless(
                    lambda: _somebody_waits(cursor), "a batch waits for our locks", _WITHIN_S
                )
                await cursor.execute("SELECT * FROM stream_checkpoints FOR UPDATE")
                await cursor.fetchall()
            except OperationalError as error:
                if error.args[0] not in {_LOCK_WAIT, _DEADLOCK}:  # our own bad luck
                    raise
            finally:
                await cursor.execute("ROLLBACK")


async def _change_much(cursor: Cursor) -> None:
    """Rows of nobody's, never committed."""
    values = ",".join(f"('!','!','{number}',1)" for number in range(_HEAVY_ROWS))
    await cursor.execute(
        f"INSERT INTO content_viewers (username, source, content_id, first_seen_ms) VALUES {values}"
    )


async def _somebody_waits(cursor: Cursor) -> bool:
    return bool(await waiters(cursor))


@register
class MysqlRestored(Fault):
    """An operator puts yesterday's backup back, and Redis has gone on since."""

    kind: ClassVar[str] = "mysql_restored"
    holds: ClassVar[frozenset[str]] = frozenset({"mysql", "mysql_proxy", "rewind"})

    async def inject(self, site: Site) -> None:
        backup = Backup(site.mysql)
        try:
            await backup.take()
        except OperationalError as error:
            raise NotInjected(f"the backup could not be taken: {error}") from error
        since_ms = time.time_ns() // 1_000_000
        saved = await site.mysql.checkpoints()
        await asyncio.sleep(site.dice.uniform(*_AGE_S))

        async def backup_is_old() -> bool:
            return _older(saved, await site.mysql.checkpoints())

        await refuse_unless(backup_is_old, "the drain goes on after the backup", _WITHIN_S)
        with site.doubting_reads():
            await site.mysql.disconnect_clients()
            try:
                counted = await site.mysql.lost()
                await backup.restore()
                site.forgotten += _forgotten(counted, await site.mysql.lost(), since_ms)
            finally:
                site.mysql.proxy.heal()
        site.note(f"{self.kind}: back to {saved}, forgotten so far {site.forgotten}")


def _forgotten(counted: dict[int, int], kept: dict[int, int], since_ms: int) -> list[Forgotten]:
    """The losses that were *counted*, less those whose count a backup *kept*."""
    now_ms = time.time_ns() // 1_000_000
    return [
        Forgotten(shard, lost - kept.get(shard, 0), since_ms, now_ms)
        for shard, lost in counted.items()
        if lost > kept.get(shard, 0)
    ]


def _older(saved: dict[int, EntryId], now: dict[int, EntryId]) -> bool:
    """Whether some shard has been drained further since."""
    return any(position > saved.get(shard, BEGINNING) for shard, position in now.items())
