"""
A shard's checkpoint, and its published copy in Redis: what readers and fronts go by.

The row in MySQL is the truth; whoever commits publishes it afterwards (protocol 16).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from redis.asyncio import Redis

from shared.errors import Rewound
from shared.keys import UserKeys
from shared.redis import redis_errors
from shared.scripts import run_script
from shared.streams import BEGINNING, EntryId, entry_id

#: One of what `stamps_text` writes.
_STAMP = re.compile(r"(\w+)=(\d+)-(\d+)(!?)")
#: Lua unpacks at most some thousand values at once.
_FIELDS_PER_CALL = 1_000
_USERS_PER_CALL = 100
#: Nobody waits for housekeeping: it leaves room for those that others wait for.
_BETWEEN_CALLS_S = 0.002
#: Stamps that a checkpoint remembers: the latest ones, and those that the stream retains.
STAMPS_KEPT, STAMPS_MAX = 16, 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One row of `stream_checkpoints`: the position of a shard and its books.

    ordinal = applied + dead + lost: how many entries up to *last* were ever added.
    *base* is what earlier incarnations of the stream added, *replid* the stamp of the
    stream that holds this one (protocol 24). *stamps* tells of every stream, the latest
    last, up to which of its entries they were dealt with: ids of one need not be greater
    than another's.
    """

    incarnation: int = 1
    batch_no: int = 0
    last: EntryId = BEGINNING
    base: int = 0
    applied: int = 0
    dead: int = 0
    lost: int = 0
    replid: str = ""
    stamps: Mapping[str, EntryId] = field(default_factory=dict)
    #: Those of them that have no entry left to be dealt with: what they had beyond that is
    #: lost, unless a backup of Redis brings it back.
    over: frozenset[str] = frozenset()
    #: Entries are dated at least this (Unix ms): after a rewind the clock of a new master
    #: may be behind that of the old one, and the last write wins all the same.
    floor_ms: int = 0
    #: Entries up to this one were applied before, to a database that was replaced by a
    #: backup: cached copies may have been filled between the two.
    again_through: EntryId = BEGINNING

    @property
    def ordinal(self) -> int:
        return self.applied + self.dead + self.lost

    @property
    def is_new(self) -> bool:
        """Was nothing of the stream ever dealt with, nor any master known?"""
        return not self.replid and self.ordinal == 0 and self.last == BEGINNING

    @property
    def number(self) -> tuple[int, int]:
        """(incarnation, batch number): grows with every commit of the shard."""
        return (self.incarnation, self.batch_no)

    def with_applied(self, through: Mapping[str, EntryId]) -> Checkpoint:
        """The same, with the entries of these stamps dealt with up to these ids."""
        if not through:
            return self
        kept = {stamp: last for stamp, last in self.stamps.items() if stamp not in through}
        return self._with_stamps({**kept, **through})

    def knowing(self, met: Collection[str]) -> Checkpoint:
        """The same, aware of the stamps that were *met*, though none of their entries may be
        dealt with, and of no more old ones than it takes.
        """
        latest = list(self.stamps)[-STAMPS_KEPT:]
        kept = {
            stamp: last for stamp, last in self.stamps.items() if stamp in latest or stamp in met
        }
        new = dict.fromkeys(sorted(set(met) - kept.keys()), BEGINNING)
        return self._with_stamps({**kept, **new})

    def waiting_for(self, stamps: Collection[str]) -> Checkpoint:
        """The same, where only the streams with *stamps* have entries to be dealt with, or may
        get any: all others are over.
        """
        return replace(self, over=frozenset(self.stamps.keys() - set(stamps)))

    def _with_stamps(self, stamps: Mapping[str, EntryId]) -> Checkpoint:
        kept = dict(list(stamps.items())[-STAMPS_MAX:])
        return replace(self, stamps=kept, over=self.over & kept.keys())

    def is_settled(self, at: EntryId, stamp: str | None) -> bool:
        """Was the entry *at*, of the stream with *stamp*, dealt with?

        By its id alone where it carries no stamp, or none is known.
        """
        if stamp is None or not self.stamps:
            return at <= self.last
        through = self.stamps.get(stamp)
        return through is not None and at <= through

    def settles(self, at: EntryId, stamp: str) -> bool:
        """The same for an overlay field of the Redis that this is published in.

        Where its stamp is not known it is an old one, long forgotten, or a new one: of
        those append.lua gives every id above the published checkpoint.
        """
        return at <= self.stamps.get(stamp, self.last)


#: The columns of `stream_checkpoints` that `checkpoint_of` takes.
CHECKPOINT_COLUMNS = (
    "incarnation, batch_no, last_ms, last_seq, base, applied, dead, lost, replid, stamps,"
    " floor_ms, again_through_id"
)


def checkpoint_of(row: Sequence[Any]) -> Checkpoint:
    """The checkpoint in a row of `CHECKPOINT_COLUMNS`."""
    incarnation, batch_no, last_ms, last_seq, base, applied, dead, lost, replid, *others = row
    text, floor_ms, again_through = others
    stamps, over = stamps_in(text)
    return Checkpoint(
        incarnation=incarnation,
        batch_no=batch_no,
        last=EntryId(last_ms, last_seq),
        base=base,
        applied=applied,
        dead=dead,
        lost=lost,
        replid=replid,
        stamps=stamps,
        over=over,
        floor_ms=floor_ms,
        again_through=entry_id(again_through.encode()),
    )


