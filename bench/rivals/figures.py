"""What a run found: medians, the targets, the table, and where they are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape

from bench.report import machine, now
from bench.rivals.contenders import MOONWAKE, WRITE_THROUGH, Contender
from bench.rivals.killing import Killed, Moment
from bench.rivals.sustained import Sustained

RESULTS = Path(__file__).parents[1] / "results" / "rivals.json"
README = Path(__file__).parents[2] / "README.md"
MARKS = "<!-- rivals: written by make bench-rivals -->", "<!-- end of rivals -->"
#: Sustained rate against the write-through, and against every rival that loses nothing.
WRITE_THROUGH_RATIO, RIVAL_RATIO = 2.5, 1.3
_HEADINGS = (
    *("", "accepted/s", "p99 ms", "sustained/s", "behind s", "CPU s per 1,000"),
    *("memory MiB", "lost", "doubled"),
)


@dataclass(slots=True)
class Found:
    """Everything measured of one contender."""

    contender: Contender
    rounds: list[Sustained] = field(default_factory=list)
    kills: list[Killed] = field(default_factory=list)
    #: Why there are no figures, or not all of them.
    faults: list[str] = field(default_factory=list)

    def figure(self, name: str) -> float:
        """The median over the rounds."""
        values: list[float] = [getattr(each, name) for each in self.rounds]
        return median(values)

    def harm(self, name: str, moment: Moment | None = None) -> list[int]:
        """Events `lost` or `doubled` by each kill, of all or of one kind."""
        return [getattr(k, name) for k in self.kills if moment in (None, k.moment)]

    @property
    def loses_nothing(self) -> bool:
        return bool(self.kills) and not any(self.harm("lost"))

    def document(self) -> dict[str, Any]:
        return {
            "name": self.contender.name,
            "title": self.contender.title,
            "not_run": self.faults,
            "median": {name: round(self.figure(name), 3) for name in Sustained.__dataclass_fields__}
            if self.rounds
            else None,
            "rounds": [each.document() for each in self.rounds],
            "kills": [each.document() for each in self.kills],
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """One target and whether it is met; None when a figure for it is missing."""

    text: str
    met: bool | None

    def __str__(self) -> str:
        return f"{self.text}: {'not measured' if self.met is None else _MET[self.met]}"


_MET = {True: "met", False: "MISSED"}


def goals(found: Mapping[str, Found]) -> list[Goal]:
    """Every target over the contenders by name; those that were not run have none."""
    ours = found.get(MOONWAKE)
    if ours is None or not ours.rounds:
        return [Goal("moonwake was not measured", None)]
    harm = ours.harm("lost") + ours.harm("doubled")
    made = [Goal("moonwake loses and doubles nothing", not any(harm) if harm else None)]
    for rival in found.values():
        if not rival.contender.is_rival or not rival.rounds:
            continue
        is_first = rival.contender.name == WRITE_THROUGH
        if not is_first and rival.kills and not rival.loses_nothing:
            continue  # whoever may lose events can be as fast as they like
        made += _goals_against(ours, rival, WRITE_THROUGH_RATIO if is_first else RIVAL_RATIO)
    return made


def _goals_against(ours: Found, rival: Found, least: float) -> list[Goal]:
    name = rival.contender.name
    if not rival.kills:
        return [Goal(f"{name}: whether it loses events", None)]
    ratio = ours.figure("sustained_per_s") / rival.figure("sustained_per_s")
    cpu = ours.figure("cpu_s_per_1000"), rival.figure("cpu_s_per_1000")
    return [
        Goal(f"sustained {ratio:.1f} times {name}, at least {least}", ratio >= least),
        Goal(f"CPU per 1,000 events {cpu[0]:.2f} s, below {name}'s {cpu[1]:.2f}", cpu[0] < cpu[1]),
    ]


# --- shown and kept -----------------------------------------------------------------


def rows(found: Sequence[Found]) -> list[tuple[str, ...]]:
    """The table's cells, headings first."""
    return [_HEADINGS, *(_row(each) for each in found)]


def _row(found: Found) -> tuple[str, ...]:
    title = found.contender.title
    if not found.rounds:
        reason = found.faults[0].splitlines()[0] if found.faults else "not asked for"
        return (title, f"not run: {reason[:80]}", *[""] * (len(_HEADINGS) - 2))
    return (
        title,
        f"{found.figure('accepted_per_s'):,.0f}",
        f"{found.figure('p99_ms'):,.0f}",
        f"{found.figure('sustained_per_s'):,.0f}",
        f"{found.figure('behind_s'):.1f}",
        f"{found.figure('cpu_s_per_1000'):.2f}",
        f"{found.figure('memory_mib'):,.0f}",
        _harm(found, "lost"),
        _harm(found, "doubled"),
    )


def _harm(found: Found, name: str) -> str:
    """Median of the kills at any moment, and of those in the window after a commit."""
    if not found.contender.is_killed:
        return ""
    told = [found.harm(name, moment) for moment in Moment]
    if not all(told):
        return "not run"
    return " / ".join(f"{median(each):,.0f}" for each in told)


def markdown(found: Sequence[Found]) -> str:
    head, *body = rows(found)
    rule = "|".join(["---", *["---:"] * (len(head) - 1)])
    lines = [" | ".join(head), rule, *(" | ".join(row) for row in body)]
    return "\n".join(f"| {line} |" if line is not rule else f"|{line}|" for line in lines)


def show(found: Sequence[Found], console: Console) -> None:
    table = rows(found)
    widths = [max(len(row[n]) for row in table if row[2] or n == 0) for n in range(len(_HEADINGS))]
    for row in table:
        first, *others = row
        told = [f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True)]
        console.print(escape(f"{first:<{widths[0]}}  {'  '.join(told)}".rstrip()))
    for each in found:
        for fault in each.faults:
            console.print(f"[red]{each.contender.name}:[/] {escape(fault)}")
    for goal in goals({each.contender.name: each for each in found}):
        console.print(escape(str(goal)), style="red" if goal.met is False else None)


def write(
    found: Sequence[Found], versions: Mapping[str, str], path: Path = RESULTS
) -> dict[str, Any]:
    """Keep everything as JSON; the document."""
    made = {each.contender.name: each for each in found}
    document = {
        "measured_at": now(),
        "machine": machine(versions),
        "table": rows(found),
        "targets": [{"text": goal.text, "met": goal.met} for goal in goals(made)],
        "contenders": [each.document() for each in found],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return document


def write_readme(found: Sequence[Found], path: Path = README) -> bool:
    """Put the table between the README's marks; False where it has none."""
    begin, end = MARKS
    text = path.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not marked.search(text):
        return False
    table = f"{begin}\n{markdown(found)}\n{end}"
    path.write_text(marked.sub(lambda _: table, text), encoding="utf-8")
    return True
