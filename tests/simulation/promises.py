"""What must hold at every step, and what must hold once everything has come to rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from shared.keys import Keys, testimonies_of
from shared.published import CHECKPOINT_COLUMNS, Checkpoint, checkpoint_of, published_of
from tests.simulation.mysql_server import MysqlServer
from tests.simulation.redis_server import RedisServer, Stream
from tests.simulation.sink import STREAM
from worker.letters import unpack_fields

_ROWS = f"SELECT shard, ordinal, {CHECKPOINT_COLUMNS} FROM stream_checkpoints"
NEW = Checkpoint()


def number_in(fields: list[bytes]) -> int:
    """The number of an entry, whatever else is wrong with it."""
    for value in fields[1::2]:
        _, _, rest = value.partition(b'"number":')
        if rest:
            return int(rest.partition(b",")[0].strip(b" }"))
    raise AssertionError(f"an entry without a number: {fields}")


@dataclass(slots=True)
class Promises:
    """Watches both servers. *broken* is the first promise that was."""

    keys: Keys
    shards: int
    redis: RedisServer
    mysql: MysqlServer
    broken: str = ""
    #: Every entry that was ever added: its number, and its shard.
    added: dict[int, int] = field(default_factory=dict)
    #: The numbers that a front was told are kept.
    acknowledged: set[int] = field(default_factory=set)
    #: A request may have been under way while MySQL went back: it knew more than MySQL now.
    mysql_went_back: bool = False
    #: Did more than one thing make the stores lose entries? Nobody can tell them apart, so
    #: a count may be too low then, but not in silence.
    several_losses: bool = False
    committed: dict[int, Checkpoint] = field(default_factory=dict)
    #: The highest (incarnation, batch number) that this Redis was told per shard.
    _told: dict[int, tuple[int, int]] = field(default_factory=dict)
    _streams: dict[str, int] = field(default_factory=dict)
    _published: dict[str, int] = field(default_factory=dict)
    #: overlay value -> number of its entry
    _overlaid: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for shard in range(self.shards):
            self._streams[self.keys.stream(STREAM, shard)] = shard
            self._published[self.keys.checkpoint(STREAM, shard)] = shard
        self.redis.watch = self._saw
        self.mysql.committed = self._saw_commit

    def breaks(self, what: str) -> None:
        self.broken = self.broken or what

    # --- at every step --------------------------------------------------------------------

    def _saw(self, command: str, key: str, what: Any) -> None:
        if command == "xadd" and key in self._streams:
            self._saw_add(self._streams[key], self.redis.data[key], what)
        elif self.mysql_went_back:
            return
        elif command == "xtrim":
            self._saw_trim(self._streams[key], what)
        elif command == "hset" and key in self._published:
            self._saw_publish(self._published[key], published_of(what))
        elif command == "hdel" and key.endswith(":pending"):
            self._saw_clean_up(key, what)

    def _saw_add(self, shard: int, stream: Stream, fields: list[bytes]) -> None:
        number = number_in(fields)
        self.added[number] = shard
        self._overlaid[b"%s %s" % (str(stream.last).encode(), fields[-1])] = number

    def _saw_trim(self, shard: int, entries: list[list[bytes]]) -> None:
        kept = self._kept(shard)
        published = self._published_of(shard)
        for fields in entries:
            if not kept[number_in(fields)]:
                self.breaks(f"shard {shard}: entry {number_in(fields)} is trimmed, but not kept")
        last = self.redis.data[self.keys.stream(STREAM, shard)].ids[len(entries) - 1]
        committed = self.committed.get(shard, NEW)
        if published is None or (
            published.incarnation == committed.incarnation and last > published.last
        ):
            self.breaks(f"shard {shard}: trimmed up to {last}, which nobody published")

    def _saw_publish(self, shard: int, published: Checkpoint | None) -> None:
        committed = self.committed.get(shard, NEW)
        if published is None:
            return
        if published.number > committed.number:
            self.breaks(f"shard {shard}: {published} is published, {committed} committed")
        if published.number < self._told.get(shard, (0, 0)):
            self.breaks(f"shard {shard}: {published} is published after {self._told[shard]}")
        self._told[shard] = published.number

    def _saw_clean_up(self, key: str, values: list[bytes]) -> None:
        """An overlay field may go when its entry is kept, or lost, but not while it waits."""
        shard = int(key[key.index("{") + 1 : key.index("}")])
        for value in values:
            number = self._overlaid.get(value.rpartition(b" ")[0], 0)
            if number in self._readable(shard) and not self._kept(shard)[number]:
                self.breaks(f"shard {shard}: the overlay of entry {number} is gone, it waits")

    def _saw_commit(self) -> None:
        for shard, ordinal, *row in self.mysql.select(_ROWS):
            old, new = self.committed.get(shard), checkpoint_of(row)
            self.committed[shard] = new
            if new.ordinal != ordinal:
                self.breaks(f"shard {shard}: ordinal {ordinal} of {new}")
            if old is None or old == new:
                continue
            if new.number <= old.number:
                self.breaks(f"shard {shard}: {new} replaced {old}")
            if new.incarnation == old.incarnation and new.last < old.last:
                self.breaks(f"shard {shard}: the checkpoint went back from {old} to {new}")
            if new.ordinal < old.ordinal:
                self.breaks(f"shard {shard}: the ordinal went back from {old} to {new}")

    def redis_went_back(self) -> None:
        """Redis holds less than it was told."""
        self._told.clear()

    def restored(self) -> None:
        """MySQL holds an older state: what was seen of it counts no more."""
        self.mysql_went_back = True
        self.committed.clear()
        self._saw_commit()

    # --- at the end -----------------------------------------------------------------------

    def is_at_rest(self) -> str:
        """Why not everything that can be applied is, and published; '' if it is."""
        for shard in range(self.shards):
            key = self.keys.stream(STREAM, shard)
            stream = self.redis.data.get(key, Stream())
            committed, published = self.committed.get(shard, NEW), self._published_of(shard)
            if committed.base + stream.added != committed.ordinal:
                return f"shard {shard}: {stream.added} were added, MySQL has {committed}"
            if committed.batch_no and (published is None or published.number != committed.number):
                return f"shard {shard}: {committed} is not published, {published} is"
            if self.redis.exists(testimonies_of(key)):
                return f"shard {shard}: a testimony is not heard"
        return ""

    def check_end(self) -> None:
        for shard in range(self.shards):
            self._check_shard(shard)

    def _check_shard(self, shard: int) -> None:
        books, kept = self.committed.get(shard, NEW), self._kept(shard)
        twice = sorted(number for number, times in kept.items() if times > 1)
        if twice:
            self.breaks(f"shard {shard}: applied more than once: {twice}")
        missing = {number for number, at in self.added.items() if at == shard and not kept[number]}
        waiting = missing & self._readable(shard)
        if waiting:
            self.breaks(f"shard {shard}: never applied, though it can be read: {sorted(waiting)}")
        self._check_loss(shard, books.lost, missing)
        [(applied, dead)] = self.mysql.select(
            "SELECT (SELECT COUNT(*) FROM simulated_entries WHERE shard = ? AND times > 0),"
            " (SELECT COUNT(*) FROM dead_letters WHERE shard = ?)",
            shard,
            shard,
        )
        if (applied, dead) != (books.applied, books.dead):
            self.breaks(f"shard {shard}: {applied} applied, {dead} dead, the books say {books}")

    def _check_loss(self, shard: int, booked: int, missing: set[int]) -> None:
        """Exactly what is missing where it is said so, else no more; and never in silence."""
        told = self.mysql.select("SELECT lost, exact FROM incidents WHERE shard = ?", shard)
        about = (
            f"shard {shard}: {booked} booked as lost, incidents {told}, missing {sorted(missing)}"
        )
        if booked > len(missing):
            self.breaks(f"{about}: more than are")
        if sum(lost for lost, _ in told) != booked and not self.mysql_went_back:
            self.breaks(f"{about}: they differ")
        acknowledged = sorted(missing & self.acknowledged)
        is_exact = all(exact for _, exact in told)
        enough = min(1, len(acknowledged)) if self.several_losses else len(acknowledged)
        if is_exact and booked < enough:
            self.breaks(f"{about}: said to be exact, but acknowledged were {acknowledged}")

    # --- what there is ----------------------------------------------------------------------

    def _readable(self, shard: int) -> set[int]:
        stream = self.redis.data.get(self.keys.stream(STREAM, shard), Stream())
        return set(map(number_in, stream.entries))

    def _kept(self, shard: int) -> Counter[int]:
        """How often each entry of *shard* was applied or became a dead letter."""
        kept = Counter[int]()
        for number, times in self.mysql.select(
            "SELECT number, times FROM simulated_entries WHERE shard = ?", shard
        ):
            kept[number] += times
        for (fields,) in self.mysql.select(
            "SELECT fields FROM dead_letters WHERE shard = ?", shard
        ):
            kept[number_in(unpack_fields(fields))] += 1
        return kept

    def _published_of(self, shard: int) -> Checkpoint | None:
        return published_of(self.redis.hgetall(self.keys.checkpoint(STREAM, shard)))
