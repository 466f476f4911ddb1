"""The streams' verbs: append a group, read a chunk, trim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.errors import StoreDown
from shared.keys import Keys, UserKeys, testimonies_of
from shared.redis import redis_errors, sound
from shared.scripts import run_script

#: More entries than that come in no millisecond.
SEQ_MAX = 2**63 - 1


class EntryId(NamedTuple):
    """A position in a stream; compares as (ms, seq), never as text."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    def just_before(self) -> EntryId:
        """The greatest id below this one."""
        if self.seq:
            return EntryId(self.ms, self.seq - 1)
        return EntryId(self.ms - 1, SEQ_MAX) if self.ms else self


BEGINNING = EntryId(0, 0)
#: As stamp.lua has them.
_MASTER_CHARACTERS, STAMP_CHARACTERS, _MARK = 8, 16, b"moonwake:"


def entry_id(text: bytes) -> EntryId:
    ms, _, seq = text.partition(b"-")
    return EntryId(int(ms), int(seq))


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What Redis says of one stream; *added* counts every XADD since it was created."""

    added: int = 0
    length: int = 0
    last: EntryId = BEGINNING
    first: EntryId | None = None


#: One entry as Redis sends it: id and alternating field names and values.
RawEntry = tuple[bytes, list[bytes]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries after a position, and the stream as it was at that same moment."""

    entries: Sequence[RawEntry]
    info: StreamInfo
    now_ms: int
    #: Which stream of which master this is (`stamp_of`).
    stamp: str
    #: Do fronts testify that it lost entries (shared/witness.py)?
    disputed: bool


# --- reading ------------------------------------------------------------------


async def read_chunk(redis: Redis, stream: str, after: EntryId, count: int) -> Chunk:
    """Up to *count* entries after *after*, oldest first, and the stream's figures.

    One MULTI, so that 'the read reached the tail', 'so many were added' and 'this master
    holds it' speak of the same moment (protocol 11, 24). Raises `StoreDown`.
    """
    with redis_errors():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.xread({stream: str(after)}, count=count)
            pipe.xinfo_stream(stream)
            pipe.time()
            pipe.info("replication")
            pipe.xinfo_groups(stream)
            pipe.exists(testimonies_of(stream))
            replies = await pipe.execute(raise_on_error=False)
    read, about, time, replication, groups, testimonies = replies
    return Chunk(
        entries=_entries_of(read),
        info=stream_info(about),
        now_ms=now_ms_of(time),
        stamp=stamp_of(replication, groups),
        disputed=testimonies == 1,
    )


async def read_range(
    redis: Redis, stream: str, after: EntryId, through: EntryId | None, count: int
) -> Sequence[RawEntry]:
    """Up to *count* entries with after < id <= through (None: the end). Raises `StoreDown`."""
    with redis_errors():
        entries: Sequence[RawEntry] = await redis.xrange(
            stream, f"({after}", "+" if through is None else str(through), count=count
        )
    return entries


def _entries_of(reply: Any) -> Sequence[RawEntry]:
    if not sound(reply):
        return ()
    [(_, entries)] = reply
    return entries  # type: ignore[no-any-return]


def stream_info(reply: Any) -> StreamInfo:
    """XINFO STREAM's reply; a stream that does not exist has no entries."""
    if isinstance(reply, ResponseError) and "no such key" in str(reply):
        return StreamInfo()
    if "entries-added" not in sound(reply):
        raise StoreDown("this server's XINFO STREAM has no entries-added: Redis 7.0+ is needed")
    first = reply["first-entry"]
    return StreamInfo(
        added=reply["entries-added"],
        length=reply["length"],
        last=entry_id(reply["last-generated-id"]),
        first=entry_id(first[0]) if first else None,
    )


