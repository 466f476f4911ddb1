"""`python -m bench.scale`: measure the scale curve and write docs/performance.md with its plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.report import Result, Target, machine, now, show
from bench.scale import curve, outage, page, stored
from bench.scale.history import RECORDS_PER_CYCLE
from bench.scale.results import Part, Place
from bench.servers import RunFailed, running_lab
from ops.programs import Flavour
from shared.errors import MoonwakeError

console = Console(highlight=False, width=120)

#: Where a shortened run leaves its page, so that the project keeps the full one's.
QUICK_FOLDER = Path("build/bench-scale")
_SHARDS, _QUICK_SHARDS = (1, 2, 4, 8, 16, 32, 64), (1, 8, 64)
_RECORDS, _QUICK_RECORDS = "10000,1000000,10000000", "10000,100000"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int
    curve_events: int
    shard_counts: tuple[int, ...]
    stored_events: int
    records: tuple[int, ...]
    outage_s: int
    events_per_s: int

    @property
    def keys_stored(self) -> int:
        """How many stored keys one round of the drain touches."""
        return self.stored_events // stored.EVENTS_PER_KEY // 2


def _told(text: str) -> None:
    console.print(f"  {text}")


def _curve(sizes: Sizes) -> dict[str, Any]:
    with running_lab(Flavour.MARIADB) as lab:
        events, shards = sizes.curve_events, sizes.shard_counts
        found = curve.measure(lab, sizes.rounds, events, shards, _told)
        return {"measured_at": now(), "machine": machine(lab.versions), **found}


def _stored(sizes: Sizes) -> dict[str, Any]:
    stored.check_disk(sizes.records)
    with running_lab(Flavour.MARIADB, stored.BUFFER_POOL_MIB) as lab:
        found = stored.measure(lab, sizes.rounds + 1, sizes.stored_events, sizes.records, _told)
        return {"measured_at": now(), "machine": machine(lab.versions), **found}


def _outage(sizes: Sizes) -> dict[str, Any]:
    with running_lab(Flavour.MARIADB) as lab:
        found = outage.measure(lab, sizes.outage_s, sizes.events_per_s, _told)
        return {"measured_at": now(), "machine": machine(lab.versions), **found}


_MEASURES: dict[Part, Callable[[Sizes], dict[str, Any]]] = {
    Part.WORKERS: _curve,
    Part.STORED: _stored,
    Part.OUTAGE: _outage,
}


def main(  # noqa: PLR0913 - one argument each for what may be shortened
    *,
    only: Annotated[list[Part] | None, typer.Option(help="Measure only this part.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything: to see that it runs.")] = False,
    records: Annotated[str, typer.Option(help="Records stored before, with commas.")] = "",
    outage_s: Annotated[
        int | None, typer.Option(min=5, max=7_200, help="How long MySQL is away.")
    ] = None,
    rate: Annotated[
        int, typer.Option(min=10, max=5_000, help="Events/s during the outage.")
    ] = 1_000,
    into: Annotated[Path | None, typer.Option(help="Write below this folder.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 also for a missed target.")] = False,
    draw_only: Annotated[bool, typer.Option(help="Page and plots from what was kept.")] = False,
) -> None:
    """Measure, keep bench/results/scale.json, and make docs/performance.md and its plots."""
    sizes = Sizes(
        rounds=1 if quick else 2,
        curve_events=40_000 if quick else 120_000,
        shard_counts=_QUICK_SHARDS if quick else _SHARDS,
        stored_events=40_000 if quick else 100_000,
        records=_numbers(records or (_QUICK_RECORDS if quick else _RECORDS)),
        outage_s=outage_s or (30 if quick else 600),
        events_per_s=rate,
    )
    if min(sizes.records) < sizes.keys_stored:
        raise typer.BadParameter(f"--records: each at least {sizes.keys_stored:,}")
    place = Place(into or QUICK_FOLDER) if into or quick else Place()
    if find_spec("matplotlib") is None:
        raise typer.BadParameter("matplotlib is missing: run `make bench-scale`")
    try:
        for part in [] if draw_only else only or list(Part):
            console.print(f"measuring {part} ...")
            place.keep(part, {"quick": quick, **_MEASURES[part](sizes)})
    except (RunFailed, MoonwakeError) as error:
        console.print(f"[red]the run failed:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from error
    _publish(place)
    held = _targets(place.read())
    show(held, console)
    if strict and not all(result.is_met for result in held):
        raise typer.Exit(1)


def _numbers(text: str) -> tuple[int, ...]:
    """Sizes of a history, smallest first."""
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = (0,)
    if any(number < 1 or number % RECORDS_PER_CYCLE for number in numbers):
        raise typer.BadParameter(
            f"--records: multiples of {RECORDS_PER_CYCLE:,} with commas between"
        )
    return tuple(sorted(numbers))


def _publish(place: Place) -> None:
    """The page and its plots, of everything that was measured so far."""
    from bench.scale import plots  # noqa: PLC0415 - only after it is sure that matplotlib is there

    results = place.read()
    plots.draw(results, place)
    page.write(results, place)
    console.print(f"written: {place.page} and {place.plots}")


def _targets(results: dict[str, Any]) -> list[Result]:
    """What the issue asks for, of the parts that were measured."""
    held: list[Result] = []
    if Part.STORED in results:
        points = results[Part.STORED]["points"]
        first, last = points[0], points[-1]
        name = f"drain at {last['records']:,} stored"
        against = f"at {first['records']:,}"
        target = Target(0.7)
        held.append(Result(name, "events/s", last["rounds"], against, first["rounds"], target))
    if Part.OUTAGE in results:
        part = results[Part.OUTAGE]
        away_s = part["up_at_s"] - part["down_at_s"]
        target = Target(0.1, at_most=True)
        held.append(Result("catching up", "s", [part["catch_up_s"]], "outage", [away_s], target))
    return held


if __name__ == "__main__":
    typer.run(main)
