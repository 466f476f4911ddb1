"""What a dead worker left half done: published and tidied by whoever takes the shard."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

import worker.drain
from shared.keys import UserKeys
from shared.mysql import Pool
from shared.published import Checkpoint, publish, read_published
from shared.settings import Settings
from tests.mysql_state import books
from tests.plays import STREAM, add_foreign, append, deps_of, drain_all, save
from tests.waiting import until
from worker import checkpoints
from worker.deps import Deps


class Crash(BaseException):
    """A worker's death: nothing in the program may catch it."""


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    one_shard = replace(migrated, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    return deps_of(one_shard, redis, pool)


async def die_unpublished(deps: Deps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drain with a worker that dies after its commit, before anybody hears of it."""

    async def die(*_arguments: Any, **_options: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(worker.drain, "publish", die)
        with pytest.raises(Crash):
            await drain_all(deps)


def keys_of(deps: Deps, user: str) -> UserKeys:
    return deps.keys.play_records(0, user)


async def put_cached_copy(deps: Deps, user: str) -> None:
    """A cached copy as a reader leaves it."""
    await deps.redis.hset(keys_of(deps, user).cached, "cached", "1")  # type: ignore[misc]


async def has_cached_copy(deps: Deps, user: str) -> bool:
    return bool(await deps.redis.exists(keys_of(deps, user).cached))


# --- the published checkpoint --------------------------------------------------------


async def test_a_successor_publishes_what_a_dead_worker_committed(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Though nothing new was added: lag, reads and trimming all go by the published checkpoint.
    """
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    await die_unpublished(deps, monkeypatch)
    key = deps.keys.checkpoint(STREAM, 0)
    committed = await checkpoints.load(deps.pool, STREAM, 0)
    assert committed != await read_published(deps.redis, key)

    await drain_all(deps)

    assert committed == await read_published(deps.redis, key)
    assert {} == await deps.redis.hgetall(keys_of(deps, "ann").pending)  # type: ignore[misc]


async def test_a_successor_drops_the_copies_of_everybody_in_between(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A copy filled between the commit and its publishing may be wrong, so none of them stays.
    """
    await append(deps.settings, deps.redis, [save("old")])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save("ann")])
    await add_foreign(deps.settings, deps.redis, [("*", save("bob"))])
    await die_unpublished(deps, monkeypatch)
    users = ("old", "ann", "bob", "cat")
    for user in users:
        await put_cached_copy(deps, user)
    before = [await deps.redis.get(keys_of(deps, user).version) for user in users]

    await drain_all(deps)

    assert [True, False, False, True] == [await has_cached_copy(deps, user) for user in users]
    after = [await deps.redis.get(keys_of(deps, user).version) for user in users]
    assert [False, True, True, False] == [a != b for a, b in zip(before, after, strict=True)]


async def test_batches_are_published_in_the_order_of_their_commits(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However long one takes: published out of order, a death in between would leave copies
    wrong that nobody after it could know of.
    """
    deps = replace(deps, settings=replace(deps.settings, batch_max_entries=1))
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    begun: list[int] = []
    done: list[int] = []

    async def publish_slowly(
        redis: Redis, keys: tuple[str, str], new: Checkpoint, *more: Any
    ) -> bool:
        begun.append(new.batch_no)
        if new.batch_no == 1:
            await until(next_is_committed, "the next batch is committed")
            await asyncio.sleep(0.1)  # time for a publishing that does not wait for this one
        done.append(new.batch_no)
        return await publish(redis, keys, new, *more)

    async def next_is_committed() -> bool:
        return (await checkpoints.load(deps.pool, STREAM, 0)).batch_no == 2

    monkeypatch.setattr(worker.drain, "publish", publish_slowly)
    await drain_all(deps)

    assert ([1, 2], [1, 2]) == (begun, done)


# --- copies that a batch proves wrong ------------------------------------------------


async def test_publishing_drops_the_copies_of_foreign_entries_and_no_others(deps: Deps) -> None:
    """
    Our own appends keep cached copies right; another producer knows nothing of them.
    """
    await append(deps.settings, deps.redis, [save("ann")])
    await add_foreign(deps.settings, deps.redis, [("*", save("bob"))])
    for user in ("ann", "bob"):
        await put_cached_copy(deps, user)

    await drain_all(deps)

    assert await has_cached_copy(deps, "ann")
    assert not await has_cached_copy(deps, "bob")


UNDECODABLE = {"d": orjson.dumps({**save("ann"), "v": 2}), "i": "stamp"}


@pytest.mark.parametrize("dies", [False, True])
async def test_a_dead_letters_user_loses_the_copy_that_shows_it(
    deps: Deps, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """
    Their copy holds what MySQL never will, whoever publishes the dead letter's batch.
    """
    await deps.redis.xadd(deps.keys.stream(STREAM, 0), UNDECODABLE)  # type: ignore[arg-type]
    await put_cached_copy(deps, "ann")
    if dies:
        await die_unpublished(deps, monkeypatch)

    await drain_all(deps)

    assert (1, 0, 1, 0) == await books(deps.pool)
    assert not await has_cached_copy(deps, "ann")
