"""`python -m bench`: measure moonwake beside its peers and limits, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from bench import acks, draining, freshness, ingest, report, transactions
from bench.servers import Lab, RunFailed, running_lab
from ops.programs import Flavour
from shared.errors import MoonwakeError

Measure = Callable[[Lab], list[report.Result]]
console = Console(highlight=False, width=120)


class Benchmark(StrEnum):
    """What can be measured alone."""

    INGEST = "ingest"
    ACK = "ack"
    DRAIN = "drain"
    COALESCING = "coalescing"
    MEMORY = "memory"
    FRESHNESS = "freshness"
    TRANSACTIONS = "transactions"


class Server(StrEnum):
    MARIADB = "mariadb"
    MYSQL = "mysql"


#: These need the same backlogs, and are measured in turn.
_DRAINS = (Benchmark.DRAIN, Benchmark.COALESCING, Benchmark.MEMORY)
_FLAVOURS = {Server.MARIADB: Flavour.MARIADB, Server.MYSQL: Flavour.MYSQL}


def main(
    only: Annotated[list[Benchmark] | None, typer.Option(help="Measure only this one.")] = None,
    server: Annotated[Server, typer.Option(help="Which database server.")] = Server.MARIADB,
    strict: Annotated[bool, typer.Option(help="Exit with 1 also for a missed target.")] = False,
    quick: Annotated[bool, typer.Option(help="A tenth of the work: to see that it runs.")] = False,
) -> None:
    """Measure, print a table and keep bench/results/latest.json (not when --quick or --only)."""
    measures = _measures(only or list(Benchmark), quick=quick)
    results: list[report.Result] = []
    versions: dict[str, str] = {}
    try:
        for number, measure in enumerate(measures, start=1):
            console.print(f"measuring, part {number} of {len(measures)} ...")
            with running_lab(_FLAVOURS[server]) as lab:
                results += measure(lab)
                versions = lab.versions
    except (RunFailed, MoonwakeError) as error:
        console.print(f"[red]the run failed:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from error
    report.show(results, console)
    if not only and not quick:
        report.write(results, versions)
    if strict and not all(result.is_met for result in results):
        raise typer.Exit(1)


def _measures(chosen: Sequence[Benchmark], *, quick: bool) -> list[Measure]:
    rounds, scale = (2, 10) if quick else (5, 1)
    drains = [name.value for name in chosen if name in _DRAINS]
    measures: list[Measure] = []
    if Benchmark.INGEST in chosen:
        measures.append(lambda lab: ingest.measure(lab, rounds, duration_s=1 if quick else 6))
    if Benchmark.ACK in chosen:
        measures.append(lambda lab: acks.measure(lab, rounds, duration_s=1 if quick else 6))
    if drains:
        measures.append(lambda lab: draining.measure(lab, rounds, scale, drains))
    if Benchmark.FRESHNESS in chosen:
        measures.append(lambda lab: freshness.measure(lab, rounds, round_s=2 if quick else 6))
    if Benchmark.TRANSACTIONS in chosen:
        measures.append(lambda lab: transactions.measure(lab, rounds, duration_s=1 if quick else 6))
    return measures


if __name__ == "__main__":
    typer.run(main)
