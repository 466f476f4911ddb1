"""Dead letters: replayed once at their own time, or discarded; the books balance throughout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from shared.errors import CheckpointMoved, InvalidField
from shared.events import Event
from shared.mysql import Pool, open_mysql
from shared.published import publish, read_published
from shared.redis import open_redis
from shared.settings import Settings
from tests.integration.test_poison import refusing
from tests.mysql_state import books
from tests.plays import add_foreign, clear, delete, deps_of, drain_all, rows, save
from worker import checkpoints, kept_letters
from worker import drain as draining
from worker import replay as replaying
from worker.batches import BatchReader
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.jobs.aggregate import aggregate
from worker.kept_letters import Filter, LetterKey
from worker.pace import Pace
from worker.replay import Answer, Verdict, replay
from worker.sinks.plays import PlaysSink
from worker.takeover import publish_committed

#: With two shards ann belongs to 1 and bob to 0.
ANN, BOB = 1, 0
AT = 1_700_000_000_000

RECORDS = "SELECT username, content_id, play_time, event_ms FROM play_records ORDER BY 1, 2"
COUNTS = "SELECT play_count, total_watch_time, unique_users FROM content_stats"
LETTER = "SELECT state, username, detail, resolved_batch_no FROM dead_letters"


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


class UnrepairedSink(PlaysSink):
    """The program as it was: it could not read what any event says."""

    def decode(self, body: bytes) -> Event:
        raise InvalidField("Unknown op", "op", "another" if body else "one")


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


@pytest.fixture(name="rival")
async def _rival(deps: Deps) -> AsyncIterator[Deps]:
    """Another process on the same stores."""
    async with open_mysql(deps.settings) as pool, open_redis(deps.settings.redis_url) as redis:
        yield replace(deps, pool=pool, redis=redis)


async def bury(deps: Deps, *given: tuple[str, dict[str, Any]]) -> list[LetterKey]:
    """Have *given* (entry id, event) refused by a program that cannot read them."""
    await add_foreign(deps.settings, deps.redis, given)
    for shard in range(deps.settings.shards):
        await ShardDrain(deps, UnrepairedSink(deps.settings), shard).run(slice_s=60)
    return await kept_letters.keys(deps.pool, Filter())


async def bury_raw(deps: Deps, shard: int, body: bytes) -> LetterKey:
    """Have an entry of *shard* refused for its body."""
    stream = deps.keys.stream("plays", shard)
    await deps.redis.xadd(stream, {"d": body}, id=f"{AT}-7")
    await drain_all(deps)
    [key] = await kept_letters.keys(deps.pool, Filter())
    return key


async def do_replay(deps: Deps, key: LetterKey, body: bytes | None = None) -> Answer:
    return await replay(deps, {"plays": PlaysSink(deps.settings)}, key, body)


async def cache(deps: Deps, shard: int, user: str) -> None:
    """Make a cached copy and a version, as a read before the replay would."""
    keys = deps.keys.play_records(shard, user)
    await deps.redis.hset(keys.cached, mapping={"cached": "1"})  # type: ignore[misc]
    await deps.redis.set(keys.version, "before")


async def is_forgotten(deps: Deps, shard: int, user: str) -> bool:
    """Is the cached copy gone, and every fill begun before it refused?"""
    keys = deps.keys.play_records(shard, user)
    fresh = await deps.redis.get(keys.version) != b"before"
    return fresh and not await deps.redis.exists(keys.cached)


async def assert_published(deps: Deps) -> None:
    """Readers know the checkpoint that MySQL holds, of every shard."""
    for shard in range(deps.settings.shards):
        committed = await checkpoints.load(deps.pool, "plays", shard)
        if committed.batch_no:
            published = await read_published(deps.redis, deps.keys.checkpoint("plays", shard))
            assert committed == published


async def test_a_letter_is_applied_at_its_own_time_once_the_program_can_read_it(
    deps: Deps,
) -> None:
    """Record, play, viewer and day are as if it had never been refused; the books move by one."""
    [key] = await bury(deps, (f"{AT}-3", save("ann", play_time=7)))
    assert (1, 0, 1, 0) == await books(deps.pool)
    seen = "SELECT seen_added, seen_last_id, seen_at FROM stream_checkpoints WHERE shard = 1"
    before = await rows(deps.pool, seen)
    await cache(deps, ANN, "ann")

    answer = await do_replay(deps, key)

    assert Verdict.REPLAYED is answer.verdict
    assert [("ann", "1", 7, AT)] == await rows(deps.pool, RECORDS)
    assert [(1, 0, 1)] == await rows(deps.pool, COUNTS)
    assert (1, 1, 0, 0) == await books(deps.pool)
    assert before == await rows(deps.pool, seen)
    assert [("replayed", "ann", "op: allowed is another", 2)] == await rows(deps.pool, LETTER)
    assert await is_forgotten(deps, ANN, "ann")
    await assert_published(deps)
    assert (await aggregate(deps.pool, deps.settings)).days == 1


async def test_a_letter_replayed_twice_is_applied_once(deps: Deps) -> None:
    """Typed again, it says that it was replayed and changes nothing."""
    [key] = await bury(deps, (f"{AT}-3", save("ann")))
    await do_replay(deps, key)

    again = await do_replay(deps, key)

    assert Verdict.RESOLVED is again.verdict
    assert "it was replayed at" in again.why
    assert [(1, 0, 1)] == await rows(deps.pool, COUNTS)
    assert (1, 1, 0, 0) == await books(deps.pool)


async def test_a_letter_replayed_by_several_at_once_is_applied_once(
    deps: Deps, rival: Deps
) -> None:
    """Whoever is first applies it, the others find it done."""
    [key] = await bury(deps, (f"{AT}-3", save("ann")))

    answers = await asyncio.gather(*(do_replay(each, key) for each in [deps, rival] * 3))

    assert 1 == sum(answer.verdict is Verdict.REPLAYED for answer in answers)
    assert 5 == sum(answer.verdict is Verdict.RESOLVED for answer in answers)
    assert [(1, 0, 1)] == await rows(deps.pool, COUNTS)
    assert (1, 1, 0, 0) == await books(deps.pool)


async def test_a_letter_is_applied_with_a_body_repaired_by_hand(deps: Deps) -> None:
    """The body given takes the place of the broken one, and its SHA-256 is kept."""
    key = await bury_raw(deps, ANN, b'{"v":1,"op":"save","user":"ann"')

    body = orjson.dumps(save("ann", play_time=9))
    answer = await do_replay(deps, key, body)

    assert Verdict.REPLAYED is answer.verdict
    assert [("ann", "1", 9, AT)] == await rows(deps.pool, RECORDS)
    [(state, username, detail, _)] = await rows(deps.pool, LETTER)
    assert ("replayed", "ann") == (state, username)
    assert detail.startswith("d: allowed is valid JSON")
    note = f"; replayed with a body of {len(body)} bytes, SHA-256 {sha256(body).hexdigest()}"
    assert detail.endswith(note)
    letter = await kept_letters.find(deps.pool, key)
    assert letter is not None
    assert [b"d", b'{"v":1,"op":"save","user":"ann"'] == letter.fields


async def test_a_letter_that_is_refused_again_stays_dead(deps: Deps) -> None:
    """The answer says why, and nothing moves."""
    key = await bury_raw(deps, ANN, orjson.dumps(save("ann", index=0)))
    before = await checkpoints.load(deps.pool, "plays", ANN)

    as_it_is = await do_replay(deps, key)
    with_a_body = await do_replay(deps, key, b"{}")

    assert Verdict.REFUSED is as_it_is.verdict
    assert "record.index, allowed: 1 to 2147483647" in as_it_is.why
    assert Verdict.REFUSED is with_a_body.verdict
    assert [("dead",)] == [row[:1] for row in await rows(deps.pool, LETTER)]
    assert before == await checkpoints.load(deps.pool, "plays", ANN)


async def test_a_letter_that_mysql_refuses_again_stays_dead(deps: Deps) -> None:
    """Claim, books and rows are one transaction: all of it is undone."""
    async with refusing(deps.pool):
        await add_foreign(deps.settings, deps.redis, [(f"{AT}-3", save("ann", title="poison"))])
        await drain_all(deps)
        [key] = await kept_letters.keys(deps.pool, Filter())

        refused = await do_replay(deps, key)

    assert Verdict.REFUSED is refused.verdict
    assert "chk_poison" in refused.why
    assert (1, 0, 1, 0) == await books(deps.pool)
    assert Verdict.REPLAYED is (await do_replay(deps, key)).verdict
    assert (1, 1, 0, 0) == await books(deps.pool)


async def test_a_letter_too_long_to_be_kept_whole_needs_a_body(deps: Deps) -> None:
    """What was cut is not guessed: the event is applied only from a body given."""
    key = await bury_raw(deps, ANN, b'{"v":1,"op":"clear","user":"ann","x":"' + b"y" * 300_000)

    without = await do_replay(deps, key)

    assert Verdict.REFUSED is without.verdict
    assert "238610 bytes of its own are gone" in without.why
    assert Verdict.REPLAYED is (await do_replay(deps, key, orjson.dumps(save("ann")))).verdict


async def test_a_newer_stored_record_is_kept(deps: Deps) -> None:
    """A replayed event never takes a user back, and counts nothing a second time."""
    [key] = await bury(deps, (f"{AT}-3", save("ann", play_time=7)))
    await add_foreign(deps.settings, deps.redis, [(f"{AT + 5000}-0", save("ann", play_time=50))])
    await drain_all(deps)

    answer = await do_replay(deps, key)

    assert Verdict.REPLAYED is answer.verdict
    assert [("ann", "1", 50, AT + 5000)] == await rows(deps.pool, RECORDS)
    assert [(1, 0, 1)] == await rows(deps.pool, COUNTS)
    assert (2, 2, 0, 0) == await books(deps.pool)


async def test_deletes_and_clears_are_replayed_at_their_own_time(deps: Deps) -> None:
    """They remove what was there then, and leave what came later."""
    await add_foreign(
        deps.settings,
        deps.redis,
        [(f"{AT}-{n}", save(user, n)) for n in "12" for user in ("ann", "bob")],
    )
    await drain_all(deps)
    letters = await bury(deps, (f"{AT + 1}-0", delete("ann", "1")), (f"{AT + 1}-1", clear("bob")))
    await add_foreign(deps.settings, deps.redis, [(f"{AT + 2}-0", save("bob", "2", play_time=11))])
    await drain_all(deps)

    answers = [await do_replay(deps, key) for key in letters]

    assert [Verdict.REPLAYED] * 2 == [answer.verdict for answer in answers]
    assert [("ann", "2", 10, AT), ("bob", "2", 11, AT + 2)] == await rows(deps.pool, RECORDS)


async def test_a_batch_folded_before_a_replay_is_fenced_out(deps: Deps) -> None:
    """A drain in flight finds the checkpoint moved, reads again and counts exactly."""
    [key] = await bury(deps, (f"{AT}-3", save("ann", play_time=0)))
    await add_foreign(deps.settings, deps.redis, [(f"{AT + 60_000}-0", save("ann", play_time=30))])
    old = await checkpoints.load(deps.pool, "plays", ANN)
    sink = PlaysSink(deps.settings)
    stream = deps.keys.stream("plays", ANN)
    reader = BatchReader(deps.redis, sink, stream, (ANN, deps.settings.shards), old)
    batch = await reader.next_batch(Pace(deps.settings).limits, asyncio.Event())

    await do_replay(deps, key)

    with pytest.raises(CheckpointMoved):
        await ShardDrain(deps, sink, ANN).write_batch(old, batch)
    await drain_all(deps)
    assert [(1, 30, 1)] == await rows(deps.pool, COUNTS)
    assert (2, 2, 0, 0) == await books(deps.pool)


async def test_a_letter_in_the_wrong_shard_is_applied_in_the_right_one(deps: Deps) -> None:
    """The books of the letter's shard move, the fence of the user's shard guards the rows."""
    key = await bury_raw(deps, BOB, orjson.dumps(save("ann")))
    await add_foreign(deps.settings, deps.redis, [(f"{AT}-0", save("ann", "2"))])
    await drain_all(deps)
    await aggregate(deps.pool, deps.settings)
    await cache(deps, ANN, "ann")

    answer = await do_replay(deps, key)

    assert Verdict.REPLAYED is answer.verdict
    assert [("ann", "1"), ("ann", "2")] == [row[:2] for row in await rows(deps.pool, RECORDS)]
    of_shards = "SELECT shard, batch_no, applied, dead FROM stream_checkpoints ORDER BY shard"
    assert [(BOB, 2, 1, 0), (ANN, 2, 1, 0)] == await rows(deps.pool, of_shards)
    assert await is_forgotten(deps, ANN, "ann")
    await assert_published(deps)
    assert (await aggregate(deps.pool, deps.settings)).days == 1


@pytest.mark.parametrize("home", [ANN, BOB], ids=["in her shard", "in the wrong shard"])
async def test_a_replay_killed_before_it_published_is_published_by_the_next_drain(
    deps: Deps, monkeypatch: pytest.MonkeyPatch, home: int
) -> None:
    """No reader keeps a copy without the event, whichever shard its letter lay in."""
    key = await bury_raw(deps, home, b"{")
    for n in range(3):  # her shard's batches count higher than the other's
        await add_foreign(deps.settings, deps.redis, [(f"{AT + n}-9", save("dan"))])
        await drain_all(deps)
    await cache(deps, ANN, "ann")

    async def killed(*_: Any) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(replaying, "publish_committed", killed)
        with pytest.raises(Killed):
            await do_replay(deps, key, orjson.dumps(save("ann")))
    assert not await is_forgotten(deps, ANN, "ann")

    await drain_all(deps)

    assert await is_forgotten(deps, ANN, "ann")
    await assert_published(deps)


async def test_a_drain_that_publishes_first_forgets_the_user_too(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a later batch is published before the replay's own, nothing is missed."""
    key = await bury_raw(deps, ANN, b"{")

    async def after_a_drain(*arguments: Any) -> bool:
        monkeypatch.undo()
        await cache(deps, ANN, "ann")
        await add_foreign(deps.settings, deps.redis, [(f"{AT}-9", save("dan"))])
        await drain_all(deps)
        return await publish_committed(*arguments)

    monkeypatch.setattr(replaying, "publish_committed", after_a_drain)
    await do_replay(deps, key, orjson.dumps(save("ann")))

    assert await is_forgotten(deps, ANN, "ann")
    await assert_published(deps)


