"""The plots of the page: SVG, one for light and one for dark, told apart without colour too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.scale.results import Part, Place, Results

_MARKERS = ("o", "s", "^")
_STYLES = ("-", "--", ":")
_HATCHES = ("", "//", "..")
#: The shards that `moonwake up` takes: where parts are shown beside each other.
DEFAULT_SHARDS = 8


@dataclass(frozen=True, slots=True)
class _Theme:
    """GitHub's page colours, and colours of Okabe and Ito that are readable on them."""

    suffix: str
    page: str
    ink: str
    grid: str
    shade: str
    colours: tuple[str, str, str]


_THEMES = (
    _Theme("", "#ffffff", "#1f2328", "#d1d9e0", "#eef1f4", ("#0072b2", "#d55e00", "#007a5a")),
    _Theme("-dark", "#0d1117", "#e6edf3", "#30363d", "#21262d", ("#56b4e9", "#f0a030", "#3fc8a0")),
)


def draw(results: Results, place: Place) -> None:
    """Write every plot of what was measured."""
    place.plots.mkdir(parents=True, exist_ok=True)
    for theme in _THEMES:
        for part, plots in _PLOTS.items():
            for name, plot in plots.items():
                if part in results:
                    _save(plot, results[part], theme, place, name)


def _save(
    plot: Callable[[Any, Figure, _Theme], None], part: Any, theme: _Theme, place: Place, name: str
) -> None:
    # The same figures give the same file, byte by byte.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path", "font.size": 10}):
        figure = Figure(figsize=(7.2, 3.8), facecolor=theme.page, layout="constrained")
        plot(part, figure, theme)
        path = place.plots / f"{name}{theme.suffix}.svg"
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _axes(figure: Figure, theme: _Theme, title: str, x: str, y: str, rows: Sequence[int]) -> Axes:
    axes: Axes = figure.add_subplot(*rows)
    axes.set_facecolor(theme.page)
    axes.set_title(title, color=theme.ink, loc="left", fontsize=11)
    axes.set_xlabel(x, color=theme.ink)
    axes.set_ylabel(y, color=theme.ink)
    axes.tick_params(colors=theme.ink)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return axes


def _legend(axes: Axes, theme: _Theme, **options: Any) -> None:
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9, **options)


# --- workers and shards -------------------------------------------------------------


def _throughput(part: Any, figure: Figure, theme: _Theme) -> None:
    axes = _axes(figure, theme, "Drained by all workers", "shards", "events per second", (1, 1, 1))
    for (workers, points), *look in zip(
        _by_workers(part), theme.colours, _MARKERS, _STYLES, strict=True
    ):
        colour, marker, style = look
        rates = [point["events_per_s"] for point in points]
        low = [point["events_per_s"] - point["slowest"] for point in points]
        high = [point["fastest"] - point["events_per_s"] for point in points]
        axes.errorbar(
            [point["shards"] for point in points],
            rates,
            yerr=(low, high),
            color=colour,
            marker=marker,
            linestyle=style,
            capsize=3,
            elinewidth=0.8,
            label=_named(workers),
        )
    _shard_axis(axes, part)
    axes.set_ylim(bottom=0)
    _legend(axes, theme, loc="best")


def _cost(part: Any, figure: Figure, theme: _Theme) -> None:
    axes = _axes(
        figure,
        theme,
        "Processor time of the workers",
        "shards",
        "microseconds per event",
        (1, 1, 1),
    )
    for (workers, points), *look in zip(
        _by_workers(part), theme.colours, _MARKERS, _STYLES, strict=True
    ):
        colour, marker, style = look
        axes.plot(
            [point["shards"] for point in points],
            [point["worker_us"] for point in points],
            color=colour,
            marker=marker,
            linestyle=style,
            label=_named(workers),
        )
    _shard_axis(axes, part)
    axes.set_ylim(bottom=0)
    _legend(axes, theme, loc="best")


