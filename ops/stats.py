"""`moonwake stats`: the daily statistics, computed anew."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops import stores
from worker.deps import Deps
from worker.jobs.aggregate import Run, rebuild

stats = typer.Typer(no_args_is_help=True, help="Daily statistics.")

#: What MySQL's DATE can hold.
_FIRST, _LAST = date(1000, 1, 1), date(9999, 12, 31)

_DAY: dict[str, Any] = {"formats": ["%Y-%m-%d"], "metavar": "YYYY-MM-DD"}


@stats.callback()
def _group() -> None:
    """Keeps `rebuild` a sub-command while it is the only one."""


@stats.command("rebuild")
def rebuild_days(
    first: Annotated[
        datetime | None, typer.Option("--from", help="First day; default: the first known.", **_DAY)
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", help="Last day; default: the last known.", **_DAY)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Compute the daily statistics anew from what was counted per user.

    Safe to repeat, and beside running workers.

    Exit codes: 0 done, 2 a setting is wrong or MySQL cannot be used.
    """
    start, end = first.date() if first else _FIRST, last.date() if last else _LAST
    if start > end:
        raise typer.BadParameter(f"{start} is after {end}", param_hint="--from")
    done = stores.run(lambda deps: _rebuild(deps, start, end, quiet=as_json), applies=False)
    if as_json:
        typer.echo(orjson.dumps(done, option=orjson.OPT_INDENT_2))
    elif done.days:
        window = f"{done.window_from} to {done.window_to}"
        typer.echo(f"days computed anew: {done.days} ({window}), in {done.duration_ms} ms")
    else:
        typer.echo("no plays in these days, nothing to compute")


async def _rebuild(deps: Deps, start: date, end: date, *, quiet: bool) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=quiet
    ) as progress:
        bar = progress.add_task("rebuilding", total=None)

        def show(day: date, done: int, total: int) -> None:
            progress.update(bar, description=f"{day}", completed=done, total=total)

        return await rebuild(deps.pool, deps.settings, start, end, show)
