"""`moonwake status`: what it tells is what is there, and it knows when somebody has to look."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import redis as blocking
from redis.asyncio import Redis

from ops.attention import BEHIND_S, attention, notes
from ops.overview import Overview, Shard, look, take_sample
from ops.servers import free_port
from shared.mysql import Pool, open_mysql, reading
from shared.settings import Settings
from shared.status import PENDING_READ_MAX
from shared.streams import now_ms_of
from tests.commands import moonwake
from tests.plays import add_foreign, append, clear, deps_of, drain_all, save
from tests.servers import to_environ
from worker.deps import Deps

#: With two shards ann belongs to 1 and bob to 0.
BOB, ANN = 0, 1


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


async def view_of(deps: Deps, **options: Any) -> Overview:
    return await look(deps.redis, deps.pool, deps.settings, **options)


def books(shard: Shard) -> tuple[int, int, int, int | None, int, int | None]:
    """added, applied, dead, pending, lost, difference"""
    checkpoint = shard.status.checkpoint
    kept = (checkpoint.applied, checkpoint.dead, shard.pending, checkpoint.lost)
    return (shard.status.added, *kept, shard.difference)


async def tell_worker(deps: Deps, name: str, silent_ms: int = 0, *shards: str) -> None:
    """What a worker process tells of itself, *silent_ms* ago."""
    now_ms = now_ms_of(await deps.redis.time())
    about = {
        "host": "host",
        "pid": 7,
        "started_ms": now_ms - 60_000,
        "seen_ms": now_ms - silent_ms,
        "shards": shards,
    }
    told = orjson.dumps(about).decode()
    await cast("Awaitable[int]", deps.redis.hset(deps.keys.workers, name, told))


async def live_worker(deps: Deps, *shards: str) -> None:
    """A worker that stays live for as long as any test takes."""
    await tell_worker(deps, "live", -600_000, *shards)


# --- books ---------------------------------------------------------------------------


async def test_a_site_that_was_never_used_is_healthy(deps: Deps) -> None:
    """Nothing is there, and nothing is missing."""
    view = await view_of(deps)

    assert [] == attention(view)
    assert [(0, 0, 0, 0, 0, 0)] * 2 == [books(shard) for shard in view.shards]
    assert ["idle", "idle"] == [shard.state for shard in view.shards]


async def test_every_entry_is_in_one_column_of_the_books(deps: Deps) -> None:
    """Applied, dead and pending entries are told apart, and add up to those added."""
    await append(deps.settings, deps.redis, [save("ann"), save("ann", index=2), save("bob")])
    await deps.redis.xadd(deps.keys.stream("plays", ANN), {"d": b"{"})
    await drain_all(deps)
    await append(deps.settings, deps.redis, [clear("ann"), save("bob")])
    await live_worker(deps)

    view = await view_of(deps)

    assert (4, 2, 1, 1, 0, 0) == books(view.shards[ANN])
    assert (2, 1, 0, 1, 0, 0) == books(view.shards[BOB])
    assert [1, 1] == [shard.status.lag for shard in view.shards]
    assert [] == attention(view)
    assert any("became dead letters in all time: 1" in note for note in notes(view))


async def test_a_long_backlog_is_counted_by_reading_all_of_it(deps: Deps) -> None:
    """However many wait, pending is a count and no subtraction; progress is told."""
    count = PENDING_READ_MAX + 500
    stream = deps.keys.stream("plays", ANN)
    async with deps.redis.pipeline(transaction=False) as pipe:
        for _ in range(count):
            pipe.xadd(stream, {"d": b"{}"})
        await pipe.execute()
    told: list[tuple[str, int, int]] = []

    view = await view_of(deps, on_read=lambda *progress: told.append(progress))

    assert (count, 0, 0, count, 0, 0) == books(view.shards[ANN])
    assert ("plays:1", count, count) == told[-1]
    assert sorted(told) == told
    assert len(told) > 2


async def test_entries_trimmed_by_a_stranger_upset_the_books(deps: Deps) -> None:
    """Until a worker has counted them as lost they are in no column, and that is told first."""
    await append(deps.settings, deps.redis, [save("ann"), save("ann", index=2)])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save("ann", index=3)] * 3)
    await deps.redis.xtrim(deps.keys.stream("plays", ANN), maxlen=1, approximate=False)
    await live_worker(deps)

    view = await view_of(deps)

    assert (5, 2, 0, 1, 0, 2) == books(view.shards[ANN])
    assert ["plays:1: the books do not balance, difference +2"] == attention(view)

    await drain_all(deps)
    view = await view_of(deps)
    assert (5, 3, 0, 0, 2, 0) == books(view.shards[ANN])
    assert [] == attention(view)
    assert any("lost by Redis in all time: 2" in note for note in notes(view))


async def test_a_backlog_trimmed_while_it_is_read_is_not_called_a_difference(deps: Deps) -> None:
    """What could not be counted is unknown, not wrong."""
    stream = deps.keys.stream("plays", ANN)
    async with deps.redis.pipeline(transaction=False) as pipe:
        for _ in range(PENDING_READ_MAX + 10_000):
            pipe.xadd(stream, {"d": b"{}"})
        await pipe.execute()
    await live_worker(deps)

    def trim(*_progress: Any) -> None:
        with blocking.Redis.from_url(deps.settings.redis_url) as client:
            client.xtrim(stream, maxlen=100, approximate=False)

    view = await view_of(deps, on_read=trim)

    assert (None, None) == (view.shards[ANN].pending, view.shards[ANN].difference)
    assert [] == attention(view)


# --- what needs somebody -------------------------------------------------------------


async def test_entries_that_nobody_drains_need_attention(deps: Deps) -> None:
    """Without a live worker they wait for ever; an idle site only gets a note."""
    assert any("no worker lives" in note for note in notes(await view_of(deps)))
    await append(deps.settings, deps.redis, [save("ann")])
    await tell_worker(deps, "dead", 60_000)

    view = await view_of(deps)

    assert ["no worker lives and 1 entries wait: start `python -m worker`"] == attention(view)
    assert "waiting" == view.shards[ANN].state
    await live_worker(deps)
    assert [] == attention(await view_of(deps))


async def test_a_stopped_shard_needs_attention(deps: Deps) -> None:
    """Its reason is told with what to type when it is mended."""
    await deps.redis.set(deps.keys.stopped("plays", ANN), "MySQL refused 60 of 120 entries")

    view = await view_of(deps)

    [told] = attention(view)
    assert "plays:1 is stopped: MySQL refused 60 of 120 entries" in told
    assert "moonwake resume 1" in told
    assert ["idle", "stopped"] == [shard.state for shard in view.shards]


async def test_a_closed_shard_needs_attention(deps: Deps) -> None:
    """Players get 503 at that moment."""
    await deps.redis.set(deps.keys.closed("plays", BOB), 1)

    view = await view_of(deps)

    [told] = attention(view)
    assert "plays:0" in told
    assert "503" in told
    assert "closed" == view.shards[BOB].state


async def test_a_shard_far_behind_needs_attention_though_workers_live(deps: Deps) -> None:
    """As when workers cannot reach a MySQL that answers here."""
    now_ms = now_ms_of(await deps.redis.time())
    late_ms = now_ms - int(BEHIND_S * 1000) - 5_000
    await add_foreign(deps.settings, deps.redis, [(f"{late_ms}-0", save("ann"))])
    await live_worker(deps)

    [told] = attention(await view_of(deps))

    assert "plays:1 is " in told
    assert "s behind" in told


async def test_a_mysql_that_lost_commits_is_noticed(deps: Deps, pool: Pool) -> None:
    """Behind what was published: restored from a backup, or a power cut took commits back."""
    await append(deps.settings, deps.redis, [save("ann")])
    await drain_all(deps)
    assert [] == attention(await view_of(deps))
    async with reading(pool) as cursor:
        await cursor.execute(
            "UPDATE stream_checkpoints SET batch_no = batch_no - 1 WHERE shard = 1"
        )

    [told] = attention(await view_of(deps))

    assert "plays:1: MySQL is at batch 0, behind the published 1" in told


async def test_a_published_checkpoint_behind_mysqls_is_no_fault(deps: Deps, pool: Pool) -> None:
    """Between a commit and its publishing it always is."""
    await append(deps.settings, deps.redis, [save("ann")])
    await drain_all(deps)
    async with reading(pool) as cursor:
        await cursor.execute(
            "UPDATE stream_checkpoints SET batch_no = batch_no + 1 WHERE shard = 1"
        )

    view = await view_of(deps)

    assert [] == attention(view)
    committed = view.shards[ANN].committed
    assert committed is not None
    assert 2 == committed.batch_no


async def test_a_lag_that_cannot_be_known_is_said(deps: Deps) -> None:
    """With the published checkpoint gone nobody can tell how much of a trimmed stream waits."""
    await append(deps.settings, deps.redis, [save("ann"), save("ann", index=2)])
    await drain_all(keeping(deps))
    await deps.redis.xtrim(deps.keys.stream("plays", ANN), maxlen=1, approximate=False)
    await deps.redis.delete(deps.keys.checkpoint("plays", ANN))

    view = await view_of(deps)

    assert view.shards[ANN].status.lag is None
    assert any("its lag is unknown" in told for told in attention(view))


def keeping(deps: Deps) -> Deps:
    """The same, but nothing is trimmed."""
    return replace(deps, settings=replace(deps.settings, stream_retention_s=3600))


# --- rates and workers ---------------------------------------------------------------


async def test_the_rate_is_what_was_drained_since_the_sample(deps: Deps) -> None:
    """Entries of the published checkpoints over Redis' own time, shard by shard."""
    before = await take_sample(deps.redis, deps.settings)
    await append(deps.settings, deps.redis, [save("ann", index=n) for n in range(1, 31)])
    await drain_all(deps)

    view = await view_of(deps, before=before)

    status = view.shards[ANN].status
    elapsed_s = (status.now_ms - before["plays:1"][0]) / 1000
    assert pytest.approx(30 / elapsed_s) == view.shards[ANN].rate
    assert 0 == view.shards[BOB].rate
    assert view.sample["plays:1"] == (status.now_ms, 30)
    assert [None, None] == [shard.rate for shard in (await view_of(deps)).shards]


