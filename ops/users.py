"""`moonwake users`: who there is, and what they may."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

import typer

from ops import accounts, user_logins, user_view
from ops.accounts import AsJson, Name, Page, Yes, changed, fail, made, spare_owner, told
from ops.user_logins import Stdin, new_password
from shared import instance
from shared.accounts import barred, passwords, registration, users
from shared.accounts.ledger import user_lock
from shared.accounts.registration import Created
from shared.accounts.users import NewUser
from shared.errors import Unavailable
from shared.mysql import reading
from shared.times import now_ms
from worker.deps import Deps

users_app = typer.Typer(
    no_args_is_help=True, help="Users: list, add, ban, delete; passwords, roles, logins."
)

#: Roles that are given; the owner's is the environment's.
_Given = Literal["user", "admin"]

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


# --- who comes -------------------------------------------------------------------


@users_app.command()
def add(
    name: Name,
    role: Annotated[_Given, typer.Option(help="What they may do.")] = "user",
    password_stdin: Stdin = False,
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
    password = new_password(name, from_stdin=password_stdin)

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


for _command in (
    user_logins.reset_password,
    user_logins.logout,
    user_logins.link_oidc,
    user_logins.unlink_oidc,
    user_logins.ban,
    user_logins.unban,
):
    users_app.command()(_command)


# --- what they may ------------------------------------------------------------


@users_app.command()
def role(
    name: Name, new: Annotated[_Given, typer.Argument(metavar="user|admin", help="The role.")]
) -> None:
    """Make a user an admin, or one like others.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """

    async def work(deps: Deps) -> None:
        spare_owner(deps, name)
        await made(deps, [user_lock(name)], lambda cursor: users.set_role(cursor, name, new))

    accounts.run(work)
    typer.echo(f"{name} is {new} now")


@users_app.command()
def delete(name: Name, yes: Yes = False) -> None:
    """Remove a user and all that is theirs: plays, points, keys. For good.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """
    if not yes:
        typer.confirm(f"{name}'s plays, points and keys are gone then. Delete {name}?", abort=True)

    async def work(deps: Deps) -> None:
        spare_owner(deps, name)
        with suppress(Unavailable):  # afterwards it would be too late to find SHARDS wrong
            await instance.fix_shard_count(deps.redis, deps.keys, deps.settings.shards)
        await made(deps, [user_lock(name)], lambda cursor: users.delete(cursor, name))
        bars, sessions = accounts.bars_of(deps), accounts.sessions_of(deps)
        await told(
            bars.bar(name, "deleted"), sessions.end_all(name), accounts.clear_played(deps, name)
        )

    accounts.run(work)
    typer.echo(f"{name} is deleted")
