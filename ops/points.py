"""`moonwake points`: what a user has, why, and an admin's hand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ops import accounts, user_view
from ops.accounts import AsJson, Name, Page, changed
from ops.letter_view import printable
from shared.accounts import points
from shared.accounts.ledger import user_lock
from shared.accounts.points import AMOUNT_MAX, REASON_MAX, Account, Cause, PointsRecord
from shared.errors import NotFound
from shared.mysql import Cursor, reading
from shared.settings import Settings
from shared.times import iso, now_ms
from worker.deps import Deps

points_app = typer.Typer(no_args_is_help=True, help="Points: show, adjust, history.")

_KINDS = {"earn": "earned", "redeem": "redeemed", "admin_adjust": "adjusted"}


@points_app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a user's points.

    Exit codes: 1 there is no such user, 2 MySQL cannot be used.
    """

    async def work(deps: Deps) -> Account | None:
        async with reading(deps.pool) as cursor:
            await user_view.known(cursor, deps.settings, name)
            return await points.read_account(cursor, name)

    account = accounts.run(work)
    if as_json:
        accounts.print_json(None if account is None else user_view.account_object(account))
    elif account is None:
        typer.echo(f"{name} has no points account yet")
    else:
        adjusted = account.balance - account.total_earned + account.total_redeemed
        typer.echo(
            f"{name} has {account.balance:,} points"
            f" (earned {account.total_earned:,}, redeemed {account.total_redeemed:,},"
            f" adjusted {adjusted:+,})"
        )


@points_app.command(context_settings={"ignore_unknown_options": True})
def adjust(
    name: Name,
    amount: Annotated[
        int,
        typer.Argument(
            min=-AMOUNT_MAX, max=AMOUNT_MAX, metavar="AMOUNT", help="-5 takes five away."
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why; the user reads it.")],
    admin: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Who does it; default: the owner.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a user points, or take some away.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """
    if amount == 0:
        raise typer.BadParameter("0 changes nothing", param_hint="AMOUNT")
    if not 1 <= len(reason.strip()) <= REASON_MAX:
        raise typer.BadParameter(f"1 to {REASON_MAX} characters", param_hint="--reason")

    async def work(deps: Deps) -> int:
        cause = Cause(reason.strip(), admin_username=admin or deps.settings.username)
        now = now_ms()
        return await changed(
            deps,
            [user_lock(name)],
            lambda cursor: _adjusted(cursor, deps.settings, name, amount, cause, now),
            int,
        )

    balance = accounts.run(work)
    if as_json:
        accounts.print_json({"username": name, "amount": amount, "balance": balance})
    else:
        typer.echo(f"{name} has {balance:,} points now")


async def _adjusted(
    cursor: Cursor, settings: Settings, name: str, amount: int, cause: Cause, now: int
) -> int:
    """Adjust the points of *name*: the new balance. Raises `Refused`, in words."""
    admin = str(cause.admin_username)
    if admin != settings.username:  # who needs no row
        try:
            await user_view.known(cursor, settings, admin)
        except NotFound as error:
            raise NotFound(f"there is no such admin: {admin} (--as)") from error
    await user_view.known(cursor, settings, name)  # which says why there is none
    await points.adjust(cursor, name, amount, cause, now)
    return (await points.lock_account(cursor, name)).balance


@points_app.command()
def history(name: Name, page: Page = 1, as_json: AsJson = False) -> None:
    """List what changed a user's points, the newest first.

    Exit codes: 1 there is no such user, 2 MySQL cannot be used.
    """

    async def work(deps: Deps) -> tuple[list[PointsRecord], int]:
        async with reading(deps.pool) as cursor:
            await user_view.known(cursor, deps.settings, name)
            return await points.history(cursor, name, page, accounts.PAGE_SIZE)

    records, total = accounts.run(work)
    if as_json:
        shown = [_as_object(record) for record in records]
        accounts.print_json({"count": total, "page": page, "records": shown})
        return
    accounts.print_page(records, total, page, "changes", _table)


def _table(records: Sequence[PointsRecord]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("when (UTC)", no_wrap=True)
    table.add_column("points", no_wrap=True, justify="right")
    table.add_column("kind", no_wrap=True)
    table.add_column("reason", overflow="fold")
    table.add_column("with", overflow="fold")
    for record in records:
        table.add_row(
            iso(record.created_at)[:16].replace("T", " "),
            f"{record.amount:+,}",
            _KINDS[record.type],
            Text(printable(record.reason)),
            Text(printable(record.related_user or record.admin_username or "")),
        )
    return table


def _as_object(record: PointsRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "type": record.type,
        "amount": record.amount,
        "reason": record.reason,
        "created_at": iso(record.created_at),
        "related_user": record.related_user,
        "card_key_id": record.card_key_id,
        "admin_username": record.admin_username,
    }
