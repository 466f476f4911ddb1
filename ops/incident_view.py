"""Incidents as `moonwake status` shows them: what was lost, then what might have been."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared.incidents import LISTED_DAYS, Harmless, Incident, Incidents

_SHOWN = 10
_HEADINGS = ("when (UTC)", "shard", "cause", "lost", "amended", "between ids")
_HARMLESS = {
    "master_changed": "Redis was restarted or failed over {masters} in {days} days, nothing lost",
    "recreated": "{shards} began anew in {days} days, nothing lost: all of it was in MySQL",
    "mysql_restored": "MySQL was behind in {shards} in {days} days, nothing lost: Redis had it",
    "trimmed": "{shards} were trimmed by a stranger in {days} days, nothing lost",
}


def render_incidents(found: Incidents | None) -> RenderableType | None:
    """The section of the last days; None where there is nothing to say.

    *found* is None while MySQL does not answer.
    """
    if found is None:
        return Text("incidents: unknown while MySQL does not answer")
    parts: list[RenderableType] = []
    if events := _events(found.listed):
        parts.append(Text(f"incidents of the last {LISTED_DAYS} days, in entries", "dim"))
        parts.append(_table(events[:_SHOWN]))
        if len(events) > _SHOWN:
            parts.append(Text(f"{len(events) - _SHOWN} older ones: moonwake status --json"))
    parts += [Text(told) for told in map(_harmless, found.harmless)]
    return Group(*parts) if parts else None


def _events(listed: Iterable[Incident]) -> list[Sequence[Incident]]:
    """Each loss by itself; where nobody knows of any, all shards of one restart together."""

    events: dict[tuple[Any, ...], list[Incident]] = {}
    for each in listed:
        event = (each.id,) if each.lost else (each.cause, each.stamp[:8])
        events.setdefault(event, []).append(each)
    return list(events.values())


def _table(events: Iterable[Sequence[Incident]]) -> Table:
    """As the tables beside it: where the terminal is too narrow the last column is folded."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=heading is not _HEADINGS[-1], overflow="fold")
    for same in events:
        newest = same[0]
        one = len(same) == 1
        table.add_row(
            f"{newest.detected_at:%m-%d %H:%M}",
            f"{newest.stream}:{newest.shard}" if one else f"{len(same)} shards",
            newest.cause,
            Text(newest.count, "red" if newest.lost else ""),
            "yes" if any(each.amended_at for each in same) else "",
            f"{_told(newest.after_id)} {_told(newest.before_id)}" if one else "",
        )
    return table


def _told(entry_id: str) -> str:
    """An entry's id; a dash where there is none: nothing was applied before, or nothing came."""
    return "-" if entry_id == "0-0" else entry_id


def _harmless(told: Harmless) -> str:
    shards = f"{told.shards:,} stream" + ("s" if told.shards != 1 else "")
    masters = "once" if told.masters == 1 else f"{told.masters:,} times"
    return _HARMLESS[told.cause].format(masters=masters, shards=shards, days=LISTED_DAYS)


# --- the document -------------------------------------------------------------------


def incident_documents(found: Incidents | None) -> list[dict[str, Any]] | None:
    """Every listed incident, newest first; None while MySQL does not answer."""
    return None if found is None else [_document(each) for each in found.listed]


def _document(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.id,
        "stream": incident.stream,
        "shard": incident.shard,
        "incarnation": incident.incarnation,
        "cause": incident.cause,
        "lost": incident.lost,
        "exact": incident.is_exact,
        "after_id": incident.after_id,
        "before_id": incident.before_id,
        "stamp": incident.stamp,
        "detected_at": _iso(incident.detected_at),
        "amended_at": _iso(incident.amended_at),
    }


def incident_totals(found: Incidents | None) -> dict[str, Any] | None:
    """Sums of all time over all streams, by cause; None while MySQL does not answer."""
    if found is None:
        return None
    return {
        "incidents": sum(total.incidents for total in found.totals),
        "lost": sum(total.lost for total in found.totals),
        "inexact": sum(total.inexact for total in found.totals),
        "by_cause": {
            cause: {
                "incidents": sum(each.incidents for each in same),
                "lost": sum(each.lost for each in same),
                "inexact": sum(each.inexact for each in same),
            }
            for cause, same in _by_cause(found)
        },
    }


def _by_cause(found: Incidents) -> list[tuple[str, list[Any]]]:
    ordered = sorted(found.totals, key=lambda total: total.cause)
    return [(cause, list(same)) for cause, same in groupby(ordered, lambda total: total.cause)]


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
