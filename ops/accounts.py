"""
What commands about accounts share: a change made in MySQL, then told to Redis.

A front looks at MySQL every few seconds, so a change counts without Redis too: then the
command warns, and says what goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table

from ops import stores
from shared import events, instance
from shared.accounts import admin_config, card_keys, points, users
from shared.accounts.bars import Bars
from shared.accounts.ledger import Ledger, Operation
from shared.accounts.locks import Locks
from shared.accounts.sessions import Sessions
from shared.appends import AppendConnection
from shared.errors import InvalidField, Refused, Unavailable
from shared.events import USER_MAX, check_name
from shared.keys import CLEAR_FIELD, shard_of
from shared.mysql import Cursor
from shared.streams import Append
from worker.deps import Deps
from worker.sinks.plays import PlaysSink

T = TypeVar("T")

PAGE_SIZE = 50
_REFUSED = 1
#: Refusals are in the words that front ends show; here they are for who runs the site.
_WORDS = {
    users.UNKNOWN: "there is no such user",
    users.TAKEN: "there is a user of this name, or of one that differs by case only",
    users.SUBJECT_TAKEN: "this subject is linked to another user",
    points.DEDUCT_TOO_MUCH: "the user has fewer points than that",
    points.TOO_MANY: "the user would have more points than an account can hold",
    card_keys.UNKNOWN: "there is no such card key",
    admin_config.CHANGED: "the document was changed since this version: look at it again",
    card_keys.BOUND: "the card key is bound, so it cannot be deleted",
}


def _name(text: str) -> str:
    try:
        check_name(text, "name", USER_MAX, "")
        text.encode()
    except (InvalidField, UnicodeEncodeError):
        raise typer.BadParameter(f"{text!a} can be nobody's name") from None
    return text


Name = Annotated[str, typer.Argument(parser=_name, metavar="NAME", help="The user.")]
Page = Annotated[int, typer.Option(min=1, max=1_000_000, help=f"{PAGE_SIZE} lines each.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


# --- making changes ---------------------------------------------------------------


def run(work: Callable[[Deps], Awaitable[T]]) -> T:
    """What *work* returns; ends the command with 1 where it is refused.

    MySQL alone is needed, and 2 is the exit code without it.
    """
    try:
        return stores.run(work, applies=False)
    except InvalidField as error:
        fail(f"{error.field}: allowed is {error.allowed}", error)
    except Refused as error:
        fail(_WORDS.get(str(error), str(error)), error)


def fail(told: str, cause: Exception | None = None) -> NoReturn:
    """Say why the command cannot do it, and end it with 1."""
    typer.echo(f"moonwake: {told}", err=True)
    raise typer.Exit(_REFUSED) from cause


def spare_owner(deps: Deps, name: str) -> None:
    """End the command where *name* is the site's owner."""
    if name == deps.settings.username:
        fail(f"{name} is the site's owner, as USERNAME of the environment says")


async def changed(
    deps: Deps, locks: Sequence[str], work: Callable[[Cursor], Awaitable[T]], result: type[T]
) -> T:
    """What *work* returns, of type *result*, done once. Raises what it raises, or `StoreDown`."""
    ledger = Ledger(deps.pool, Locks(deps.redis, deps.keys, enabled=deps.settings.redis_locks))
    return await ledger.perform(Operation.new(), locks, work, result)


async def made(deps: Deps, locks: Sequence[str], work: Callable[[Cursor], Awaitable[None]]) -> None:
    """The same of what has no result."""
    await changed(deps, locks, work, type(None))


# --- telling Redis ----------------------------------------------------------------


async def told(*tellings: Awaitable[object]) -> bool:
    """Let Redis know of what is done: all of *tellings*, or a warning."""
    # At once: a Redis that does not answer is waited for once.
    ended = await asyncio.gather(*tellings, return_exceptions=True)
    faults: list[str] = []
    for end in ended:
        if isinstance(end, Unavailable):
            faults.append(str(end))
        elif isinstance(end, BaseException):
            raise end
    if faults:
        typer.echo(
            f"moonwake: it is done, but Redis was not told ({faults[0]}); web processes see it in"
            " MySQL within seconds",
            err=True,
        )
    return not faults


def bars_of(deps: Deps) -> Bars:
    return Bars(deps.redis, deps.keys, deps.pool)


def sessions_of(deps: Deps) -> Sessions:
    return Sessions.of(deps.redis, deps.settings)


async def clear_played(deps: Deps, username: str) -> None:
    """Remove what *username* played, also what is cached or on its way to MySQL.

    Raises `Unavailable`, or `SettingsError` where SHARDS is not that of this Redis.
    """
    await instance.fix_shard_count(deps.redis, deps.keys, deps.settings.shards)
    shard = shard_of(username, deps.settings.shards)
    keys = deps.keys.play_records(shard, username)
    clear = Append(shard, keys, b"c", CLEAR_FIELD, events.encode_clear(username))
    connection = AppendConnection(deps.redis, deps.keys, PlaysSink.stream)
    try:
        [[refusal]] = await connection.append([[clear]])
    finally:
        await connection.close()
    if refusal is not None:
        raise refusal


# --- telling people ---------------------------------------------------------------


def print_json(value: Any) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def print_page(
    found: Sequence[T], total: int, page: int, what: str, show: Callable[[Sequence[T]], Table]
) -> None:
    """One page of *what* as a table, and which part of all it is."""
    if found:
        Console().print(show(found))
    typer.echo(told_pages(len(found), total, page, what))


def told_pages(shown: int, total: int, page: int, what: str) -> str:
    """Which part of all this is."""
    if not shown:
        return f"no such {what}" if not total else f"nothing on page {page}, there are {total:,}"
    pages = -(-total // PAGE_SIZE)
    return f"{shown:,} of {total:,} {what}" + (f", page {page} of {pages:,}" if pages > 1 else "")
