"""
The streams' verbs: append a group, read a chunk, publish a checkpoint, trim.

What must change together is one script (shared/lua); each says what it keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.connections import redis_errors
from shared.errors import StoreDown
from shared.keys import CLEAR_FIELD, Keys, UserKeys

_LUA = Path(__file__).parent / "lua"
#: Lua unpacks at most some thousand values at once.
_FIELDS_PER_CALL = 1_000
_USERS_PER_CALL = 100
#: Nobody waits for housekeeping: it leaves room for those that others wait for.
_BETWEEN_CALLS_S = 0.002


def script(name: str) -> str:
    """The text of shared/lua/*name*.lua."""
    return (_LUA / f"{name}.lua").read_text(encoding="utf-8")


class EntryId(NamedTuple):
    """A position in a stream; compares as (ms, seq), never as text."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


BEGINNING = EntryId(0, 0)


def entry_id(text: bytes) -> EntryId:
    ms, _, seq = text.partition(b"-")
    return EntryId(int(ms), int(seq))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One row of `stream_checkpoints`: the position of a shard and its books.

    ordinal = applied + dead + lost: how many entries up to *last* were ever added.
    *base* is what earlier incarnations of the stream added.
    """

    incarnation: int = 1
    batch_no: int = 0
    last: EntryId = BEGINNING
    base: int = 0
    applied: int = 0
    dead: int = 0
    lost: int = 0
    replid: str = ""

    @property
    def ordinal(self) -> int:
        return self.applied + self.dead + self.lost


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


# --- reading ------------------------------------------------------------------


async def read_chunk(redis: Redis, stream: str, after: EntryId, count: int) -> Chunk:
    """Up to *count* entries after *after*, oldest first, and the stream's figures.

    One MULTI, so that 'the read reached the tail' and 'so many were added' speak of
    the same moment (protocol 11). Raises `StoreDown`.
    """
    with redis_errors():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.xread({stream: str(after)}, count=count)
            pipe.xinfo_stream(stream)
            pipe.time()
            read, about, time = await pipe.execute(raise_on_error=False)
    return Chunk(_entries_of(read), stream_info(about), now_ms_of(time))


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
    if isinstance(reply, Exception):
        raise StoreDown(f"Redis: {reply}") from reply
    if not reply:
        return ()
    [(_, entries)] = reply
    return entries  # type: ignore[no-any-return]


def stream_info(reply: Any) -> StreamInfo:
    """XINFO STREAM's reply; a stream that does not exist has no entries."""
    if isinstance(reply, ResponseError) and "no such key" in str(reply):
        return StreamInfo()
    if isinstance(reply, Exception):
        raise StoreDown(f"Redis: {reply}") from reply
    if "entries-added" not in reply:
        raise StoreDown("this server's XINFO STREAM has no entries-added: Redis 7.0+ is needed")
    first = reply["first-entry"]
    return StreamInfo(
        added=reply["entries-added"],
        length=reply["length"],
        last=entry_id(reply["last-generated-id"]),
        first=entry_id(first[0]) if first else None,
    )


def now_ms_of(reply: Any) -> int:
    """TIME's reply in milliseconds."""
    if isinstance(reply, Exception):
        raise StoreDown(f"Redis: {reply}") from reply
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000


@dataclass(frozen=True, slots=True)
class BatchWork:
    """What one batch took; summed up beside the published checkpoint for metrics."""

    entries: int = 0
    rows: int = 0
    write_ms: int = 0


# --- published checkpoint -----------------------------------------------------


async def publish(
    redis: Redis,
    key: str,
    checkpoint: Checkpoint,
    token: str,
    outdated: Iterable[UserKeys] = (),
    work: BatchWork | None = None,
) -> bool:
    """Publish *checkpoint* if it is newer, and drop the cached copies of *outdated* users.

    Both in one script (protocol 16). *token* is a fresh version: a reader that is
    loading meanwhile must not fill the cache. *work* is added to the shard's figures.
    False: a later checkpoint is published.
    """
    keys = [key]
    for user in outdated:
        keys += (user.version, user.cached)
    done = work or BatchWork()
    fields: list[Any] = [checkpoint.incarnation, checkpoint.batch_no, token]
    fields += (done.entries, done.rows, done.write_ms)
    for name, value in _published_fields(checkpoint).items():
        fields += (name, value)
    with redis_errors():
        return bool(await redis.register_script(script("publish"))(keys, fields))


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
    }


def published_of(fields: dict[bytes, bytes]) -> Checkpoint | None:
    """The checkpoint in a published hash (HGETALL), None where none was published yet."""
    if b"batch_no" not in fields:
        return None

    def number(name: bytes) -> int:
        return int(fields.get(name, b"0"))

    return Checkpoint(
        incarnation=number(b"incarnation"),
        batch_no=number(b"batch_no"),
        last=EntryId(number(b"last_ms"), number(b"last_seq")),
        base=number(b"base"),
        applied=number(b"applied"),
        dead=number(b"dead"),
        lost=number(b"lost"),
        replid=fields.get(b"replid", b"").decode(),
    )


async def read_published(redis: Redis, key: str) -> Checkpoint | None:
    with redis_errors():
        return published_of(await cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(key)))


async def clear_pending(
    redis: Redis, last: EntryId, written: Iterable[tuple[UserKeys, Sequence[bytes]]]
) -> None:
    """Remove the overlay fields in *written* whose entries are at or below *last*.

    Housekeeping: a field left behind does not count (protocol 7). Raises `StoreDown`.
    """
    run = redis.register_script(script("clear_pending"))
    keys: list[str] = []
    arguments: list[Any] = [last.ms, last.seq]
    with redis_errors():
        for user, fields in written:
            for start in range(0, len(fields), _FIELDS_PER_CALL):
                part = fields[start : start + _FIELDS_PER_CALL]
                keys.append(user.pending)
                arguments += (len(part), *part)
            if len(keys) >= _USERS_PER_CALL:
                await run(keys, arguments)
                keys, arguments = [], [last.ms, last.seq]
                await asyncio.sleep(_BETWEEN_CALLS_S)
        if keys:
            await run(keys, arguments)


async def trim(redis: Redis, stream: str, checkpoint: EntryId, keep_after_ms: int) -> int:
    """Drop entries below both *checkpoint* and *keep_after_ms*; the number dropped.

    Exact MINID: never XDEL or MAXLEN, or entries-added minus length would no longer
    count what was trimmed. Raises `StoreDown`.
    """
    minid = min(checkpoint, EntryId(max(keep_after_ms, 0), 0))
    with redis_errors():
        return int(await redis.xtrim(stream, minid=str(minid), approximate=False))


# --- what appends send --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """One event on its way into a shard's stream and its user's overlay."""

    shard: int
    user: UserKeys
    op: bytes  # s, d or c, as append.lua takes them
    field: bytes  # record key, or the clear field
    body: bytes
    offset: int = 0  # of the record in the body
    total_episodes: int = 0
    original_episodes: int | None = None
    has_save_time: bool = False


def append_arguments(
    keys: Keys, stream: str, group: Sequence[Append], not_after_ms: int, stamp: bytes
) -> tuple[Any, ...]:
    """KEYS count, KEYS and ARGV of append.lua for the events of one shard."""
    shard = group[0].shard
    names: list[Any] = [keys.stream(stream, shard), keys.checkpoint(stream, shard)]
    values: list[Any] = [not_after_ms, stamp]
    for event in group:
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


__all__ = [
    "BEGINNING",
    "CLEAR_FIELD",
    "Append",
    "BatchWork",
    "Checkpoint",
    "Chunk",
    "EntryId",
    "RawEntry",
    "StreamInfo",
    "append_arguments",
    "clear_pending",
    "entry_id",
    "now_ms_of",
    "publish",
    "published_of",
    "read_chunk",
    "read_published",
    "read_range",
    "script",
    "stream_info",
    "trim",
    "written_field",
]
