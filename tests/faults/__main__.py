"""`python -m tests.faults`: everything breaks under load, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from shared.errors import MoonwakeError
from tests.faults import ledger
from tests.faults.fault import NotInjected
from tests.faults.kinds import UnknownKind, chosen
from tests.faults.run import Options, Progress, Result, run

console = Console(highlight=False, soft_wrap=True)
SEED_MAX = 2**32 - 1


def main(
    duration_s: Annotated[str, typer.Option(help="Of load and faults.")] = "1800",
    seed: Annotated[str, typer.Option(help="Repeats a run; empty: a new one.")] = "",
    faults: Annotated[str, typer.Option(help="Only these kinds, comma-separated.")] = "",
    write_ledger: Annotated[bool, typer.Option(help="Append to docs/faults.md.")] = True,
) -> None:
    """Run the checker; exit code 1 for any difference or uncounted loss, 2 for bad input."""
    seconds = _whole(duration_s, "DURATION_S", 10, 86_400)
    number = _whole(seed, "SEED", 0, SEED_MAX) if seed else secrets.randbelow(SEED_MAX + 1)
    try:
        kinds = chosen(faults)
    except (UnknownKind, NotInjected) as error:
        _refuse(str(error))
    options = Options(number, seconds, kinds)
    console.print(f"SEED={number} DURATION_S={seconds} FAULTS={','.join(kinds)}")
    folder = Path(tempfile.mkdtemp(prefix="moonwake-faults-"))
    try:
        result = asyncio.run(_shown(options, folder))
    except MoonwakeError as error:
        _refuse(f"the run could not be carried out: {error}")
    if write_ledger:
        ledger.write(options, result)
    _report(result, folder)
    if result.differences:
        raise typer.Exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def _whole(text: str, name: str, low: int, high: int) -> int:
    """The number in *text*; refuses anything else by name."""
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        _refuse(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def _refuse(message: str) -> NoReturn:
    typer.echo(f"faults: {message}", err=True)
    raise typer.Exit(2)


async def _shown(options: Options, folder: Path) -> Result:
    """Run, with a line of progress on the screen."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("starting", total=options.duration_s, state="")

        def show(progress: Progress) -> None:
            state = (
                f"faults {progress.faults}, events {progress.acknowledged},"
                f" differences {progress.differences}; now: {', '.join(progress.running) or 'none'}"
            )
            bar.update(task, description=progress.phase, completed=progress.elapsed_s, state=state)

        return await run(options, folder, show)


def _report(result: Result, folder: Path) -> None:
    """What was done and found; the last line says faults, events, differences."""
    for kind, times in sorted(result.injected.items()):
        console.print(f"  {kind} {times}")
    for (kind, why), times in sorted(result.refused.items()):
        console.print(f"  {kind} not injected {times} times: {why}")
    for name, times in sorted(result.counts.items()):
        console.print(f"  {name}: {times}")
    if result.refused_starts:
        console.print(f"  a front found no Redis to start with: {result.refused_starts} times")
    console.print(f"  applied {result.applied}, lost and counted {result.lost}")
    if result.differences:
        told = "\n".join(result.differences)
        (folder / "differences.txt").write_text(told + "\n", encoding="utf-8")
        console.print(told, markup=False)
        console.print(f"logs, notes and data are kept in {folder}")
    console.print(
        f"faults {result.injected.total()}, events {result.acknowledged},"
        f" differences {len(result.differences)}"
    )


if __name__ == "__main__":
    typer.run(main)