@dataclass(frozen=True, slots=True)
class BatchWork:
    """What one batch took; summed up beside the published checkpoint for metrics."""

    entries: int = 0
    rows: int = 0
    write_ms: int = 0


async def publish(
    redis: Redis,
    keys: tuple[str, str],
    checkpoint: Checkpoint,
    token: str,
    outdated: Iterable[UserKeys] = (),
    work: BatchWork | None = None,
) -> bool:
    """Publish *checkpoint* if it is newer, and drop the cached copies of *outdated* users.

    Both in one script (protocol 16). *keys* are those of the published copy and of the
    stream. *token* is a fresh version: a reader that is loading meanwhile must not fill the
    cache. *work* is added to the shard's figures. False: a later checkpoint is published.
    Raises `Rewound` where the stream is another than it was: readers would take its new
    entries for old.
    """
    names = [*keys]
    for user in outdated:
        names += (user.version, user.cached)
    done = work or BatchWork()
    fields: list[Any] = [checkpoint.incarnation, checkpoint.batch_no, token]
    fields += (done.entries, done.rows, done.write_ms)
    fields.append(checkpoint.replid)
    for name, value in _published_fields(checkpoint).items():
        fields += (name, value)
    answer = await run_script(redis, "publish", names, fields)
    if answer < 0:
        raise Rewound("the stream is not the one that was drained")
    return bool(answer)


def _published_fields(checkpoint: Checkpoint) -> dict[str, int | str]:
    return {
        "last_ms": checkpoint.last.ms,
        "last_seq": checkpoint.last.seq,
        "base": checkpoint.base,
        "ordinal": checkpoint.ordinal,
        "applied": checkpoint.applied,
        "dead": checkpoint.dead,
        "lost": checkpoint.lost,
        "replid": checkpoint.replid,
        "stamps": stamps_text(checkpoint),
        "floor_ms": checkpoint.floor_ms,
    }


def published_of(fields: dict[bytes, bytes]) -> Checkpoint | None:
    """The checkpoint in a published hash (HGETALL), None where none was published yet."""
    if b"batch_no" not in fields:
        return None

    def number(name: bytes) -> int:
        return int(fields.get(name, b"0"))

    stamps, over = stamps_in(fields.get(b"stamps", b"").decode(errors="replace"))
    return Checkpoint(
        incarnation=number(b"incarnation"),
        batch_no=number(b"batch_no"),
        last=EntryId(number(b"last_ms"), number(b"last_seq")),
        base=number(b"base"),
        applied=number(b"applied"),
        dead=number(b"dead"),
        lost=number(b"lost"),
        replid=fields.get(b"replid", b"").decode(),
        stamps=stamps,
        over=over,
        floor_ms=number(b"floor_ms"),
    )


def stamps_text(checkpoint: Checkpoint) -> str:
    """Its stamps as both stores keep them: STAMP=ID, separated by commas, with ! if it is over."""
    return ",".join(
        f"{stamp}={last}{'!' if stamp in checkpoint.over else ''}"
        for stamp, last in checkpoint.stamps.items()
    )


def stamps_in(text: str) -> tuple[dict[str, EntryId], frozenset[str]]:
    """What `stamps_text` wrote: how far each stamp is dealt with, and those that are over.

    Anything else in *text* is passed over: a shard must not stop for it.
    """
    found = _STAMP.findall(text)
    over = frozenset(stamp for stamp, _, _, mark in found if mark)
    return {stamp: EntryId(int(ms), int(seq)) for stamp, ms, seq, _ in found}, over


async def read_published(redis: Redis, key: str) -> Checkpoint | None:
    with redis_errors():
        return published_of(await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(key)))


# --- what it makes superfluous -------------------------------------------------


async def clear_pending(
    redis: Redis, upto: Checkpoint, written: Iterable[tuple[UserKeys, Sequence[bytes]]]
) -> None:
    """Remove the overlay fields in *written* that *upto* proves to be in MySQL.

    Housekeeping: a field left behind does not count (protocol 7). Those of stamps that are
    over stay, for a backup may bring their entries back. Raises `StoreDown`.
    """
    keys: list[str] = []
    position = (upto.last.ms, upto.last.seq, stamps_text(replace(upto, over=frozenset())))
    arguments: list[Any] = [*position]
    for user, fields in written:
        for start in range(0, len(fields), _FIELDS_PER_CALL):
            part = fields[start : start + _FIELDS_PER_CALL]
            keys.append(user.pending)
            arguments += (len(part), *part)
        if len(keys) >= _USERS_PER_CALL:
            await run_script(redis, "clear_pending", keys, arguments)
            keys, arguments = [], [*position]
            await asyncio.sleep(_BETWEEN_CALLS_S)
    if keys:
        await run_script(redis, "clear_pending", keys, arguments)