async def test_workers_are_told_live_from_silent_with_what_they_drain(deps: Deps) -> None:
    """A killed worker's last word does not make it the one that drains."""
    await tell_worker(deps, "killed", 30_000, "plays:0", "plays:1")
    await tell_worker(deps, "live", -600_000, "plays:1")

    view = await view_of(deps)

    assert [("live", True), ("killed", False)] == [(each.id, each.is_live) for each in view.workers]
    assert 30_000 <= view.workers[1].silent_ms
    worker = view.shards[ANN].worker
    assert worker is not None
    assert ("live", "draining") == (worker.id, view.shards[ANN].state)
    assert (None, "idle") == (view.shards[BOB].worker, view.shards[BOB].state)


# --- the command ---------------------------------------------------------------------


async def test_the_document_holds_what_the_help_promises(deps: Deps) -> None:
    """Scripts read it: every name in the help is there, and no other."""
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save("ann", index=2)])
    await live_worker(deps, "plays:1")

    result = await moonwake(deps.settings, "status", "--json")

    assert 0 == result.exit_code
    document = orjson.loads(result.output)
    expected = {"healthy", "attention", "notes", "at_ms", "mysql_fault", "totals", "shards"}
    assert expected | {"workers", "incidents"} == set(document)
    assert {"lag": 1, "rate": 0}.items() <= document["totals"].items()
    assert [] == document["incidents"]
    bob, ann = document["shards"]
    books = {"added": 2, "applied": 1, "dead": 0, "pending": 1, "lost": 0, "difference": 0}
    assert books == ann.pop("books")
    assert ann.pop("published") == ann.pop("mysql")
    known = {"stream": "plays", "shard": 1, "state": "draining", "lag": 1, "worker": "live"}
    assert known.items() <= ann.items()
    rest = {"lag_s", "rate", "closed", "stopped", "lease", "takeovers"}
    assert set(known) | rest == set(ann)
    assert {"id", "incarnation", "batch_no"} == set(bob["published"])
    names = {"id", "host", "pid", "live", "silent_s", "started_ms", "shards"}
    assert names == set(document["workers"][0])