def stamp_of(replication: Any, groups: Any) -> str:
    """Which stream of which master: INFO's *replication* and XINFO's *groups* tell.

    Another run of Redis, whoever takes over from it, and a stream that was made anew have
    another one (shared/lua/stamp.lua). Raises `StoreDown` for a replica: what it holds may
    be older than what was acknowledged.
    """
    if sound(replication).get("role") != "master":
        raise StoreDown("this Redis is a replica now")
    names = [] if isinstance(groups, Exception) else [group["name"] for group in groups]
    marks = [name[len(_MARK) :].decode() for name in names if name.startswith(_MARK)]
    return str(replication["master_replid"])[:_MASTER_CHARACTERS] + "".join(marks[:1])


def is_same_master(stamp: str, other: str) -> bool:
    """Are two stamps of one run of one master?"""
    return stamp[:_MASTER_CHARACTERS] == other[:_MASTER_CHARACTERS]


def is_same_stream(stamp: str, other: str) -> bool:
    """Are two stamps of one stream, though maybe on different masters?"""
    return stamp[_MASTER_CHARACTERS:] == other[_MASTER_CHARACTERS:]


async def mark_stream(redis: Redis, stream: str) -> str:
    """The stamp of *stream*, which is made and marked where it was not. Raises `StoreDown`."""
    stamp: bytes = await run_script(redis, "mark", [stream])
    if not stamp:
        raise StoreDown("this Redis is a replica now")
    return stamp.decode()


def now_ms_of(reply: Any) -> int:
    """TIME's reply in milliseconds."""
    seconds, microseconds = sound(reply)
    return int(seconds) * 1000 + int(microseconds) // 1000


# --- housekeeping --------------------------------------------------------------


async def trim(
    redis: Redis, stream: str, stamp: str, checkpoint: EntryId, keep_after_ms: int
) -> int:
    """Drop entries below both *checkpoint* and *keep_after_ms*; the number dropped.

    Exact MINID: never XDEL or MAXLEN, or entries-added minus length would no longer
    count what was trimmed. Nothing where it is another stream than *stamp*'s: ids of its
    entries say nothing about this checkpoint. Raises `StoreDown`.
    """
    minid = min(checkpoint, EntryId(max(keep_after_ms, 0), 0))
    return int(await run_script(redis, "trim", [stream], [stamp, str(minid)]))


# --- what appends send --------------------------------------------------------


class Append(Struct, frozen=True, gc=False):
    """One event on its way into a shard's stream and its user's overlay.

    A struct, because there is one for each request: a dataclass takes ten times as long to make.
    """

    shard: int
    user: UserKeys
    op: bytes  # s, d or c, as append.lua takes them
    field: bytes  # record key, or the clear field
    body: bytes
    offset: int = 0  # of the record in the body
    total_episodes: int = 0
    original_episodes: int | None = None
    has_save_time: bool = False


class ShardGroup(NamedTuple):
    """Events on their way to one shard (none: only a look at it), and what it was seen to be."""

    shard: int
    events: Sequence[Append]
    #: Of the stream as it was last seen; empty, 0 and 0 where it never was.
    stamp: str = ""
    added: int = 0
    last_ms: int = 0


def append_arguments(
    keys: Keys, stream: str, not_after_ms: int, groups: Sequence[ShardGroup]
) -> tuple[Any, ...]:
    """KEYS count, KEYS and ARGV of append.lua."""
    names: list[Any] = []
    values: list[Any] = [not_after_ms]
    for shard, events, *seen in groups:
        names += (keys.stream(stream, shard), keys.checkpoint(stream, shard))
        values += (len(events), *seen)
        for event in events:
            user = event.user
            names += (user.pending, user.version, user.cached)
            original = event.original_episodes
            values += (
                event.op,
                event.field,
                b"" if original is None else original,
                event.total_episodes,
                b"1" if event.has_save_time else b"0",
                event.offset,
                event.body,
            )
    return (len(names), *names, *values)


def written_field(source: str, content_id: str) -> bytes:
    """The overlay field and record key of one content."""
    return f"{source}+{content_id}".encode()