@pytest.mark.parametrize("worker", ["dead", "slow"])
async def test_a_replay_publishes_for_a_worker_that_has_not_yet(
    deps: Deps, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    """What a batch committed before it made wrong is forgotten, though nobody publishes it."""
    key = await bury_raw(deps, ANN, b"{")
    await add_foreign(deps.settings, deps.redis, [(f"{AT}-9", save("ann"))])
    published, may_publish = asyncio.Event(), asyncio.Event()

    async def late(*arguments: Any) -> bool:
        published.set()
        await may_publish.wait()
        return await publish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(draining, "publish", late)
        draining_ann = asyncio.create_task(drain_all(deps))
        await published.wait()
    await cache(deps, ANN, "ann")
    await do_replay(deps, key, orjson.dumps(save("dan")))
    if worker == "slow":
        may_publish.set()
        await draining_ann
    else:
        draining_ann.cancel()
        await asyncio.wait([draining_ann])
    await drain_all(deps)

    assert await is_forgotten(deps, ANN, "ann")
    await assert_published(deps)


async def test_a_replay_without_redis_is_applied_and_says_so(deps: Deps) -> None:
    """MySQL decides; the next drain of the shard makes readers see it."""
    [key] = await bury(deps, (f"{AT}-3", save("ann")))
    await cache(deps, ANN, "ann")
    async with open_redis("redis://127.0.0.1:1/0") as nowhere:
        answer = await do_replay(replace(deps, redis=nowhere), key)

    assert Verdict.UNPUBLISHED is answer.verdict
    assert [(1, 0, 1)] == await rows(deps.pool, COUNTS)
    await drain_all(deps)
    assert await is_forgotten(deps, ANN, "ann")


async def test_a_discarded_letter_stays_dead_in_the_books(deps: Deps) -> None:
    """It is given up for good: neither replayed nor discarded again."""
    [key] = await bury(deps, (f"{AT}-3", save("ann")))

    assert await kept_letters.discard(deps.pool, key)

    assert (1, 0, 1, 0) == await books(deps.pool)
    assert not await kept_letters.discard(deps.pool, key)
    assert Verdict.RESOLVED is (await do_replay(deps, key)).verdict
    assert [] == await rows(deps.pool, RECORDS)


async def test_a_letter_beyond_the_calendar_cannot_be_replayed(deps: Deps) -> None:
    """Its own time is what it would be applied at, and no column holds that."""
    await add_foreign(deps.settings, deps.redis, [("253402300800000-0", save("ann"))])
    await drain_all(deps)
    [key] = await kept_letters.keys(deps.pool, Filter())

    for body in (None, orjson.dumps(save("ann"))):
        assert Verdict.REFUSED is (await do_replay(deps, key, body)).verdict


async def test_a_letter_that_is_not_there_is_not_found(deps: Deps) -> None:
    """A key mistyped is told apart from one that was resolved."""
    answer = await do_replay(deps, kept_letters.letter_key("plays/1/1/5-0"))

    assert Verdict.UNKNOWN is answer.verdict


async def test_letters_are_found_by_what_they_are(deps: Deps) -> None:
    """Filters combine; keys come in the order of their entries, lists newest first."""
    given = [(f"{AT + n}-{n}", save(user, str(n))) for n, user in enumerate(("ann", "bob") * 6)]
    keys = await bury(deps, *given)
    await kept_letters.discard(deps.pool, keys[0])

    assert keys[1:] == await kept_letters.keys(deps.pool, Filter())
    assert keys == await kept_letters.keys(deps.pool, Filter(state=None))
    of_bob = await kept_letters.keys(deps.pool, Filter(shard=BOB))
    assert [3, 5, 7, 9, 11] == [key.entry.seq for key in of_bob]
    assert [] == await kept_letters.keys(deps.pool, Filter(reason="other"))
    assert 6 == len(await kept_letters.keys(deps.pool, Filter(username="ann", state=None)))
    letters, count = await kept_letters.newest(deps.pool, Filter(reason="unknown_op"), 3)
    assert (3, 11) == (len(letters), count)
