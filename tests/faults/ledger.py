"""docs/faults.md: a line for each run of `make faults`, whatever it found."""

from __future__ import annotations

import subprocess
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.faults.run import Options, Result

_ROOT = Path(__file__).parents[2]
LEDGER = _ROOT / "docs" / "faults.md"


def write(options: Options, result: Result, path: Path = LEDGER) -> None:
    """Append the line of one run to *path*."""
    with path.open("a", encoding="utf-8") as ledger:
        ledger.write(line_of(options, result, version_of_tree(), datetime.now(UTC)) + "\n")


def line_of(options: Options, result: Result, program: str, at: datetime) -> str:
    """One row of the ledger's table."""
    cells = [
        f"{at:%Y-%m-%d %H:%M}",
        program,
        f"{options.duration_s:.0f}",
        str(options.seed),
        f"{result.injected.total()}: {_listed(result.injected)}",
        _listed(_by_reason(result)) or "none",
        f"{result.acknowledged:,}",
        f"{result.lost:,}",
        str(len(result.differences)),
    ]
    return f"| {' | '.join(cells)} |"


def version_of_tree() -> str:
    """The version, and the commit if this is a git work tree ('+' where it was changed since)."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(filter(None, [version("moonwake"), told.stdout.strip()]))


def _by_reason(result: Result) -> Counter[str]:
    return Counter({f"{kind} ({why})": times for (kind, why), times in result.refused.items()})


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counts.items()))
