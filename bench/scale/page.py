"""Write the tables of docs/performance.md between its markers: no figure in it is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from bench.scale.results import PROJECT, Part, Place, Results

#: The default of `moonwake up`.
DEFAULT = (2, 8)
_MISSING = "Not measured yet."
_SHORTENED = "A shortened run shows that the benchmark works, not how fast moonwake is."
_PAGE = Place(PROJECT).page


def write(results: Results, place: Place) -> None:
    """Write the page below *place*, its tables those of *results*."""
    text = rendered(_PAGE.read_text(encoding="utf-8"), results)
    place.page.parent.mkdir(parents=True, exist_ok=True)
    place.page.write_text(text, encoding="utf-8")


def rendered(page: str, results: Results) -> str:
    """*page* with everything between its markers made anew from *results*."""
    for name, section in _SECTIONS.items():
        marks = re.compile(rf"(<!-- {name}: generated -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not marks.search(page):
            raise ValueError(f"docs/performance.md has no markers of {name!r}")
        text = section(results)
        page = marks.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)  # type: ignore[misc]
    return page


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _plot(name: str, alternative: str) -> str:
    return (
        "<picture>\n"
        f'  <source media="(prefers-color-scheme: dark)" srcset="plots/{name}-dark.svg">\n'
        f'  <img alt="{alternative}" src="plots/{name}.svg">\n'
        "</picture>"
    )


# --- sections -----------------------------------------------------------------------


def _machine(results: Results) -> str:
    parts = [name for name in Part if name in results]
    if not parts:
        return _MISSING
    facts = list(dict.fromkeys(fact for name in parts for fact in results[name]["machine"]))
    rows = [
        ["measured at", *(results[name]["measured_at"] for name in parts)],
        ["length", *("shortened" if results[name]["quick"] else "full" for name in parts)],
        *([fact, *(results[name]["machine"].get(fact, "") for name in parts)] for fact in facts),
    ]
    note = f"\n\n{_SHORTENED}" if any(results[name]["quick"] for name in parts) else ""
    return _table(["", *parts], rows) + note


def _workers(results: Results) -> str:
    part = results.get(Part.WORKERS)
    if part is None:
        return _MISSING
    points = {(point["workers"], point["shards"]): point for point in part["points"]}
    workers = sorted({at[0] for at in points})
    heads = ["shards", *(f"{n} worker{'s' * (n > 1)}" for n in workers)]
    shards = sorted({at[1] for at in points})

    def matrix(field: str, form: str) -> str:
        rows = [[n, *(format(points[w, n][field], form) for w in workers)] for n in shards]
        return _table(heads, rows)

    best = max(part["points"], key=lambda point: point["events_per_s"])
    usual = points[DEFAULT]
    return "\n\n".join(
        (
            f"{part['events']:,} events over {part['keys']:,} keys, {_rounds(part)}."
            " Events per second, all workers together:",
            matrix("events_per_s", ",d"),
            _plot("workers-throughput", "Events per second over shards, for each worker count"),
            "Microseconds of processor per event, all workers together:",
            matrix("worker_us", ".1f"),
            _plot("workers-cost", "Worker processor time per event over shards"),
            "Rows written per event:",
            matrix("rows_per_event", ".2f"),
            _plot("workers-parts", "Processor time per event of workers, MySQL and Redis"),
            f"Fastest: {best['events_per_s']:,} events/s with {_combination(best)}."
            f" The default, {_combination(usual)}: {usual['events_per_s']:,} events/s,"
            f" {usual['worker_us']:.1f} us of the workers, {usual['mysql_us']:.1f} us of MySQL and"
            f" {usual['redis_us']:.1f} us of Redis per event, which is"
            f" {_processors(usual):.1f} processors at work.",
        )
    )


def _rounds(part: Any) -> str:
    rounds = part["rounds"]
    return "one round" if rounds == 1 else f"the median of {rounds} interleaved rounds"


def _combination(point: Any) -> str:
    workers, shards = point["workers"], point["shards"]
    return f"{workers} worker{'s' * (workers > 1)} and {shards} shard{'s' * (shards > 1)}"


def _processors(point: Any) -> float:
    used_us = point["worker_us"] + point["mysql_us"] + point["redis_us"]
    return float(used_us * point["events_per_s"] / 1e6)


def _stored(results: Results) -> str:
    part = results.get(Part.STORED)
    if part is None:
        return _MISSING
    points = part["points"]
    first = points[0]["events_per_s"]
    rows = [
        [
            f"{point['records']:,}",
            f"{point['events_per_s']:,}",
            f"{point['events_per_s'] / first:.2f}",
            f"{point['worker_us']:.1f}",
            f"{point['mysql_us']:.1f}",
        ]
        for point in points
    ]
    heads = ["stored before", "events/s", "of the first", "worker us/event", "MySQL us/event"]
    return "\n\n".join(
        (
            f"{part['events']:,} events over {part['keys']:,} keys, half of them stored;"
            f" {_rounds(part)}; a buffer pool of {part['buffer_pool_mib']:,} MiB."
            " Wanted: the last at least 0.7 of the first.",
            _table(heads, rows),
            _plot("stored", "Events per second by the number of records stored before"),
        )
    )


def _outage(results: Results) -> str:
    part = results.get(Part.OUTAGE)
    if part is None:
        return _MISSING
    down_s = part["up_at_s"] - part["down_at_s"]
    rows = [
        ["load", f"{part['events_per_s']:,} events/s"],
        ["MySQL was away", f"{down_s:.1f} s"],
        ["most events waiting", f"{part['highest_lag']:,}"],
        ["caught up after its return", f"{part['catch_up_s']:.1f} s"],
        ["of the outage (wanted: at most 0.1)", f"{part['catch_up_s'] / down_s:.3f}"],
        ["acknowledged, each applied once", f"{part['acknowledged']:,}"],
        ["refused", f"{part['refused']:,}"],
        ["p99 of an answer before it", f"{part['p99_ms_before']:.1f} ms"],
        ["p99 of an answer during it", f"{part['p99_ms_during']:.1f} ms"],
    ]
    plot = _plot("outage", "Events waiting and the age of the oldest, over time")
    return f"{_table(['', 'measured'], rows)}\n\n{plot}"


_SECTIONS: dict[str, Callable[[Results], str]] = {
    "machine": _machine,
    Part.WORKERS: _workers,
    Part.STORED: _stored,
    Part.OUTAGE: _outage,
}
