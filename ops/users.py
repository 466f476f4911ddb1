"""`moonwake users`: who may log in, and as what."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated, Literal

import typer

from ops import accounts, user_view
from ops.accounts import AsJson, Name, Page, Yes, changed, fail, made, told
from shared import instance
from shared.accounts import barred, logins, passwords, registration, users
from shared.accounts.ledger import user_lock
from shared.accounts.registration import Created
from shared.accounts.users import NewUser
from shared.errors import Unavailable
from shared.mysql import Cursor, reading
from shared.times import now_ms
from worker.deps import Deps

users_app = typer.Typer(
    no_args_is_help=True, help="Users: list, add, ban, delete; passwords, roles, logins."
)

#: More than any password: what is read from standard input at most.
_READ_BYTES_MAX = 4_096

_Given = Literal["user", "admin"]
_Stdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password's line from standard input.")
]


# --- looking ------------------------------------------------------------------


@users_app.command("list")
def list_users(page: Page = 1, as_json: AsJson = False) -> None:
    """List all users by name. Exit code 2: MySQL cannot be used."""

    async def work(deps: Deps) -> tuple[list[users.User], int]:
        async with reading(deps.pool) as cursor:
            return await users.listed(cursor, page, accounts.PAGE_SIZE)

    found, total = accounts.run(work)
    if as_json:
        shown = [user_view.as_object(user) for user in found]
        accounts.print_json({"count": total, "page": page, "users": shown})
        return
    accounts.print_page(found, total, page, "users", user_view.table)


@users_app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one user: role, login, points, membership, keys.

    Exit codes: 1 there is none, 2 MySQL cannot be used.
    """
    found = accounts.run(lambda deps: user_view.look_up(deps, name))
    if as_json:
        accounts.print_json(user_view.portrait_object(found))
    else:
        typer.echo(user_view.portrait(found))


# --- logins -------------------------------------------------------------------


@users_app.command()
def add(
    name: Name,
    role: Annotated[_Given, typer.Option(help="What they may do.")] = "user",
    password_stdin: _Stdin = False,
    reuse_name: Annotated[
        bool, typer.Option("--reuse-name", help="Also the name of a deleted user: see above.")
    ] = False,
) -> None:
    """Create a user; the password is asked for, or comes from standard input.

    The first admin: moonwake users add NAME --role admin. The owner is whom
    USERNAME names, and needs no row.

    The name of a deleted user is refused while LunaTV's cookies count as logins
    (ACCEPT_LUNATV_COOKIE): whoever kept that user's cookie would be the new one.
    With --reuse-name it is taken; only after PASSWORD was changed is that safe.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong, or MySQL cannot be used,
    or with --reuse-name Redis.
    """
    password = _password(name, from_stdin=password_stdin)

    async def work(deps: Deps) -> bool:
        await _check_new_name(deps, name)
        new = NewUser(
            username=name,
            password_hash=await passwords.hashed(password),
            role=role,
            after_former=await _prepare_name(deps, name, reuse=reuse_name),
        )
        now = now_ms()
        await changed(
            deps,
            [user_lock(name)],
            lambda cursor: registration.create_user(cursor, new, now),
            Created,
        )
        if new.after_former:
            await told(accounts.bars_of(deps).lift(name))
        return new.after_former

    reused = accounts.run(work)
    typer.echo(f"{name} is there now, as {role}" + (", in seconds everywhere" if reused else ""))


@users_app.command()
def reset_password(name: Name, password_stdin: _Stdin = False) -> None:
    """Give a user a new password, and end all their sessions.

    Login cookies of LunaTV go on: they hold no password. To end those too,
    ban the user.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong, or MySQL or Redis
    cannot be used, and nothing is changed.
    """
    password = _password(name, from_stdin=password_stdin)

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


@users_app.command()
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


@users_app.command()
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


@users_app.command()
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


def _password(name: str, *, from_stdin: bool) -> str:
    """A new password: typed twice, or the line on standard input."""
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


async def _prepare_name(deps: Deps, name: str, *, reuse: bool) -> bool:
    """Leave nothing of a deleted user to who takes their name; was there one?"""
    async with reading(deps.pool) as cursor:
        if await barred.reason_of(cursor, name) != "deleted":
            return False
    if deps.settings.accept_lunatv_cookie and not reuse:
        fail(
            f"{name} was deleted, and whoever kept their LunaTV cookie would be the new user"
            " (ACCEPT_LUNATV_COOKIE is true here): take another name, or see --reuse-name in"
            " moonwake users add --help"
        )
    await accounts.sessions_of(deps).end_all(name)
    await accounts.clear_played(deps, name)
    return True


async def _check_new_name(deps: Deps, name: str) -> None:
    users.check_new_name(name)
    if name.lower() == deps.settings.username.lower():
        fail(f"{name} is the site's owner, who logs in with PASSWORD of the environment")
    async with reading(deps.pool) as cursor:
        found = await users.find(cursor, name)
    if found is not None and found.password_hash == users.NO_PASSWORD:
        fail(
            f"{name} is there already, without a password: moonwake users reset-password {name}"
            f" gives one, moonwake users role {name} admin the role"
        )


# --- what they may ------------------------------------------------------------


@users_app.command()
def role(
    name: Name, new: Annotated[_Given, typer.Argument(metavar="user|admin", help="The role.")]
) -> None:
    """Make a user an admin, or one like others.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """

    async def work(deps: Deps) -> None:
        _spare_owner(deps, name)
        await made(deps, [user_lock(name)], lambda cursor: users.set_role(cursor, name, new))

    accounts.run(work)
    typer.echo(f"{name} is {new} now")


@users_app.command()
def ban(name: Name) -> None:
    """Keep a user out, whatever cookie or session they have; within seconds everywhere.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """

    async def work(deps: Deps) -> None:
        _spare_owner(deps, name)
        await made(
            deps, [user_lock(name)], lambda cursor: users.set_banned(cursor, name, banned=True)
        )
        sessions = accounts.sessions_of(deps)
        await told(accounts.bars_of(deps).bar(name, "banned"), sessions.end_all(name))

    accounts.run(work)
    typer.echo(f"{name} is banned")


@users_app.command()
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


@users_app.command()
def delete(name: Name, yes: Yes = False) -> None:
    """Remove a user and all that is theirs: plays, points, keys. For good.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """
    if not yes:
        typer.confirm(f"{name}'s plays, points and keys are gone then. Delete {name}?", abort=True)

    async def work(deps: Deps) -> None:
        _spare_owner(deps, name)
        with suppress(Unavailable):  # afterwards it would be too late to find SHARDS wrong
            await instance.fix_shard_count(deps.redis, deps.keys, deps.settings.shards)
        await made(deps, [user_lock(name)], lambda cursor: users.delete(cursor, name))
        bars, sessions = accounts.bars_of(deps), accounts.sessions_of(deps)
        await told(
            bars.bar(name, "deleted"), sessions.end_all(name), accounts.clear_played(deps, name)
        )

    accounts.run(work)
    typer.echo(f"{name} is deleted")


def _spare_owner(deps: Deps, name: str) -> None:
    if name == deps.settings.username:
        fail(f"{name} is the site's owner, as USERNAME of the environment says")
