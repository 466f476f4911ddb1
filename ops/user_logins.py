"""`moonwake users ...`: how a user comes in, and who does not."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ops import accounts, user_view
from ops.accounts import Name, fail, made, spare_owner, told
from shared.accounts import barred, logins, passwords, users
from shared.accounts.ledger import user_lock
from shared.mysql import Cursor, reading
from worker.deps import Deps

#: More than any password: what is read from standard input at most.
_READ_BYTES_MAX = 4_096

Stdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password's line from standard input.")
]


# --- passwords, sessions, identities -----------------------------------------------


def reset_password(name: Name, password_stdin: Stdin = False) -> None:
    """Give a user a new password, and end all their sessions.

    Login cookies of LunaTV go on: they hold no password. To end those too,
    ban the user.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong, or MySQL or Redis
    cannot be used, and nothing is changed.
    """
    password = new_password(name, from_stdin=password_stdin)

    async def work(deps: Deps) -> None:
        if name == deps.settings.username:
            fail(f"{name} is the site's owner, who logs in with PASSWORD of the environment")
        new_hash = await passwords.hashed(password)
        await made(
            deps,
            [user_lock(name)],
            lambda cursor: logins.give_password(cursor, accounts.sessions_of(deps), name, new_hash),
        )

    accounts.run(work)
    typer.echo(f"{name} has a new password; all their sessions ended")


def logout(name: Name) -> None:
    """End all sessions of a user. LunaTV's cookies go on; `ban` keeps those out too.

    Exit codes: 0 done, 1 there is no such user, 2 a setting is wrong, or MySQL
    or Redis cannot be used.
    """

    async def work(deps: Deps) -> int:
        ended = await accounts.sessions_of(deps).end_all(name)
        if not ended:
            async with reading(deps.pool) as cursor:
                await user_view.known(cursor, deps.settings, name)
        return ended

    ended = accounts.run(work)
    typer.echo(f"sessions of {name} ended: {ended}")


def link_oidc(
    name: Name,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="As the login provider calls the user.")
    ],
) -> None:
    """Let a user come in by the login provider.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """
    if not 1 <= len(subject) <= 255:
        raise typer.BadParameter("1 to 255 characters", param_hint="SUBJECT")
    _link(name, subject)
    typer.echo(f"{name} is linked to the login provider's subject")


def unlink_oidc(name: Name) -> None:
    """Let a user come in by the login provider no longer.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """
    _link(name, None)
    typer.echo(f"{name} is linked to no subject")


def _link(name: str, subject: str | None) -> None:
    async def work(deps: Deps) -> None:
        await made(
            deps, [user_lock(name)], lambda cursor: users.link_subject(cursor, name, subject)
        )

    accounts.run(work)


def new_password(name: str, *, from_stdin: bool) -> str:
    """A new password for *name*: typed twice, or the line on standard input."""
    if not from_stdin:
        asked: str = typer.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True)
        return asked
    line = sys.stdin.buffer.read(_READ_BYTES_MAX).removesuffix(b"\n").removesuffix(b"\r")
    try:
        password = line.decode()
    except UnicodeDecodeError:
        password = ""
    if not password or "\n" in password:
        raise typer.BadParameter("one line of UTF-8 is needed", param_hint="--password-stdin")
    return password


# --- bans ---------------------------------------------------------------------


def ban(name: Name) -> None:
    """Keep a user out, whatever cookie or session they have; within seconds everywhere.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """

    async def work(deps: Deps) -> None:
        spare_owner(deps, name)
        await made(
            deps, [user_lock(name)], lambda cursor: users.set_banned(cursor, name, banned=True)
        )
        sessions = accounts.sessions_of(deps)
        await told(accounts.bars_of(deps).bar(name, "banned"), sessions.end_all(name))

    accounts.run(work)
    typer.echo(f"{name} is banned")


def unban(name: Name) -> None:
    """Let a banned user in again; they log in anew.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong, or MySQL or Redis
    cannot be used, and nothing is changed.
    """

    async def work(deps: Deps) -> None:
        if name == deps.settings.username:
            await _ensure_owner(deps, name)
        sessions = accounts.sessions_of(deps)

        async def let_in(cursor: Cursor) -> None:
            if name == deps.settings.username:  # whose name may be that of a deleted user
                await barred.lift(cursor, name)
            await logins.readmit(cursor, sessions, name)

        await made(deps, [user_lock(name)], let_in)
        await told(accounts.bars_of(deps).lift(name))

    accounts.run(work)
    typer.echo(f"{name} may come in")


async def _ensure_owner(deps: Deps, name: str) -> None:
    """The owner's row, who was banned or deleted before USERNAME named them."""
    async with reading(deps.pool) as cursor:
        await users.ensure_owner(cursor, name)
        was_deleted = await barred.reason_of(cursor, name) == "deleted"
    if was_deleted and deps.settings.accept_lunatv_cookie:
        typer.echo(
            f"moonwake: {name} was deleted once: whoever kept their LunaTV cookie is the owner now,"
            " until PASSWORD is changed",
            err=True,
        )
