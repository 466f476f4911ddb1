"""What in an overview somebody has to look at now, and what is merely worth knowing."""

from __future__ import annotations

from ops.overview import Overview
from shared.incidents import NEW_HOURS

#: A shard this far behind needs somebody to look, though workers live.
BEHIND_S = 60.0


def attention(view: Overview) -> list[str]:
    """What somebody has to look at now, worst first; empty when all is well."""
    faults = [fault for judge in _JUDGES for fault in judge(view)]
    if view.mysql_fault:
        faults.append(f"MySQL does not answer, events wait in Redis: {view.mysql_fault}")
    return faults


def notes(view: Overview) -> list[str]:
    """What is worth knowing and asks for nothing at once; some of it never goes away."""
    checkpoints = [shard.status.checkpoint for shard in view.shards]
    lost = sum(checkpoint.lost for checkpoint in checkpoints)
    dead = sum(checkpoint.dead for checkpoint in checkpoints)
    told = []
    if lost:
        told.append(f"entries lost by Redis in all time: {lost:,}")
    told += _new_losses(view)
    if dead:
        told.append(
            f"entries that became dead letters in all time: {dead:,}"
            " (moonwake dead-letters list: those that wait for a decision)"
        )
    if not view.live_workers:
        told.append("no worker lives: start `python -m worker`")
    return told


def _new_losses(view: Overview) -> list[str]:
    """What was lost is gone and asks for nothing at once; its cause may strike again."""
    totals = view.incidents.totals if view.incidents else ()
    lost = sum(total.new_lost for total in totals)
    inexact = any(total.new_inexact for total in totals)
    if lost:
        count = f"{'at least' if inexact else 'exactly'} {lost:,}"
        were = "entry was" if lost == 1 else "entries were"
        return [f"{count} {were} lost in the last {NEW_HOURS} hours: see incidents"]
    if inexact:
        return [
            f"in the last {NEW_HOURS} hours nobody could tell whether anything was lost:"
            " see incidents"
        ]
    return []


def _wrong_books(view: Overview) -> list[str]:
    return [
        f"{shard.name}: the books do not balance, difference {shard.difference:+,}"
        for shard in view.shards
        if shard.difference
    ]


def _turned_back(view: Overview) -> list[str]:
    """MySQL was read last, so that it can only be behind if it lost commits."""
    return [
        f"{shard.name}: MySQL is at batch {shard.committed.batch_no:,}, behind the published"
        f" {shard.status.published.batch_no:,}: it lost commits or was restored"
        for shard in view.shards
        if shard.committed is not None
        and shard.status.published is not None
        and (shard.committed.incarnation, shard.committed.batch_no)
        < (shard.status.published.incarnation, shard.status.published.batch_no)
    ]


def _stopped(view: Overview) -> list[str]:
    return [
        f"{shard.name} is stopped: {shard.stopped}"
        f" (mend the cause, then moonwake resume {shard.status.shard})"
        for shard in view.shards
        if shard.stopped is not None
    ]


def _closed(view: Overview) -> list[str]:
    names = [shard.name for shard in view.shards if shard.status.closed]
    if not names:
        return []
    return [f"above the high-water mark, new writes are answered 503: {', '.join(names)}"]


def _unattended(view: Overview) -> list[str]:
    waiting = sum(shard.status.lag or 0 for shard in view.shards)
    if view.live_workers or not waiting:
        return []
    return [f"no worker lives and {waiting:,} entries wait: start `python -m worker`"]


def _behind(view: Overview) -> list[str]:
    return [
        f"{shard.name} is {shard.status.lag_s:,.0f} s behind"
        for shard in view.shards
        if shard.status.lag_s > BEHIND_S and shard.stopped is None and view.live_workers
    ]


def _unknown(view: Overview) -> list[str]:
    return [
        f"{shard.name}: entries were trimmed and no checkpoint is published, so its lag is unknown"
        for shard in view.shards
        if shard.status.lag is None
    ]


_JUDGES = (_wrong_books, _turned_back, _stopped, _closed, _unattended, _behind, _unknown)
