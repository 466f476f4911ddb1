"""`moonwake import-users`: bring the accounts of a LunaTV site along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import orjson
import typer

from ops import stores
from ops.accounts_books import KINDS, Books, Note
from ops.accounts_import import AccountsImport
from ops.importing import (
    AsJson,
    DryRun,
    Refusal,
    Refusals,
    Report,
    SourceUrl,
    bar,
    open_source,
)
from ops.lunatv_source import Progress
from worker.deps import Deps

_Restore = Annotated[
    bool, typer.Option("--restore-deleted", help="Also users who were deleted here since.")
]
_COLUMNS = ("found", "created", "filled", "kept", "refused", "repaired")


def import_users(
    redis_url: SourceUrl,
    dry_run: DryRun = False,
    restore: _Restore = False,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Bring the accounts of a LunaTV site along; only reads there.

    \b
    Users with their passwords, memberships, card keys, points, invitations,
    rewarded addresses, logins, and the site's configuration; of both layouts.
    May be repeated: what is stored here stays, a user who was only met here
    (by a play) is filled in. The owner is whom USERNAME names.

    \b
    found = created + filled + kept + refused. What contradicts itself there
    is repaired on the way in, so that `moonwake audit` is clean; --report
    tells of it too.

    \b
    Exit codes: 0 everything was taken, 1 something was refused, 2 a setting
    is wrong or a store cannot be used: what was written until then stays,
    run it again.
    """
    source, refusals = open_source(redis_url), Refusals(report)

    def note(line: Note) -> None:
        if line.what == "refused":
            refusals.keep(Refusal(f"{line.kind}: {line.where}", line.reason, line.detail))
        refusals.write(line)

    async def work(deps: Deps) -> Books:
        with bar(quiet=as_json) as show:

            def tick(progress: Progress, books: Books) -> None:
                users = books["users"]
                done = users.created + users.filled + users.kept
                show(f"{users.found:,} users found, {done:,} done", progress)

            async with source:
                importing = AccountsImport(deps, dry=dry_run, restore=restore, note=note, tick=tick)
                return await importing.run(source)

    books = stores.run(work, applies=not dry_run)
    if as_json:
        summary: dict[str, Any] = {"dry_run": dry_run}
        summary |= {kind: books[kind].as_object() for kind in KINDS}
        typer.echo(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    else:
        refusals.tell()
        for line in _told(books, dry_run=dry_run):
            typer.echo(line)
    if books.refused:
        raise typer.Exit(1)


def _told(books: Books, *, dry_run: bool) -> Iterator[str]:
    """A row per kind, and under it why something was refused or repaired."""
    if dry_run:
        yield "nothing was written; it would have been:"
    yield _line("", _COLUMNS)
    for kind in KINDS:
        counts = books[kind].as_object()
        yield _line(kind.replace("_", " "), [f"{counts[column]:,}" for column in _COLUMNS])
    for what in ("refused", "repaired"):
        for kind in KINDS:
            for reason, count in books[kind].as_object()[f"{what}_by_reason"].items():
                yield f"{what} {kind.replace('_', ' ')}: {reason} {count:,}"


def _line(name: str, cells: Iterator[str] | tuple[str, ...] | list[str]) -> str:
    return f"{name:<16}" + "".join(f"{cell:>11}" for cell in cells)