async def test_what_needs_attention_is_printed_first_and_exits_with_1(deps: Deps) -> None:
    """The first lines answer the question for which the command was typed."""
    await append(deps.settings, deps.redis, [save("ann")])

    shown = await moonwake(deps.settings, "status")

    assert 1 == shown.exit_code
    first, second = shown.output.splitlines()[:2]
    assert "needs attention" == first
    assert second.startswith("- no worker lives and 1 entries wait")


async def test_with_mysql_down_it_shows_what_redis_knows(deps: Deps) -> None:
    """Lag and books come from Redis; that MySQL is away is said, with exit code 1."""
    await append(deps.settings, deps.redis, [save("ann")])
    await drain_all(deps)
    down = replace(deps.settings, mysql_port=free_port())

    result = await moonwake(down, "status", "--json")
    shown = await moonwake(down, "status")

    document = orjson.loads(result.output)
    assert (1, 1) == (result.exit_code, shown.exit_code)
    assert document["mysql_fault"]
    assert 1 == document["shards"][ANN]["books"]["applied"]
    assert document["shards"][ANN]["mysql"] is None
    assert "MySQL does not answer" in shown.output


async def test_without_tables_mysqls_own_words_are_shown(settings: Settings, redis: Redis) -> None:
    """Before the schema was applied the command works, and says what is missing."""
    async with open_mysql(settings) as pool:
        view = await look(redis, pool, settings)

    assert "stream_checkpoints" in view.mysql_fault


