"""
What the fronts' testimonies come to: how much was acknowledged, and whether all is known.

A front that was frozen or far away testifies late; its incident is amended then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from shared.errors import CheckpointMoved
from shared.mysql import Cursor, transaction
from shared.published import Checkpoint
from shared.streams import BEGINNING, EntryId
from shared.witness import Testimony, forget_testimonies
from worker import checkpoints, incidents
from worker.deps import Deps
from worker.incidents import Cause, Incident
from worker.retained import Before, read_retained

log = structlog.get_logger()

#: A front that never testifies: the count stays 'at least'.
_NOBODY = "?"


@dataclass(frozen=True, slots=True)
class Hearing:
    """The testimonies about the end of one incarnation."""

    base: int
    #: Those whose numbers are of that incarnation.
    told: tuple[Testimony, ...]
    #: Those that only show that more happened than anybody counted.
    unclear: tuple[Testimony, ...]

    @classmethod
    def of(cls, testimonies: Iterable[Testimony], ended: Checkpoint) -> Hearing:
        """Those of *testimonies* that speak of *ended* or of nothing that is known."""
        told: list[Testimony] = []
        unclear: list[Testimony] = []
        for each in testimonies:
            # A later one than MySQL knows of: it was restored from a backup.
            is_later = each.sighting.incarnation > ended.incarnation
            of_this = each.sighting.incarnation == ended.incarnation
            of_its_master = ended.replid in {"", each.sighting.stamp}
            if of_this and of_its_master and not each.again:
                told.append(each)
            elif of_this or of_its_master or is_later or each.again:
                unclear.append(each)
        return cls(ended.base, tuple(told), tuple(unclear))

    @property
    def all(self) -> tuple[Testimony, ...]:
        return self.told + self.unclear

    @property
    def added(self) -> int:
        """The highest ordinal that anybody saw, 0 where nobody testified."""
        return max((self.base + each.sighting.added for each in self.told), default=0)

    @property
    def last(self) -> EntryId:
        """The last id that anybody saw."""
        return max((each.sighting.last for each in self.told), default=BEGINNING)

    @property
    def stamp(self) -> str:
        """Of the stream that they saw: one, but before the first batch; empty if nobody did."""
        return min((each.sighting.stamp for each in self.told), default="")

    @property
    def heard(self) -> frozenset[str]:
        return frozenset(each.front for each in self.told)

    @property
    def expected(self) -> frozenset[str]:
        """Whose testimony it takes to know all that was acknowledged."""
        nobody = {_NOBODY} if self.unclear else set()
        return frozenset(nobody.union(*(each.fronts for each in self.told)))

    def expected_of(self, foreign: int) -> frozenset[str]:
        """The same, where the stream has so many *foreign* entries: nobody witnessed those."""
        return self.expected.union({_NOBODY} if foreign else ())

    @property
    def is_complete(self) -> bool:
        return bool(self.heard) and self.expected <= self.heard


async def hear_late(
    deps: Deps, stream: str, shard: int, committed: Checkpoint, late: Sequence[Testimony]
) -> Checkpoint:
    """Amend what was counted before these testimonies came; the checkpoint afterwards.

    Raises `CheckpointMoved` if another worker is ahead.
    """
    new, survived = committed, await _foreign(deps, stream, shard, committed, late)
    async with transaction(deps.pool) as cursor:
        if await checkpoints.lock(cursor, stream, shard) != committed:
            raise CheckpointMoved(f"{stream} shard {shard}")
        for incarnation in sorted({each.sighting.incarnation for each in late}):
            about = [each for each in late if each.sighting.incarnation == incarnation]
            found = await incidents.find_end(cursor, stream, shard, incarnation)
            of_unseen = None if found else _unseen(committed, about, survived)
            more = await _amend(cursor, stream, shard, found or of_unseen, about)
            new = replace(new, base=new.base + more, lost=new.lost + more)
        if new != committed:
            new = replace(new, batch_no=new.batch_no + 1)
            await checkpoints.advance(cursor, stream, shard, committed, new, None)
    await forget_testimonies(deps.redis, deps.keys.stream(stream, shard), late)
    return new


async def _foreign(
    deps: Deps, stream: str, shard: int, committed: Checkpoint, late: Sequence[Testimony]
) -> int:
    """Entries that carry no stamp: of a master that nobody saw they may all have survived."""
    if all(_is_known(each, committed) for each in late):
        return 0
    before = Before(committed, committed, None)
    retained = await read_retained(deps.redis, deps.keys.stream(stream, shard), before)
    # What was trimmed is counted here too.
    return retained.info.added - retained.entries + retained.foreign


def _is_known(testimony: Testimony, committed: Checkpoint) -> bool:
    stamp = testimony.sighting.stamp
    return stamp == committed.replid or stamp in committed.stamps


def _unseen(committed: Checkpoint, late: Sequence[Testimony], survived: int) -> Incident | None:
    """The end of an incarnation that no worker noticed; None if none of *late* shows one.

    Where no worker ever saw an entry of it, all of them are lost but what *survived*
    without a stamp; else nobody can tell how many.
    """
    others = [each for each in late if each.sighting.stamp != committed.replid]
    if not others:
        return None
    unknown = [each for each in others if not _is_known(each, committed)]
    is_clear = bool(unknown) and not survived
    last = max(each.sighting.last for each in others)
    return Incident(
        incarnation=late[0].sighting.incarnation,
        cause=Cause.MASTER_CHANGED,
        lost=0,
        is_exact=False,
        after=BEGINNING,
        before=last,
        position=BEGINNING,
        ended_stamp=(unknown or others)[0].sighting.stamp,
        stamp=committed.replid,
        base=0,
        seen_added=survived if unknown else max(each.sighting.added for each in others),
        expected=frozenset(() if is_clear else {_NOBODY}),
    )


async def _amend(
    cursor: Cursor, stream: str, shard: int, old: Incident | None, late: Sequence[Testimony]
) -> int:
    """Add *late*, all about one incarnation, to the incident that ended it; how many more
    entries are lost.
    """
    incarnation = late[0].sighting.incarnation
    told = [
        each
        for each in late
        if old is not None and not each.again and each.sighting.stamp == old.ended_stamp
    ]
    if len(told) < len(late):
        log.warning("testimony_unclear", stream=stream, shard=shard, incarnation=incarnation)
    if old is None:
        return 0
    new = _amended(old, told, is_all=len(told) == len(late))
    if not old.id:
        await incidents.insert(cursor, stream, shard, new)
    elif new != old:
        await incidents.amend(cursor, stream, shard, old, new)
    if new != old:
        log.error(
            "incident_amended",
            stream=stream,
            shard=shard,
            incarnation=incarnation,
            lost=new.lost,
            exact=new.is_exact,
        )
    return new.lost - old.lost


def _amended(old: Incident, told: Sequence[Testimony], *, is_all: bool) -> Incident:
    """*old* and what was *told*; unless that *is_all* nobody knows how much there was."""
    heard = old.heard | {each.front for each in told}
    nobody = set() if is_all else {_NOBODY}
    expected = old.expected.union(nobody, *(each.fronts for each in told))
    seen_added = max([old.seen_added, *(old.base + each.sighting.added for each in told)])
    return replace(
        old,
        lost=old.lost + seen_added - old.seen_added,
        is_exact=expected <= heard or (is_all and old.is_exact),
        seen_added=seen_added,
        heard=heard,
        expected=expected,
    )
