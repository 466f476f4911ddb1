"""The scripts of shared/lua once more, in Python, on the model of Redis."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from shared.scripts import script
from shared.streams import EntryId, entry_id
from tests.simulation.redis_server import RedisServer, to_bytes

_MARK = b"moonwake:"

Script = Callable[[RedisServer, Sequence[str], Sequence[Any]], Any]


def append(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
    """Deletes and clears only: how a record resolves is no matter of the drain."""
    now_ms = redis.clock()
    if now_ms > int(args[0]):
        return [now_ms]
    replies: list[Any] = []
    names, values = list(keys), list(args[1:])
    while names:
        events = int(values[0])
        group_keys, names = names[: 2 + 3 * events], names[2 + 3 * events :]
        group_args, values = values[1 : 4 + 7 * events], values[4 + 7 * events :]
        replies.append(_append_group(redis, group_keys, group_args, now_ms))
    return [now_ms, *replies]


def _append_group(
    redis: RedisServer, keys: Sequence[str], args: Sequence[Any], now_ms: int
) -> list[Any]:
    stream, stamp = keys[0], mark(redis, keys[:1], ())
    ids: list[bytes] = []
    first = _first_id(redis, keys, args, now_ms, stamp)
    for at, (pending, version, cached) in zip(
        range(3, len(args), 7), zip(*[iter(keys[2:])] * 3, strict=True), strict=True
    ):
        op, name, body = args[at], args[at + 1], args[at + 6]
        identity = redis.xadd(stream, {b"d": body, b"i": stamp}, id="*" if ids else first)
        ids.append(identity)
        if op == b"c":
            redis.delete(pending, cached)
            redis.hset(pending, "clear", identity + b" " + stamp + b" c")
        elif op == b"d":
            redis.hset(pending, name, identity + b" " + stamp + b" d")
            redis.hdel(cached, name)
        else:
            raise NotImplementedError("the model appends deletes and clears")
        redis.set(version, identity)
    incarnation = int(redis.hget(keys[1], "incarnation") or 1)
    added, last = _about(redis, stream)
    return [added, stamp, incarnation, last, *ids]


def mark(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> bytes:
    if redis.is_replica:
        return b""
    if not _mark_of(redis, keys[0]):
        seconds, microseconds = redis.time()
        name = f"moonwake:{seconds % 65536:04x}{microseconds // 16 % 65536:04x}"
        redis.xgroup_create(keys[0], name, mkstream=True)
    return _stamp_of(redis, keys[0])


def _mark_of(redis: RedisServer, stream: str) -> bytes:
    if not redis.exists(stream):
        return b""
    names = [group["name"] for group in redis.xinfo_groups(stream)]
    return next((name[len(_MARK) :] for name in names if name.startswith(_MARK)), b"")


def _stamp_of(redis: RedisServer, stream: str) -> bytes:
    return b"" if redis.is_replica else to_bytes(redis.replid[:8]) + _mark_of(redis, stream)


def _about(redis: RedisServer, stream: str) -> tuple[int, bytes]:
    """Entries added and the last id."""
    if not redis.exists(stream):
        return 0, b"0-0"
    about = redis.xinfo_stream(stream)
    return about["entries-added"], about["last-generated-id"]


def _first_id(
    redis: RedisServer, keys: Sequence[str], args: Sequence[Any], now_ms: int, stamp: bytes
) -> str:
    published = EntryId(*(int(redis.hget(keys[1], name) or 0) for name in ("last_ms", "last_seq")))
    seen_stamp, seen_added, seen_ms = to_bytes(args[0]), int(args[1]), int(args[2])
    if now_ms > max(published.ms, seen_ms):
        return "*"
    added, last = _about(redis, keys[0])
    at = entry_id(last)
    sane_ms = now_ms + 60_000
    least_ms = published.ms if at < published and published.ms <= sane_ms else -1
    is_another = seen_stamp != stamp or added < seen_added
    if seen_stamp and is_another and at.ms <= seen_ms <= sane_ms:
        least_ms = max(least_ms, seen_ms)
    return f"{least_ms + 1}-0" if least_ms >= 0 else "*"


def publish(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    published = redis.hgetall(keys[0])
    before = (int(published.get(b"incarnation", -1)), int(published.get(b"batch_no", -1)))
    if (int(args[0]), int(args[1])) <= before:
        return 0
    if to_bytes(args[6]) not in {b"", _stamp_of(redis, keys[1])}:
        return -1
    redis.hset(keys[0], mapping={"incarnation": args[0], "batch_no": args[1]})
    redis.hset(keys[0], mapping=dict(zip(*[iter(args[7:])] * 2, strict=True)))
    if to_bytes(args[3]) != b"0":
        names = ("batch_entries", "batch_rows", "batch_ms")
        redis.hset(keys[0], mapping=dict(zip(names, args[3:6], strict=True)))
        for name, by in (("batches", 1), ("entries", args[3]), ("rows", args[4])):
            redis.hincrby(keys[0], name, int(by))
        redis.hincrby(keys[0], "write_ms", int(args[5]))
    for version, cached in zip(*[iter(keys[2:])] * 2, strict=True):
        redis.set(version, args[2])
        redis.delete(cached)
    return 1


def clear_pending(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> str:
    last, stamps = EntryId(int(args[0]), int(args[1])), to_bytes(args[2])
    at = 3
    for key in keys:
        count = int(args[at])
        for name in args[at + 1 : at + 1 + count]:
            value = redis.hget(key, name)
            if value is not None and _is_written(value, last, stamps):
                redis.hdel(key, name)
        at += count + 1
    return "OK"


def _is_written(value: bytes, last: EntryId, stamps: bytes) -> bool:
    found = re.match(rb"(\d+-\d+) (\w+) ", value)
    if found is None:
        return True
    if stamps:
        through = re.search(found[2] + rb"=(\d+-\d+)", stamps)
        if through is None:
            return False
        last = entry_id(through[1])
    return entry_id(found[1]) <= last


def trim(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    if _stamp_of(redis, keys[0]) != to_bytes(args[0]):
        return 0
    return redis.xtrim(keys[0], minid=str(args[1]), approximate=False)


def leave(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    redis.hset(keys[0], "visited_ms", redis.clock())
    if redis.hget(keys[0], "holder") == to_bytes(args[0]):
        redis.hdel(keys[0], "holder")
    return 1


def renew(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    if redis.get(keys[0]) != to_bytes(args[0]):
        return 0
    if to_bytes(args[1]) == b"0":
        return redis.delete(keys[0])
    return redis.pexpire(keys[0], int(args[1]))


#: By text: that is all a client is given.
SCRIPTS: dict[str, Script] = {
    script("append"): append,
    script("mark"): mark,
    script("publish"): publish,
    script("clear_pending"): clear_pending,
    script("leave"): leave,
    script("renew"): renew,
    script("trim"): trim,
}