async def test_with_redis_down_it_exits_with_2(deps: Deps) -> None:
    """Nothing can be told then; also as JSON."""
    down = replace(deps.settings, redis_url=f"redis://127.0.0.1:{free_port()}/0")

    shown = await moonwake(down, "status")
    result = await moonwake(down, "status", "--json")

    assert (2, 2) == (shown.exit_code, result.exit_code)
    assert "Redis" in shown.output
    assert orjson.loads(result.output)["healthy"] is False


async def test_watching_prints_a_document_a_line_until_it_is_interrupted(
    deps: Deps, tmp_path: Path
) -> None:
    """Ctrl-C is the regular end: exit code of the last look, no traceback."""
    # Where this suite runs in the background, SIGINT is ignored, and children inherit that.
    start = "import signal; signal.signal(2, signal.default_int_handler); "
    start += "from ops.cli import app; app()"
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", start, "status", "--watch", "--json"),
        env=to_environ(deps.settings),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    assert watching.stderr is not None
    first = orjson.loads(await watching.stdout.readline())
    await append(deps.settings, deps.redis, [save("ann")])
    await drain_all(deps)
    later = orjson.loads(await watching.stdout.readline())
    while later["shards"][ANN]["books"]["applied"] == 0:
        later = orjson.loads(await watching.stdout.readline())
    watching.send_signal(signal.SIGINT)

    assert 0 == await watching.wait()
    assert b"" == await watching.stderr.read()
    assert first["shards"][ANN]["rate"] is None
    assert later["shards"][ANN]["rate"] > 0
