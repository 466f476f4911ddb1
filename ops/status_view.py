"""An overview as a person reads it, in 100 columns, and as a program does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.attention import attention, notes
from ops.incident_view import incident_documents, incident_totals, render_incidents
from ops.overview import Overview, Shard
from ops.workers import Worker
from shared.published import Checkpoint

#: With more shards than this, quiet ones are left out unless asked for.
_SHARDS_SHOWN = 16
_STATE_STYLES = {"stopped": "bold red", "closed": "red", "waiting": "yellow", "draining": "green"}
_UNKNOWN = "?"


def render(view: Overview, *, every: bool = False) -> RenderableType:
    """What needs attention first, then shards, books, incidents and workers."""
    at = datetime.fromtimestamp(view.at_ms / 1000, UTC)
    shown = _shown(view.shards, every=every)
    left_out = len(view.shards) - len(shown)
    parts: list[RenderableType] = [_verdict(view), Text(f"at {at:%Y-%m-%d %H:%M:%S} UTC\n", "dim")]
    parts += [_positions(view, shown), Text(), _books(view, shown)]
    if left_out:
        parts.append(Text(f"{left_out} quiet shards are in the totals alone; --all shows them"))
    if (incidents := render_incidents(view.incidents)) is not None:
        parts += [Text(), incidents]
    return Group(*parts, Text(), _workers(view))


def _verdict(view: Overview) -> Text:
    faults = attention(view)
    text = Text("needs attention" if faults else "healthy", "bold red" if faults else "bold green")
    for fault in faults:
        text.append(f"\n- {fault}", "red")
    for note in notes(view):
        text.append(f"\n- {note}", "yellow")
    return text


def _shown(shards: Sequence[Shard], *, every: bool) -> list[Shard]:
    if every or len(shards) <= _SHARDS_SHOWN:
        return list(shards)
    return [
        shard
        for shard in shards
        if shard.state not in {"idle", "draining"}
        or shard.difference != 0
        or shard.status.lag_s > 1
    ]


def _table(*headings: str) -> Table:
    """Numbers to the right, except under headings that begin with a blank.

    Where the terminal is too narrow the last column is folded: it holds no number.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(
            heading.strip(),
            justify="left" if heading.startswith(" ") else "right",
            no_wrap=heading is not headings[-1],
            overflow="fold",
        )
    return table


def _positions(view: Overview, shown: Iterable[Shard]) -> Table:
    table = _table(
        *(" shard", "lag", "lag s", "entries/s", "checkpoint", "batch", "in MySQL"),
        *("worker", " state"),
    )
    numbers = {worker.id: str(number) for number, worker in enumerate(view.workers, 1)}
    for shard in shown:
        status = shard.status
        table.add_row(
            shard.name,
            _count(status.lag),
            f"{status.lag_s:,.1f}",
            _count(shard.rate),
            str(status.published.last) if status.published else "none",
            _count(status.checkpoint.batch_no),
            _count(shard.committed.batch_no if shard.committed else None),
            numbers[shard.worker.id] if shard.worker else "",
            Text(shard.state, _STATE_STYLES.get(shard.state, "")),
        )
    totals = _totals(view.shards)
    table.add_row(
        "total",
        _count(totals["lag"]),
        f"{totals['lag_s']:,.1f}",
        _count(totals["rate"]),
        style="bold",
    )
    return table


def _books(view: Overview, shown: Iterable[Shard]) -> Table:
    table = _table(
        *(" shard", "added =", "applied +", "dead +", "pending +", "lost +", "difference")
    )
    rows = [(shard.name, _books_of(shard)) for shard in shown]
    for name, books in (*rows, ("total", _totals(view.shards)["books"])):
        difference = books["difference"]
        table.add_row(
            name,
            *(_count(books[column]) for column in ("added", "applied", "dead", "pending", "lost")),
            Text(_count(difference), "bold red" if difference else ""),
            style="bold" if name == "total" else "",
        )
    return table


def _workers(view: Overview) -> RenderableType:
    if not view.workers:
        return Text("no workers")
    table = _table("worker", " name", " state", " up since", " drains now")
    for number, worker in enumerate(view.workers, 1):
        since = datetime.fromtimestamp(worker.started_ms / 1000, UTC)
        state = "live" if worker.is_live else f"silent for {worker.silent_ms / 1000:,.0f} s"
        table.add_row(
            str(number),
            worker.name,
            Text(state, "green" if worker.is_live else "red"),
            f"{since:%Y-%m-%d %H:%M:%S}",
            " ".join(worker.shards) if worker.is_live else "",
        )
    return table


def _count(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"


# --- the document -------------------------------------------------------------------


def document(view: Overview) -> dict[str, Any]:
    """For `--json`; its shape is told in the command's help."""
    faults = attention(view)
    return {
        "healthy": not faults,
        "attention": faults,
        "notes": notes(view),
        "at_ms": view.at_ms,
        "mysql_fault": view.mysql_fault,
        "totals": {**_totals(view.shards), "incidents": incident_totals(view.incidents)},
        "incidents": incident_documents(view.incidents),
        "shards": [_shard(shard) for shard in view.shards],
        "workers": [_worker(worker) for worker in view.workers],
    }


def _shard(shard: Shard) -> dict[str, Any]:
    status = shard.status
    return {
        "stream": shard.stream,
        "shard": status.shard,
        "state": shard.state,
        "lag": status.lag,
        "lag_s": status.lag_s,
        "rate": shard.rate,
        "closed": status.closed,
        "stopped": shard.stopped,
        "worker": shard.worker.id if shard.worker else None,
        "lease": status.lease,
        "takeovers": status.work.takeovers,
        "published": _position(status.published),
        "mysql": _position(shard.committed),
        "books": _books_of(shard),
    }


def _position(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {
        "id": str(checkpoint.last),
        "incarnation": checkpoint.incarnation,
        "batch_no": checkpoint.batch_no,
    }


def _books_of(shard: Shard) -> dict[str, int | None]:
    checkpoint = shard.status.checkpoint
    return {
        "added": shard.status.added,
        "applied": checkpoint.applied,
        "dead": checkpoint.dead,
        "pending": shard.pending,
        "lost": checkpoint.lost,
        "difference": shard.difference,
    }


def _totals(shards: Sequence[Shard]) -> dict[str, Any]:
    """Sums, None where a shard's own figure is unknown; the greatest lag_s."""
    books = [_books_of(shard) for shard in shards]
    return {
        "lag": _sum([shard.status.lag for shard in shards]),
        "lag_s": max((shard.status.lag_s for shard in shards), default=0.0),
        "rate": _sum([shard.rate for shard in shards]),
        "books": {name: _sum([each[name] for each in books]) for name in books[0]},
    }


def _sum(values: Sequence[Any]) -> Any:
    return None if None in values else sum(values)


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "live": worker.is_live,
        "silent_s": worker.silent_ms / 1000,
        "started_ms": worker.started_ms,
        "shards": worker.shards,
    }
