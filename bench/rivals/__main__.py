"""`python -m bench.rivals`: the same heartbeats through moonwake and through its rivals."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bench import wrk
from bench.rivals import checking, figures, killing
from bench.rivals.contenders import BY_NAME, CONTENDERS, Contender
from bench.rivals.figures import Found
from bench.rivals.killing import Moment
from bench.rivals.setting_up import NotSetUp, program_of
from bench.rivals.sustained import Scripts, measure
from bench.servers import Lab, RunFailed, running_lab
from ops.programs import Flavour
from shared.errors import MoonwakeError

ROUNDS, LOAD_S, KILLS = 5, 6, 3
#: Kill runs at a time: they mostly wait for what a rival does late. One Redis has 16 databases.
KILL_RUNS_AT_ONCE = 4

console = Console(highlight=False, width=160, soft_wrap=True)


def main(
    only: Annotated[list[str] | None, typer.Option(help="Measure only this contender.")] = None,
    quick: Annotated[bool, typer.Option(help="One short round, one kill: does it run?")] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 1 also for a missed target.")] = False,
    kills: Annotated[bool, typer.Option(help="Kill consumers too.")] = True,
) -> None:
    """Measure, print a table, keep bench/results/rivals.json and the README's table.

    Nothing is kept when --quick, --only or --no-kills: those figures are not whole.
    """
    chosen = _chosen(only)
    rounds, load_s, kill_runs = (1, 2, 1) if quick else (ROUNDS, LOAD_S, KILLS)
    found = {contender.name: Found(contender) for contender in chosen}
    try:
        wrk.check_installed()
        with running_lab(Flavour.MARIADB) as lab:
            _prepare(lab, found)
            _measure(lab, found, rounds, load_s)
            if kills:
                asyncio.run(_kill(lab, found, kill_runs))
            versions = lab.versions
    except (RunFailed, MoonwakeError) as error:
        console.print(f"[red]the run failed:[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    results = list(found.values())
    figures.show(results, console)
    if kills and not only and not quick:
        figures.write(results, versions)
        figures.write_readme(results)
    missed = any(goal.met is False for goal in figures.goals(found))
    if any(each.faults for each in results) or (strict and missed):
        raise typer.Exit(1)


def _chosen(only: list[str] | None) -> list[Contender]:
    unknown = set(only or ()) - BY_NAME.keys()
    if unknown:
        known = ", ".join(BY_NAME)
        console.print(f"--only {escape(unknown.pop())}: one of {known}", style="red")
        raise typer.Exit(2)
    return [each for each in CONTENDERS if not only or each.name in only]


def _prepare(lab: Lab, found: dict[str, Found]) -> None:
    """Set every contender up and see that it counts as the oracle does; who cannot is left out."""
    for each in found.values():
        console.print(f"{each.contender.name}: set up, counts compared with the oracle's ...")
        try:
            program_of(each.contender.kind)
            asyncio.run(checking.check(lab, each.contender))
        except NotSetUp as error:
            each.faults.append(str(error))
        except (RunFailed, MoonwakeError) as error:
            each.faults.append(f"check: {error}")


def _measure(lab: Lab, found: dict[str, Found], rounds: int, load_s: int) -> None:
    """Every contender in turn, *rounds* times; a round that fails ends its part."""
    scripts = Scripts(lab.directory)
    for number in range(1, rounds + 1):
        for each in found.values():
            if each.faults:
                continue
            try:
                run = asyncio.run(measure(lab, each.contender, scripts, load_s))
            except (RunFailed, MoonwakeError) as error:
                each.faults.append(f"round {number}: {error}")
                continue
            each.rounds.append(run)
            console.print(
                f"round {number}: {each.contender.name}: {run.sustained_per_s:,.0f}/s,"
                f" {run.cpu_s_per_1000:.2f} CPU s per 1,000"
            )


async def _kill(lab: Lab, found: dict[str, Found], runs: int) -> None:
    """Kill consumers at both moments, *runs* times each, some contenders side by side."""
    # The server notices late that the sessions of who was killed are over.
    lab.sql("SET GLOBAL max_connections = 1000")
    databases: asyncio.Queue[int] = asyncio.Queue()
    for number in range(1, KILL_RUNS_AT_ONCE + 1):
        databases.put_nowait(number)

    async def one(each: Found, moment: Moment) -> None:
        redis_db = await databases.get()
        try:
            run = await killing.kill_once(lab, each.contender, moment, redis_db=redis_db)
        except (RunFailed, MoonwakeError) as error:
            each.faults.append(f"killed {moment.value}: {error}")
            return
        finally:
            databases.put_nowait(redis_db)
        each.kills.append(run)
        console.print(
            f"killed {moment.value}: {each.contender.name}: {run.acknowledged:,} acknowledged,"
            f" {run.lost:,} lost, {run.doubled:,} doubled"
        )

    entrants = [each for each in found.values() if each.contender.is_killed and not each.faults]
    # Those that recover late go first, or everybody would wait for them at the end.
    entrants.sort(key=lambda each: -each.contender.recovery_s)
    await asyncio.gather(
        *(one(each, moment) for _ in range(runs) for each in entrants for moment in Moment)
    )


if __name__ == "__main__":
    typer.run(main)
