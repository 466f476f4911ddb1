"""
The last comparison: what was acknowledged, what the streams held, what MySQL holds.

Everything that must have been applied is known one by one: the tapes, in order, without
what was lost. So a loss and a double cannot cancel out, in whatever sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import orjson

from shared.mysql import Pool
from shared.redis import redis_errors
from shared.streams import EntryId, stream_info
from tests.faults.accounts import Account, accounts, incidents, letters
from tests.faults.histories import History, Outcome
from tests.faults.lifetimes import Lifetimes
from tests.faults.losses import Losses, applied_in_order, doubled, losses_of
from tests.faults.orders import out_of_order
from tests.faults.site import Site
from tests.faults.tap import Entry
from tests.mysql_state import held, wanted
from tests.oracle import Oracle
from tests.plays import STREAM, rows
from worker.jobs.aggregate import aggregate

#: Differences of one kind that are told one by one.
_TOLD = 20


@dataclass(slots=True)
class Reckoning:
    """*differences*: what moonwake did wrong, in words; empty if it kept its promises."""

    differences: list[str] = field(default_factory=list)
    applied: int = 0
    losses: Losses = field(default_factory=Losses)

    def add(self, kind: str, found: Sequence[str]) -> None:
        """Tell each of *found*, and only the number of those beyond some."""
        self.differences += [f"{kind}: {each}" for each in found[:_TOLD]]
        if len(found) > _TOLD:
            self.differences.append(f"{kind}: {len(found) - _TOLD} more")


async def reckon(
    site: Site,
    pool: Pool,
    users: Sequence[History],
    strangers: Sequence[History],
    lifetimes: Lifetimes,
) -> Reckoning:
    """Compare everything; the site is healed, drained and without load. *pool* goes directly.

    What *strangers* added Redis alone answered for: nobody can count the last of it exactly.
    """
    await aggregate(pool, site.settings)
    await site.tap.catch_up()
    acknowledged = acknowledged_by(users)
    losses = losses_of(
        site.rewinds,
        await incidents(pool),
        acknowledged,
        lifetimes.were_steady,
        site.forgotten,
    )
    applied = [applied_in_order(tapes, losses.lost) for tapes in site.tap.tapes]
    reckoning = Reckoning(applied=sum(map(len, applied)), losses=losses)
    reckoning.add("loss", losses.differences)
    _compare_tapes(reckoning, site, acknowledged | acknowledged_by(strangers))
    reckoning.add("order", out_of_order(users, applied))
    await _compare_streams(reckoning, site)
    await _compare_books(reckoning, site, pool, applied)
    await _compare_state(reckoning, site, pool, applied)
    return reckoning


def acknowledged_by(histories: Sequence[History]) -> set[str]:
    """Identities of what these were told is kept."""
    return {
        write.identity
        for history in histories
        for write in history.writes
        if write.outcome is Outcome.ACKNOWLEDGED
    }


def _compare_tapes(reckoning: Reckoning, site: Site, acknowledged: set[str]) -> None:
    """Acknowledged is in a stream; nothing is in one twice."""
    tapped = {
        entry.identity for tapes in site.tap.tapes for tape in tapes for entry in tape.entries
    }
    reckoning.add("acknowledged and never in a stream", sorted(acknowledged - tapped))
    for tapes in site.tap.tapes:
        reckoning.add("twice in a stream", doubled(tapes))


async def _compare_streams(reckoning: Reckoning, site: Site) -> None:
    """The streams hold what they held, but for what faults took away."""
    async with site.redis.direct() as redis:
        for shard, tapes in enumerate(site.tap.tapes):
            with redis_errors():
                found = await redis.xrange(site.keys.stream(STREAM, shard))
            there = {identity.decode() for identity, _ in found}
            gone = [str(e.id) for e in tapes[-1].entries if str(e.id) not in there]
            reckoning.add(f"gone from the stream of shard {shard} without a fault", gone)


async def _compare_books(
    reckoning: Reckoning, site: Site, pool: Pool, applied: list[list[Entry]]
) -> None:
    """Each shard's books: added = applied + dead + lost (nothing is pending any more)."""
    found = await accounts(pool)
    told = {incident.shard: 0 for incident in await incidents(pool)}
    for incident in await incidents(pool):
        told[incident.shard] += incident.lost
    kept_letters = sorted(await letters(pool))
    async with site.redis.direct() as redis:
        for shard, entries in enumerate(applied):
            with redis_errors():
                added = stream_info(await redis.xinfo_stream(site.keys.stream(STREAM, shard))).added
            account = found.get(shard, Account(shard, 1, EntryId(0, 0), 0, 0, 0, 0, 0))
            poison = sum(map(_is_poison, entries))
            expected = (len(entries) - poison, poison, told.get(shard, 0))
            if expected != (account.applied, account.dead, account.lost):
                reckoning.add("books", [f"(applied, dead, lost) {expected}, MySQL has {account}"])
            if account.base + added != account.ordinal:
                reckoning.add("books", [f"{added} were added, MySQL has {account}"])
            if account.ordinal != account.applied + account.dead + account.lost:
                reckoning.add("books", [f"the ordinal is no sum: {account}"])
    dead = sorted(
        (shard, entry.id)
        for shard, entries in enumerate(applied)
        for entry in entries
        if _is_poison(entry)
    )
    reckoning.add(
        "dead letters", [] if dead == kept_letters else [f"expected {dead}, found {kept_letters}"]
    )


async def _compare_state(
    reckoning: Reckoning, site: Site, pool: Pool, applied: list[list[Entry]]
) -> None:
    """Every row of every table the sink writes, and the folded days."""
    oracle = Oracle(site.settings.stats_timezone)
    for entries in applied:
        now_ms = 0
        for entry in entries:
            # Time does not go back with the ids of another master.
            now_ms = max(now_ms, entry.id.ms)
            if not _is_poison(entry):
                oracle.apply(orjson.loads(entry.body), now_ms)
    expected, found = wanted(oracle), await held(pool)
    expected["folded day"] = _days(oracle)
    found["folded day"] = {
        row[0]: row[1:]
        for row in await rows(
            pool,
            "SELECT stat_date, total_plays, total_watch_time, unique_users FROM play_stats_daily",
        )
    }
    for kind, values in expected.items():
        different = [
            f"{key}: expected {values.get(key)}, found {found[kind].get(key)}"
            for key in sorted(values.keys() | found[kind].keys())
            if values.get(key) != found[kind].get(key)
        ]
        reckoning.add(kind, different)


def _days(oracle: Oracle) -> dict[date, tuple[int, int, int]]:
    days: dict[date, list[int]] = {}
    for (day, _), (plays, watched_s) in oracle.daily.items():
        sums = days.setdefault(date.fromisoformat(day), [0, 0, 0])
        sums[0] += plays
        sums[1] += watched_s
        sums[2] += 1
    return {day: (sums[0], sums[1], sums[2]) for day, sums in days.items()}


def _is_poison(entry: Entry) -> bool:
    """Whether *entry* is one of those that strangers got wrong."""
    return b'"nonsense"' in entry.body
