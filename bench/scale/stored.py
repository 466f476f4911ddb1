"""How fast a worker drains into tables that hold ten thousand or ten million records already."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.scale import history
from bench.servers import Lab, RunFailed
from bench.workers import check, drained, running_worker
from bench.workload import PREFIX, append_to, fill, record
from ops.processes import wait_until
from shared.keys import Keys
from shared.streams import Append

#: A database server's memory, as an operator with ten million records would give it.
BUFFER_POOL_MIB = 4_096
#: Data, indexes, undo and what the server writes meanwhile, with a margin.
_BYTES_PER_RECORD, _BYTES_BESIDE = 1_000, 12_000_000_000
EVENTS_PER_KEY = 5
_FEW_PAGES, _SETTLE_TIMEOUT_S = 100, 900


def check_disk(records: Sequence[int]) -> None:
    """Raises `RunFailed` when the temporary folder has no room for *records*."""
    needed = sum(records) * _BYTES_PER_RECORD + _BYTES_BESIDE
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFailed(
            f"{sum(records):,} stored records need {needed / 1e9:.0f} GB in the temporary folder"
            f" {folder}, which has {free / 1e9:.0f}: set TMPDIR to a larger one, or --records"
        )


def measure(
    lab: Lab, rounds: int, events: int, records: Sequence[int], told: Callable[[str], None]
) -> dict[str, Any]:
    """Drain *events* into databases of so many *records* each, in turn, *rounds* times."""
    with ExitStack() as stack:
        sites = [_Site(lab, stack.enter_context(lab.database()), size) for size in records]
        for site in sites:
            told(f"storing {site.size:,} records")
            site.fill()
        told("waiting until the server has written all of it")
        _settle(lab)
        for number in range(1, rounds + 1):
            for site in sites:
                told(f"round {number} of {rounds}: {site.size:,} records stored")
                site.drain(number, events)
        return {
            "events": events,
            "keys": events // EVENTS_PER_KEY,
            "rounds": rounds,
            "buffer_pool_mib": BUFFER_POOL_MIB,
            "points": [site.point() for site in sites],
        }


def _settle(lab: Lab) -> None:
    """What was stored years ago is on disk: no longer the server's work when we begin."""
    # By default it would write 3 MB a second at leisure.
    lab.sql("SET GLOBAL innodb_io_capacity_max = 40000, GLOBAL innodb_io_capacity = 20000")
    lab.sql("SET GLOBAL innodb_max_dirty_pages_pct = 0")
    status = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'"
    if not wait_until(lambda: int(lab.sql(status)[0][1]) < _FEW_PAGES, _SETTLE_TIMEOUT_S):
        raise RunFailed(f"the server did not write its pages in {_SETTLE_TIMEOUT_S} s")
    lab.sql("SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT")
    lab.sql("SET GLOBAL innodb_io_capacity = 200, GLOBAL innodb_io_capacity_max = 2000")


class _Site:
    """One database with its history, and how fast it was drained into."""

    def __init__(self, lab: Lab, database: str, size: int) -> None:
        self.size = size
        self._lab = lab
        self._database = database
        self._now = size
        self._fill_s = 0.0
        self._rates: list[float] = []
        self._worker_us: list[float] = []
        self._mysql_us: list[float] = []

    def fill(self) -> None:
        begun_s = time.monotonic()
        history.fill(self._lab, self._database, self.size)
        self._fill_s = time.monotonic() - begun_s

    def drain(self, number: int, events: int) -> None:
        """Half of the players go on with a stored record, half begin a new one."""
        keys = _keys(self.size, events // EVENTS_PER_KEY, number)
        self._lab.sql(
            "DELETE FROM stream_checkpoints; DELETE FROM stat_days_touched", self._database
        )
        settings = self._lab.settings(self._database, KEY_PREFIX=PREFIX, SHARDS="1")
        try:
            asyncio.run(fill(settings, _appends(keys, number)))
            with running_worker(self._lab, self._database) as worker:
                run = drained(self._lab, [worker], events, shards=1)
        finally:
            for key in self._lab.redis.scan_iter(f"{PREFIX}*", count=5_000):
                self._lab.redis.unlink(key)
        self._now += sum(source == history.NEW_SOURCE for _, source, _ in keys)
        check(self._lab, self._database, self._now, events)
        self._rates.append(run.events_per_s)
        self._worker_us.append(run.cpu_us_per_event)
        self._mysql_us.append(run.mysql_cpu_s / run.events * 1e6)

    def point(self) -> dict[str, Any]:
        return {
            "records": self.size,
            "events_per_s": round(median(self._rates)),
            "rounds": [round(rate) for rate in self._rates],
            "worker_us": round(median(self._worker_us), 2),
            "mysql_us": round(median(self._mysql_us), 2),
            "fill_s": round(self._fill_s, 1),
        }


def _keys(size: int, count: int, number: int) -> list[history.Key]:
    """*count* keys of round *number*: half of them stored, by players all over the site."""
    half = count // 2
    chosen = random.Random(f"{size} in round {number}").sample(range(size), half)  # noqa: S311
    stored = [history.key_of(each) for each in chosen]
    return stored + [history.new_key_of(each, number) for each in chosen]


def _appends(keys: Sequence[history.Key], number: int) -> Iterator[Append]:
    """Saves of *keys*, `EVENTS_PER_KEY` of each, in random order."""
    names = Keys(PREFIX)
    order = list(range(len(keys))) * EVENTS_PER_KEY
    random.Random(number).shuffle(order)  # noqa: S311 - the same order in every run
    now_ms = time.time_ns() // 1_000_000
    for position, key in enumerate(order):
        given = record(key, 10 + 10 * (position // len(keys)), now_ms)
        yield append_to(names, 1, keys[key], given)
