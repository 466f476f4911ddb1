"""Figures of a run: each beside what it was measured against, with its target."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import orjson
from rich.console import Console
from rich.table import Table

LATEST = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio has to be: at least or at most *bound*."""

    bound: float
    at_most: bool = False

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.bound if self.at_most else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: the median of its rounds, and the median of what it is held against."""

    name: str
    unit: str
    values: Sequence[float]
    against: str
    against_values: Sequence[float]
    target: Target

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def against_value(self) -> float:
        return median(self.against_values)

    @property
    def ratio(self) -> float:
        return self.value / self.against_value

    @property
    def spread(self) -> float:
        """(highest - lowest) / median of this figure's rounds."""
        return (max(self.values) - min(self.values)) / self.value

    @property
    def is_met(self) -> bool:
        return self.target.is_met(self.ratio)

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "against": self.against,
            "against_value": self.against_value,
            "ratio": round(self.ratio, 3),
            "target": str(self.target),
            "met": self.is_met,
            "spread": round(self.spread, 3),
            "rounds": [asdict(self)["values"], asdict(self)["against_values"]],
        }


def write(results: Sequence[Result], versions: Mapping[str, str], path: Path = LATEST) -> None:
    """Keep *results* as JSON, with what they were measured on."""
    path.parent.mkdir(exist_ok=True)
    document = {
        "measured_at": now(),
        "machine": machine(versions),
        "results": [result.document() for result in results],
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def now() -> str:
    """The time a document of results carries."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine(versions: Mapping[str, str]) -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "processor": _fact("cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory": _fact("meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **versions,
    }


def show(results: Sequence[Result], console: Console) -> None:
    table = Table(title="moonwake, each figure against one of the same run")
    for heading in ("what", "against"):
        table.add_column(heading)
    for heading in ("value", "against it", "ratio", "target", "spread", "met"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.name,
            result.against,
            f"{_number(result.value)} {result.unit}",
            _number(result.against_value),
            f"{result.ratio:.2f}",
            str(result.target),
            f"{result.spread:.0%}",
            "[green]yes[/]" if result.is_met else "[red]NO[/]",
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _fact(file: str, name: str) -> str:
    """What the kernel says of this machine in /proc; it names no host and no path."""
    for line in Path("/proc", file).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"
