"""`moonwake resume`: a stopped shard is taken up again, once its cause is mended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from redis.asyncio import Redis

from ops import environment
from ops.workers import STREAMS, workers_of
from shared.errors import SettingsError, StoreDown
from shared.keys import Keys
from shared.redis import open_redis, redis_errors
from shared.settings import Settings
from shared.streams import now_ms_of

_EXIT_UNREADABLE = 2


def resume(
    shards: Annotated[
        list[int] | None, typer.Argument(metavar="SHARD", help="Which shards.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every stopped shard.")] = False,
    stream: Annotated[str, typer.Option(help="Their stream.")] = STREAMS[0],
) -> None:
    """Take stopped shards up again, once the cause that is shown is mended.

    \b
    A shard stops when MySQL refuses much of what is well formed: a column is
    gone, a trigger fails. Its events wait in Redis meanwhile, none is lost.
    Without SHARDS and --all this only shows what is stopped.

    \b
    Exit code: 0 no shard stays stopped, 1 one does because it was not named,
    2 Redis or the settings cannot be read.
    """
    if stream not in STREAMS:
        raise typer.BadParameter(f"there is no stream {stream}, only {', '.join(STREAMS)}")
    try:
        settings = environment.settings()
        _check_named(shards or [], settings)
        left = asyncio.run(_resume(settings, stream, None if every else shards or []))
    except (SettingsError, StoreDown) as fault:
        typer.echo(f"moonwake: {fault}", err=True)
        raise typer.Exit(_EXIT_UNREADABLE) from fault
    raise typer.Exit(1 if left else 0)


def _check_named(shards: Sequence[int], settings: Settings) -> None:
    for shard in shards:
        if not 0 <= shard < settings.shards:
            raise typer.BadParameter(f"shards are 0 to {settings.shards - 1}, not {shard}")


async def _resume(settings: Settings, stream: str, wanted: Sequence[int] | None) -> int:
    """Resume the *wanted* shards (None: all) and say so; how many stay stopped."""
    keys = Keys(settings.key_prefix)
    async with open_redis(settings.redis_url) as redis:
        stopped = await _stopped(redis, keys, stream, settings.shards)
        chosen = list(stopped) if wanted is None else wanted
        for shard in chosen:
            if shard not in stopped:
                typer.echo(f"{stream}:{shard} was not stopped")
        for shard, reason in stopped.items():
            if shard in chosen:
                await _start(redis, keys.stopped(stream, shard))
                typer.echo(f"{stream}:{shard} is resumed; it was stopped: {reason}")
            else:
                typer.echo(f"{stream}:{shard} stays stopped: {reason}")
        if not stopped and not chosen:
            typer.echo(f"no shard of {stream} is stopped")
        elif not await _is_anybody_there(redis, keys):
            typer.echo("no worker lives: start `python -m worker`")
    return len(set(stopped) - set(chosen))


async def _stopped(redis: Redis, keys: Keys, stream: str, shards: int) -> dict[int, str]:
    with redis_errors():
        reasons = await redis.mget([keys.stopped(stream, shard) for shard in range(shards)])
    return {shard: reason.decode() for shard, reason in enumerate(reasons) if reason is not None}


async def _start(redis: Redis, key: str) -> None:
    with redis_errors():
        await redis.delete(key)


async def _is_anybody_there(redis: Redis, keys: Keys) -> bool:
    with redis_errors():
        async with redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(keys.workers)
            time, told = await pipe.execute()
    return any(worker.is_live for worker in workers_of(told, now_ms_of(time)))
