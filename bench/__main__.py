"""`python -m bench`: measure moonwake beside its peers and limits, in one run."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from bench import draining, freshness, ingest, report
from bench.servers import Lab, RunFailed, running_lab
from ops.processes import ProcessFailed
from ops.programs import Flavour, ProgramMissing

console = Console(highlight=False, width=120)


class Benchmark(StrEnum):
    """What can be measured alone."""

    INGEST = "ingest"
    DRAINING = "draining"
    FRESHNESS = "freshness"


class Server(StrEnum):
    MARIADB = "mariadb"
    MYSQL = "mysql"


_FLAVOURS = {Server.MARIADB: Flavour.MARIADB, Server.MYSQL: Flavour.MYSQL}


def main(
    only: Annotated[list[Benchmark] | None, typer.Option(help="Measure only this one.")] = None,
    server: Annotated[Server, typer.Option(help="Which database server.")] = Server.MARIADB,
    strict: Annotated[bool, typer.Option(help="Exit with 1 also for a missed target.")] = False,
    quick: Annotated[bool, typer.Option(help="A tenth of the work: to see that it runs.")] = False,
) -> None:
    """Measure, print a table and keep bench/results/latest.json (not when --quick or --only)."""
    rounds, scale = (2, 10) if quick else (5, 1)
    benchmarks: dict[Benchmark, Callable[[Lab], list[report.Result]]] = {
        Benchmark.INGEST: lambda lab: ingest.measure(lab, rounds, 5 // rounds * 2),
        Benchmark.DRAINING: lambda lab: draining.measure(lab, rounds, scale),
        Benchmark.FRESHNESS: lambda lab: freshness.measure(lab, 30 // scale),
    }
    chosen = only or list(Benchmark)
    results: list[report.Result] = []
    versions: dict[str, str] = {}
    try:
        for name in chosen:
            console.print(f"measuring {name.value} ...")
            with running_lab(_FLAVOURS[server]) as lab:
                results += benchmarks[name](lab)
                versions = lab.versions
    except (RunFailed, ProcessFailed, ProgramMissing) as error:
        console.print(f"[red]the run failed:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from error
    report.show(results, console)
    if not only and not quick:
        report.write(results, versions)
    if strict and not all(result.is_met for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
