"""What the front's parts share: settings, open connections and the tasks behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from litestar import Request
from redis.asyncio import Redis

from api import queries
from api.background import BackgroundTask
from api.backpressure import Backpressure
from api.gate import Gate
from api.group_commit import GroupCommit
from api.reads import Reads
from api.recent import Recent
from api.requests import RequestFigures
from shared.accounts import admin_config, invitations
from shared.accounts.admin_config import Policy
from shared.accounts.attempts import Attempts
from shared.accounts.bars import Bars
from shared.accounts.invitations import InvitationConfig
from shared.accounts.ledger import Ledger
from shared.accounts.locks import Locks
from shared.accounts.sessions import Sessions
from shared.appends import AppendConnection
from shared.instance import check_ack, check_redis, fix_shard_count
from shared.keys import Keys
from shared.mysql import Cursor, Pool, open_mysql
from shared.redis import open_redis
from shared.settings import Settings
from shared.streams import Append
from shared.witness import Witness

#: What handlers get.
AnyRequest = Request[Any, Any, Any]
T = TypeVar("T")

STREAM = "plays"
CONFIG_TTL_S = 1.0


@dataclass(frozen=True, slots=True)
class Site:
    """One running front."""

    settings: Settings
    keys: Keys
    redis: Redis
    pool: Pool
    gate: Gate
    group_commit: GroupCommit
    backpressure: Backpressure
    reads: Reads
    figures: RequestFigures
    witness: Witness
    ledger: Ledger
    sessions: Sessions
    bars: Bars
    attempts: Attempts
    #: What an invitation gives and a card key costs; a change counts on all fronts in a second.
    invitation_config: Recent[InvitationConfig]
    #: Who may register, and how; read of a document of megabytes.
    policy: Recent[Policy]

    async def append(self, event: Append) -> None:
        """Return once Redis holds *event*. Raises `Closed` or `AppendRefused`."""
        self.backpressure.check_open(event.shard)
        await self.group_commit.append(event)

    async def read(self, query: Callable[[Cursor], Awaitable[T]]) -> T:
        """What *query* reads in MySQL, as `queries.select` does. Raises `StoreDown`."""
        return await queries.select(self.pool, query)


def site_of(request: AnyRequest) -> Site:
    """The running front that *request* came to."""
    site: Site = request.app.state.site
    return site


@asynccontextmanager
async def open_site(settings: Settings) -> AsyncIterator[Site]:
    """Open Redis (MySQL only connects when it is read) and run the background tasks.

    Raises `SettingsError` or `StoreDown`. Ends in reverse: what waits is flushed first.
    """
    keys = Keys(settings.key_prefix)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_redis(settings.redis_url))
        pool = await stack.enter_async_context(open_mysql(settings))
        await check_redis(redis)
        await check_ack(redis, keys, settings.ingest_ack)
        await fix_shard_count(redis, keys, settings.shards)
        figures = RequestFigures()
        sessions, bars = Sessions.of(redis, settings), Bars(redis, keys, pool)
        witness = Witness(settings.shards)
        connection = AppendConnection(redis, keys, STREAM, ack=settings.ingest_ack, witness=witness)
        site = Site(
            settings=settings,
            keys=keys,
            redis=redis,
            pool=pool,
            gate=Gate(settings, bars, sessions),
            group_commit=GroupCommit(connection, figures.record_group),
            witness=witness,
            backpressure=Backpressure(redis, keys, STREAM, settings),
            figures=figures,
            reads=Reads(redis, keys, partial(queries.play_records, pool)),
            ledger=Ledger(pool, Locks(redis, keys, enabled=settings.redis_locks)),
            sessions=sessions,
            bars=bars,
            attempts=Attempts(redis, keys, settings),
            invitation_config=Recent(
                partial(queries.select, pool, invitations.read_config), CONFIG_TTL_S
            ),
            policy=Recent(partial(queries.select, pool, admin_config.read_policy), CONFIG_TTL_S),
        )
        await site.backpressure.look()
        await bars.look()
        await witness.report(redis, keys, STREAM)
        background: list[tuple[str, Coroutine[Any, Any, None]]] = [
            ("backpressure", site.backpressure.run()),
            ("witness", witness.run(redis, keys, STREAM)),
            ("figures", figures.run()),
            ("bars", bars.run()),
        ]
        for name, work in background:
            stack.push_async_callback(BackgroundTask(name, work).stop)
        flusher = BackgroundTask("flusher", site.group_commit.run())
        stack.push_async_callback(_flush, site.group_commit, flusher, settings.stop_timeout_s / 2)
        yield site


async def _flush(group_commit: GroupCommit, flusher: BackgroundTask, grace_s: float) -> None:
    """Send what waits, as far as *grace_s* allows."""
    group_commit.stop()
    await flusher.stop(grace_s=grace_s)
