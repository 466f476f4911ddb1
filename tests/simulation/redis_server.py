"""
Redis, as far as the streams need it: each method is one command, done in one step.

`tests/simulation/test_conformance.py` holds it against a real server.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from shared.streams import BEGINNING, EntryId, entry_id

T = TypeVar("T")
Fields = list[bytes]
END = EntryId(2**64 - 1, 2**64 - 1)


def to_bytes(value: Any) -> bytes:
    """*value* as the client sends it."""
    return value if isinstance(value, bytes) else str(value).encode()


@dataclass(slots=True)
class Stream:
    ids: list[EntryId] = field(default_factory=list)
    entries: list[Fields] = field(default_factory=list)
    last: EntryId = BEGINNING
    added: int = 0
    groups: list[bytes] = field(default_factory=list)

    def copy(self) -> Stream:
        groups = list(self.groups)
        return Stream(list(self.ids), list(self.entries), self.last, self.added, groups)


@dataclass(slots=True)
class RedisServer:
    """One server's data; *clock* is its own, in milliseconds."""

    clock: Callable[[], int]
    replid: str = "0" * 40
    is_replica: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    expires_ms: dict[str, int] = field(default_factory=dict)
    #: Told of what matters to the promises: (command, key, what it wrote or took away).
    watch: Callable[[str, str, Any], None] = lambda *_: None

    # --- keys ---------------------------------------------------------------------------

    def _get(self, key: str, kind: type[T]) -> T | None:
        if self.expires_ms.get(key, END.ms) <= self.clock():
            self.delete(key)
        value = self.data.get(key)
        if value is not None and not isinstance(value, kind):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _made(self, key: str, kind: type[T]) -> T:
        value = self._get(key, kind)
        if value is None:
            value = self.data[key] = kind()
        return value

    def delete(self, *keys: str) -> int:
        for key in keys:
            self.expires_ms.pop(key, None)
        return sum(self.data.pop(key, None) is not None for key in keys)

    def exists(self, key: str) -> int:
        return int(self._get(key, object) is not None)

    def get(self, key: str) -> bytes | None:
        return self._get(key, bytes)

    def set(self, key: str, value: Any, *, nx: bool = False, px: int | None = None) -> bool | None:
        if nx and self.exists(key):
            return None
        self.delete(key)
        self.data[key] = to_bytes(value)
        if px is not None:
            self.expires_ms[key] = self.clock() + px
        return True

    def pexpire(self, key: str, ttl_ms: int) -> int:
        if not self.exists(key):
            return 0
        self.expires_ms[key] = self.clock() + ttl_ms
        return 1

    def time(self) -> tuple[int, int]:
        now_ms = self.clock()
        return now_ms // 1000, now_ms % 1000 * 1000

    def info(self, section: str = "replication") -> dict[str, Any]:
        role = "slave" if self.is_replica else "master"
        return {"role": role, "master_replid": self.replid, "section": section}

    # --- hashes -------------------------------------------------------------------------

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return dict(self._get(key, dict) or {})

    def hget(self, key: str, name: Any) -> bytes | None:
        return (self._get(key, dict) or {}).get(to_bytes(name))

    def hset(
        self,
        key: str,
        name: Any = None,
        value: Any = None,
        mapping: Mapping[Any, Any] | None = None,
    ) -> int:
        given = dict(mapping or {})
        if name is not None:
            given[name] = value
        stored = self._made(key, dict)
        before = len(stored)
        stored.update((to_bytes(each), to_bytes(what)) for each, what in given.items())
        self.watch("hset", key, stored)
        return len(stored) - before

    def hdel(self, key: str, *names: Any) -> int:
        stored = self._get(key, dict)
        if stored is None:
            return 0
        gone = [value for name in names if (value := stored.pop(to_bytes(name), None)) is not None]
        if not stored:
            self.delete(key)
        self.watch("hdel", key, gone)
        return len(gone)

    def hincrby(self, key: str, name: Any, by: int = 1) -> int:
        stored = self._made(key, dict)
        number = int(stored.get(to_bytes(name), b"0")) + by
        stored[to_bytes(name)] = to_bytes(number)
        return number

    # --- streams ------------------------------------------------------------------------

    def xadd(self, key: str, fields: Mapping[Any, Any], id: str = "*") -> bytes:
        stream = self._get(key, Stream) or Stream()
        wanted = self._next_id(stream) if id == "*" else entry_id(id.encode())
        if wanted <= stream.last:
            raise ResponseError(
                "The ID specified in XADD is equal or smaller than the target stream top item"
            )
        raw = [to_bytes(each) for pair in fields.items() for each in pair]
        stream.ids.append(wanted)
        stream.entries.append(raw)
        stream.last = wanted
        stream.added += 1
        self.data[key] = stream
        self.watch("xadd", key, raw)
        return str(wanted).encode()

    def _next_id(self, stream: Stream) -> EntryId:
        now = EntryId(self.clock(), 0)
        return now if now > stream.last else EntryId(stream.last.ms, stream.last.seq + 1)

    def xread(self, streams: Mapping[str, str], count: int) -> list[Any]:
        [(key, after)] = streams.items()
        found = self._range(key, entry_id(after.encode()), END, count)
        return [[key.encode(), found]] if found else []

    def xrange(self, key: str, min: str = "-", max: str = "+", count: int = 2**31) -> list[Any]:
        low = BEGINNING
        if min.startswith("("):
            low = entry_id(min[1:].encode())
        elif min != "-":
            exact = entry_id(min.encode())
            low = EntryId(exact.ms, exact.seq - 1) if exact.seq else EntryId(exact.ms - 1, END.seq)
        return self._range(key, low, END if max == "+" else entry_id(max.encode()), count)

    def _range(self, key: str, after: EntryId, through: EntryId, count: int) -> list[Any]:
        stream = self._get(key, Stream)
        if stream is None:
            return []
        start = bisect_right(stream.ids, after)
        end = min(bisect_right(stream.ids, through), start + count)
        return [[str(stream.ids[i]).encode(), stream.entries[i]] for i in range(start, end)]

    def xinfo_stream(self, key: str) -> dict[str, Any]:
        stream = self._get(key, Stream)
        if stream is None:
            raise ResponseError("no such key")
        first, last = self._range(key, BEGINNING, END, 1), None
        if stream.ids:
            last = [str(stream.ids[-1]).encode(), stream.entries[-1]]
        return {
            "length": len(stream.ids),
            "last-generated-id": str(stream.last).encode(),
            "entries-added": stream.added,
            "first-entry": first[0] if first else None,
            "last-entry": last,
        }

    def xgroup_create(self, key: str, name: str, id: str = "$", mkstream: bool = False) -> bool:
        if not (mkstream or self.exists(key)):
            raise ResponseError("The XGROUP subcommand requires the key to exist.")
        stream = self._made(key, Stream)
        if to_bytes(name) in stream.groups:
            raise ResponseError("BUSYGROUP Consumer Group name already exists")
        stream.groups.append(to_bytes(name))
        return True

    def xinfo_groups(self, key: str) -> list[dict[str, Any]]:
        stream = self._get(key, Stream)
        if stream is None:
            raise ResponseError("no such key")
        return [{"name": name} for name in stream.groups]

    def xlen(self, key: str) -> int:
        stream = self._get(key, Stream)
        return len(stream.ids) if stream else 0

    def xtrim(
        self,
        key: str,
        *,
        minid: str | None = None,
        maxlen: int | None = None,
        approximate: bool = True,
    ) -> int:
        if approximate:
            raise NotImplementedError("only exact trimming is understood")
        stream = self._get(key, Stream)
        if stream is None:
            return 0
        if minid is not None:
            lowest = entry_id(minid.encode())
            gone = sum(1 for each in stream.ids if each < lowest)
        else:
            gone = max(0, len(stream.ids) - (maxlen or 0))
        if gone:
            self.watch("xtrim", key, stream.entries[:gone])
        del stream.ids[:gone], stream.entries[:gone]
        return gone

    def xsetid(self, key: str, last: str, *more: Any) -> bytes:
        stream = self._get(key, Stream)
        if stream is None:
            raise ResponseError("no such key")
        wanted = entry_id(last.encode())
        if stream.ids and wanted < stream.ids[-1]:
            raise ResponseError(
                "The ID specified in XSETID is smaller than the target stream top item"
            )
        stream.last = wanted
        options = {str(name).upper(): value for name, value in zip(*[iter(more)] * 2, strict=True)}
        if "ENTRIESADDED" in options:
            stream.added = int(options["ENTRIESADDED"])
        return b"OK"

    # --- what happens to it ---------------------------------------------------------------

    def flushall(self) -> None:
        self.data.clear()
        self.expires_ms.clear()

    def snapshot(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Its data now: what a replica holds, or a disk."""
        copied = {
            key: value.copy() if isinstance(value, Stream) else copy(value)
            for key, value in self.data.items()
        }
        return copied, dict(self.expires_ms)

    def become(self, snapshot: tuple[dict[str, Any], dict[str, int]], replid: str) -> None:
        """Another server with that data takes over."""
        self.data, self.expires_ms = snapshot
        self.replid = replid
