"""`moonwake import-plays`: bring the play records of a LunaTV site along."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from ops import stores
from ops.importing import AsJson, DryRun, Refusals, Report, SourceUrl, bar, open_source
from ops.lunatv_import import Import, Tally
from ops.lunatv_source import Progress
from worker.deps import Deps
from worker.history import Plan

_Restore = Annotated[
    bool, typer.Option("--restore-deleted", help="Also records that users deleted here since.")
]


def import_plays(
    redis_url: SourceUrl,
    dry_run: DryRun = False,
    restore: _Restore = False,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Bring the play records of a LunaTV site along; only reads there.

    Takes both layouts, flat and hash, and may be repeated. Missing users
    are created, plays are not counted; what is stored here and as new or
    newer stays.

    Exit codes: 0 everything was taken, 1 something was refused, 2 a setting
    is wrong or a store cannot be used: what was written until then stays,
    run it again.
    """
    source, refusals = open_source(redis_url), Refusals(report)

    async def work(deps: Deps) -> Tally:
        plan = Plan() if dry_run else None
        with bar(quiet=as_json) as show:

            def tick(progress: Progress, tally: Tally) -> None:
                show(f"{tally.found:,} found, {tally.written:,} newer than here", progress)

            async with source:
                importing = Import(deps, plan=plan, restore=restore, refuse=refusals.add, tick=tick)
                return await importing.run(source)

    tally = stores.run(work, applies=not dry_run)
    if as_json:
        typer.echo(orjson.dumps(_summary(tally, dry_run=dry_run), option=orjson.OPT_INDENT_2))
    else:
        refusals.tell()
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
