"""Redis and MySQL, open for a command, and the exit status where they are of no use to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer

import schema
from ops import environment
from shared import instance
from shared.errors import SchemaError, SettingsError, Transient, Unavailable
from shared.mysql import MySQLError, error_text, reading
from worker.deps import Deps, open_deps

T = TypeVar("T")

#: Exit status: a setting is wrong, or a store cannot be used.
UNUSABLE = 2


def run(work: Callable[[Deps], Awaitable[T]], *, applies: bool = True) -> T:
    """What *work* returns, on stores that are fit for it.

    One that *applies* something needs both stores and their shard count, another one MySQL
    alone. The sessions are those of drains: a command suspended in a transaction must not
    hold a shard for hours. Ends the command with status 2 where a setting or a store is of
    no use.
    """

    async def with_stores() -> T:
        settings = environment.settings()
        async with open_deps(settings) as deps:
            async with reading(deps.pool) as cursor:
                await schema.check(cursor)
                if applies:
                    await instance.fix_shard_count(deps.redis, deps.keys, settings.shards)
                    await instance.keep_shard_count(cursor, settings.shards)
            return await work(deps)

    try:
        return asyncio.run(with_stores())
    except (SettingsError, SchemaError, Unavailable, Transient, MySQLError) as error:
        typer.echo(f"moonwake: {error_text(error)}", err=True)
        raise typer.Exit(UNUSABLE) from error
