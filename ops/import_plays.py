"""`moonwake import-plays`: bring the play records of a LunaTV site along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ops import stores
from ops.letter_view import printable
from ops.lunatv import Progress
from ops.lunatv_import import Import, Refusal, Tally
from shared.connections import open_redis
from worker.deps import Deps
from worker.history import Plan

#: Refusals told on the terminal; the others are in the report.
_TOLD_MAX = 10

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing, tell what would be.")]
_Restore = Annotated[
    bool, typer.Option("--restore-deleted", help="Also records that users deleted here since.")
]
_Report = Annotated[
    typer.FileBinaryWrite | None,
    typer.Option(metavar="FILE", lazy=False, help="Write what was not taken, as JSON lines."),
]


def import_plays(
    redis_url: Annotated[
        str, typer.Argument(envvar="LUNATV_REDIS_URL", help="The Redis of the LunaTV site.")
    ],
    dry_run: _DryRun = False,
    restore: _Restore = False,
    report: _Report = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Bring the play records of a LunaTV site along; only reads there.

    Takes both layouts, flat and hash, and may be repeated. Missing users
    are created, plays are not counted; what is stored here and as new or
    newer stays.

    Exit codes: 0 everything was taken, 1 something was refused, 2 a setting
    is wrong or a store cannot be used: what was written until then stays,
    run it again.
    """
    try:
        source = open_redis(redis_url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="REDIS_URL") from None
    refusals: list[Refusal] = []

    def refuse(refusal: Refusal) -> None:
        if len(refusals) < _TOLD_MAX:
            refusals.append(refusal)
        if report is not None:
            report.write(orjson.dumps(refusal, option=orjson.OPT_APPEND_NEWLINE))

    async def work(deps: Deps) -> Tally:
        plan = Plan() if dry_run else None
        with _bar(quiet=as_json) as tick:
            async with source:
                importing = Import(deps, plan=plan, restore=restore, refuse=refuse, tick=tick)
                return await importing.run(source)

    tally = stores.run(work, applies=not dry_run)
    if as_json:
        typer.echo(orjson.dumps(_summary(tally, dry_run=dry_run), option=orjson.OPT_INDENT_2))
    else:
        _tell_refusals(refusals, tally.refused.total())
        _tell(tally, dry_run=dry_run)
    if tally.refused:
        raise typer.Exit(1)


def _summary(tally: Tally, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "found": tally.found,
        "written": tally.written,
        "kept": tally.kept,
        "deleted": tally.deleted,
        "refused": tally.refused.total(),
        "refused_by_reason": dict(sorted(tally.refused.items())),
        "users_created": tally.users_created,
    }


def _tell(tally: Tally, *, dry_run: bool) -> None:
    lines = [
        ("found", tally.found),
        ("  would be written" if dry_run else "  written", tally.written),
        ("  stored already, as new or newer", tally.kept),
        ("  deleted here since", tally.deleted),
        ("  refused", tally.refused.total()),
        *((f"    {reason}", count) for reason, count in sorted(tally.refused.items())),
        ("users who would be created" if dry_run else "users created", tally.users_created),
    ]
    for name, count in lines:
        typer.echo(f"{name:<36}{count:>12,}")


def _tell_refusals(refusals: list[Refusal], count: int) -> None:
    for refusal in refusals:
        line = f"{refusal.where}: {refusal.reason}: {refusal.detail}"
        typer.echo(f"refused: {printable(line)}", err=True)
    if count > len(refusals):
        typer.echo(f"refused: {count - len(refusals)} more; --report FILE keeps all", err=True)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[Progress, Tally], None]]:
    """A progress bar over the keys of the source, as far as it says how many there are."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("reading", total=None)

        def tick(progress: Progress, tally: Tally) -> None:
            done = f"{tally.found:,} found, {tally.written:,} newer than here"
            bar.update(task, description=done, completed=progress.seen, total=progress.keys or None)

        yield tick
