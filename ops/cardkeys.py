"""`moonwake cardkeys`: make card keys, look at them, remove what nobody bound."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ops import accounts
from ops.accounts import AsJson, Page, Yes, changed, fail, made
from ops.files import write_private
from ops.letter_view import printable
from shared.accounts import card_keys
from shared.accounts.card_key_csv import csv_text
from shared.accounts.card_keys import BATCH_MAX, DAYS, CardKey, Filter, KeyType, Status
from shared.accounts.ledger import card_lock
from shared.mysql import Cursor, reading
from shared.times import iso, now_ms
from worker.deps import Deps

cardkeys = typer.Typer(no_args_is_help=True, help="Card keys: generate, list, delete, clean up.")

_HASH = re.compile(r"[0-9a-f]{64}")
_STDOUT = "-"


@cardkeys.command()
def generate(
    key_type: Annotated[
        KeyType,
        typer.Option("--type", help="; ".join(f"{name} {DAYS[name]} days" for name in DAYS)),
    ],
    count: Annotated[int, typer.Option(min=1, max=BATCH_MAX, help="How many.")] = 1,
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write them to a new file, as CSV; - is stdout."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make new card keys. Their days count from now, bound or not.

    Exit codes: 0 done, 2 the file cannot be written, a setting is wrong or MySQL
    cannot be used.
    """
    if csv is not None and as_json:
        raise typer.BadParameter("--csv or --json, not both")
    path = None if csv in {None, _STDOUT} else _new_file(str(csv))

    async def work(deps: Deps) -> list[CardKey]:
        return await changed(deps, [], make, list[CardKey])

    async def make(cursor: Cursor) -> list[CardKey]:
        keys = card_keys.new_keys(key_type, count, "admin_created", now_ms())
        await card_keys.insert(cursor, keys)
        return keys

    keys = accounts.run(work)
    if as_json:
        accounts.print_json([_as_object(key) for key in keys])
    elif csv == _STDOUT:
        sys.stdout.buffer.write(csv_text(keys).encode())
    elif path is not None:
        _write(path, keys)
    else:
        for key in keys:
            typer.echo(key.key)
        typer.echo(f"{_counted(keys)}, until {iso(keys[0].expires_at)}", err=True)


def _new_file(name: str) -> Path:
    """The path *name*, where a file can be made and none is: it may hold the keys of before."""
    path = Path(name)
    if path.exists():
        raise typer.BadParameter(f"{name} exists", param_hint="--csv")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise typer.BadParameter(f"nothing can be written to {path.parent}", param_hint="--csv")
    return path


def _write(path: Path, keys: Sequence[CardKey]) -> None:
    try:
        write_private(path, csv_text(keys))
    except OSError as error:
        fail(f"the keys are made, but not written ({error}): moonwake cardkeys list", error)
    typer.echo(f"{_counted(keys)} written to {path}, for your eyes only")


def _counted(keys: Sequence[CardKey]) -> str:
    return f"{len(keys):,} key{'s' if len(keys) != 1 else ''}"


@cardkeys.command("list")
def list_keys(
    status: Annotated[Status | None, typer.Option(help="Only such ones.")] = None,
    key_type: Annotated[KeyType | None, typer.Option("--type", help="Only such ones.")] = None,
    bound_to: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    page: Page = 1,
    as_json: AsJson = False,
) -> None:
    """List card keys, the newest first. Exit code 2: MySQL cannot be used."""
    chosen = Filter(status, key_type, bound_to)

    async def work(deps: Deps) -> tuple[list[CardKey], int]:
        async with reading(deps.pool) as cursor:
            return await card_keys.listed(cursor, chosen, page, accounts.PAGE_SIZE)

    keys, total = accounts.run(work)
    if as_json:
        shown = [_as_object(key) for key in keys]
        accounts.print_json({"count": total, "page": page, "keys": shown})
        return
    accounts.print_page(keys, total, page, "card keys", _table)


@cardkeys.command()
def delete(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key, or its hash in hex.")],
    yes: Yes = False,
) -> None:
    """Remove a card key that nobody bound; who holds it cannot bind it any more.

    Exit codes: 0 done, 1 refused, 2 a setting is wrong or MySQL cannot be used.
    """
    key_hash = key if _HASH.fullmatch(key) else card_keys.hash_of(key)
    if not yes:
        typer.confirm(f"Delete the card key {printable(key)}?", abort=True)

    async def work(deps: Deps) -> None:
        await made(
            deps, [card_lock(key_hash)], lambda cursor: card_keys.delete_unused(cursor, key_hash)
        )

    accounts.run(work)
    typer.echo("the card key is deleted")


@cardkeys.command()
def clean_up(as_json: AsJson = False) -> None:
    """Remove the card keys that nobody bound in time.

    Exit codes: 0 done, 2 a setting is wrong or MySQL cannot be used.
    """

    async def work(deps: Deps) -> int:
        now = now_ms()
        return await changed(deps, [], lambda cursor: card_keys.clean_up(cursor, now), int)

    removed = accounts.run(work)
    if as_json:
        accounts.print_json({"removed": removed})
    else:
        typer.echo(f"expired card keys removed: {removed:,}")


def _table(keys: Sequence[CardKey]) -> Table:
    """One row each; a key is never cut, it is there to be copied. Imported ones may lack it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("key", overflow="fold", min_width=16)
    for heading in ("type", "status", "expires (UTC)"):
        table.add_column(heading, no_wrap=True)
    table.add_column("bound to", overflow="fold")
    for key in keys:
        table.add_row(
            Text(printable(key.key) or key.key_hash),
            key.key_type,
            key.status,
            iso(key.expires_at)[:16].replace("T", " "),
            Text(printable(_binder(key))),
        )
    return table


def _binder(key: CardKey) -> str:
    if key.status != "used":
        return ""
    return key.bound_to or "(deleted)"


def _as_object(key: CardKey) -> dict[str, Any]:
    return {
        "key": key.key or None,
        "key_hash": key.key_hash,
        "type": key.key_type,
        "status": key.status,
        "source": key.source,
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "bound_to": key.bound_to,
        "bound_at": iso(key.bound_at) or None,
    }