def _parts(part: Any, figure: Figure, theme: _Theme) -> None:
    title = f"Who uses the processor, {DEFAULT_SHARDS} shards"
    axes = _axes(figure, theme, title, "workers", "microseconds per event", (1, 1, 1))
    points = [point for point in part["points"] if point["shards"] == DEFAULT_SHARDS]
    names = [str(point["workers"]) for point in points]
    floor = [0.0] * len(points)
    kinds = (("workers", "worker_us"), ("MySQL", "mysql_us"), ("Redis", "redis_us"))
    for (label, field), colour, hatch in zip(kinds, theme.colours, _HATCHES, strict=True):
        heights = [point[field] for point in points]
        axes.bar(
            names,
            heights,
            bottom=floor,
            width=0.55,
            color=colour,
            hatch=hatch,
            edgecolor=theme.page,
            label=label,
        )
        floor = [below + height for below, height in zip(floor, heights, strict=True)]
    axes.set_ylim(top=max(floor) * 1.3)
    _legend(axes, theme, loc="upper left", ncols=3)


def _by_workers(part: Any) -> list[tuple[int, list[Any]]]:
    counts = sorted({point["workers"] for point in part["points"]})
    return [(n, [point for point in part["points"] if point["workers"] == n]) for n in counts]


def _named(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _shard_axis(axes: Axes, part: Any) -> None:
    shards = sorted({point["shards"] for point in part["points"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shards, [str(each) for each in shards])
    axes.xaxis.set_minor_locator(NullLocator())


# --- stored records -----------------------------------------------------------------


def _stored(part: Any, figure: Figure, theme: _Theme) -> None:
    axes = _axes(
        figure,
        theme,
        "One worker, one shard",
        "records stored before",
        "events per second",
        (1, 1, 1),
    )
    names = [f"{point['records']:,}" for point in part["points"]]
    rates = [point["events_per_s"] for point in part["points"]]
    axes.bar(names, rates, width=0.5, color=theme.colours[0])
    for at, point in enumerate(part["points"]):
        axes.scatter(
            [at] * len(point["rounds"]),
            point["rounds"],
            s=22,
            color=theme.colours[1],
            edgecolor=theme.ink,
            linewidth=0.6,
            zorder=3,
            label="each round" if at == 0 else None,
        )
    floor = 0.7 * rates[0]
    axes.axhline(floor, color=theme.ink, linestyle="--", linewidth=1, label="0.7 of the first")
    axes.set_ylim(top=max(max(point["rounds"]) for point in part["points"]) * 1.25)
    _legend(axes, theme, loc="upper right", ncols=2)


# --- the outage ---------------------------------------------------------------------


def _outage(part: Any, figure: Figure, theme: _Theme) -> None:
    samples = part["samples"]
    at_s = [sample[0] for sample in samples]
    panels = (("events waiting", "events", 1), ("age of the oldest", "seconds", 2))
    for row, (title, unit, column) in enumerate(panels, start=1):
        x = "seconds since the load began" if row == 2 else ""
        axes = _axes(figure, theme, title, x, unit, (2, 1, row))
        axes.axvspan(
            part["down_at_s"], part["up_at_s"], color=theme.shade, label="MySQL is down", zorder=0
        )
        axes.axvline(
            part["caught_up_at_s"],
            color=theme.colours[1],
            linestyle="--",
            linewidth=1.2,
            label="caught up",
        )
        axes.plot(at_s, [sample[column] for sample in samples], color=theme.colours[0])
        axes.set_xlim(0, at_s[-1])
        axes.set_ylim(bottom=0)
        if row == 1:
            _legend(axes, theme, loc="upper left")


_PLOTS: dict[str, dict[str, Callable[[Any, Figure, _Theme], None]]] = {
    Part.WORKERS: {
        "workers-throughput": _throughput,
        "workers-cost": _cost,
        "workers-parts": _parts,
    },
    Part.STORED: {"stored": _stored},
    Part.OUTAGE: {"outage": _outage},
}
