"""Redis under control: each loss, shift and failover is a real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from shared.keys import Keys
from shared.redis import open_redis
from shared.streams import StreamInfo
from tests.faults import redis_control
from tests.faults.fake_clock import FakeClock, find_faketime
from tests.faults.redis_control import Node, RedisControl
from tests.plays import STREAM
from tests.waiting import until

KEYS = Keys("moontv:")

needs_faketime = pytest.mark.skipif(
    find_faketime() is None, reason="libfaketime is not installed (apt-get install libfaketime)"
)


@pytest.fixture(name="redis_pair")
async def _redis_pair(tmp_path: Path) -> AsyncIterator[RedisControl]:
    async with redis_control.running(tmp_path) as pair:
        yield pair


async def add(pair: RedisControl, entries: int) -> None:
    """XADD through the proxy, as a client would."""
    async with open_redis(pair.url) as redis, redis.pipeline(transaction=False) as pipe:
        for number in range(entries):
            pipe.xadd(KEYS.stream(STREAM, 0), {"d": str(number)})
        await pipe.execute()


async def stream(node: Node) -> StreamInfo:
    [info] = await node.streams(KEYS, 1)
    return info


async def test_a_killed_master_comes_back_with_all_it_acknowledged(
    redis_pair: RedisControl,
) -> None:
    """The append-only file is on disk with every answer; clients find it at the old address."""
    await add(redis_pair, 50)
    before = await stream(redis_pair.master)

    await redis_pair.restart_master()

    assert before == await stream(redis_pair.master)
    await add(redis_pair, 1)
    assert 51 == (await stream(redis_pair.master)).added


async def test_a_lost_tail_is_the_newest_entries_and_no_others(redis_pair: RedisControl) -> None:
    """What is cut off the file is gone; the stream then counts from where it is."""
    await add(redis_pair, 50)

    await redis_pair.restart_master(lose_bytes=200)

    left = await stream(redis_pair.master)
    assert 0 < left.added < 50
    assert left.added == left.length


async def test_a_promoted_replica_lacks_what_it_had_not_heard(redis_pair: RedisControl) -> None:
    """After the cut the master goes on alone; its tail dies with it, its identity too."""
    await add(redis_pair, 10)
    await redis_pair.until_in_step()
    identity = (await redis_pair.master.replication())["master_replid"]
    redis_pair.cut_replication()
    await add(redis_pair, 5)
    assert 15 == (await stream(redis_pair.master)).added

    await redis_pair.disconnect_clients()
    await redis_pair.promote_replica()
    redis_pair.proxy.heal()

    assert 10 == (await stream(redis_pair.master)).added
    assert identity != (await redis_pair.master.replication())["master_replid"]
    await add(redis_pair, 1)
    await redis_pair.replace_replica()
    assert 11 == (await stream(redis_pair.replica)).added


async def test_a_failover_can_be_done_again(redis_pair: RedisControl) -> None:
    """Each time a fresh replica has followed the new master before."""
    for expected in (3, 6):
        await add(redis_pair, 3)
        await redis_pair.until_in_step()
        redis_pair.cut_replication()
        await redis_pair.disconnect_clients()
        await redis_pair.promote_replica()
        redis_pair.proxy.heal()
        await redis_pair.replace_replica()

        assert expected == (await stream(redis_pair.master)).added


async def test_clients_that_were_disconnected_stay_out_until_it_is_healed(
    redis_pair: RedisControl,
) -> None:
    """Nothing of theirs reaches the master after that moment."""
    async with open_redis(redis_pair.url) as client:
        await client.set("key", "before")
        await redis_pair.disconnect_clients()
        with pytest.raises(RedisConnectionError):
            await client.set("key", "after")

        redis_pair.proxy.heal()

        assert b"before" == await client.get("key")


async def test_a_replica_refuses_writes_until_it_is_promoted(redis_pair: RedisControl) -> None:
    """It is a real replica, not a second master."""
    async with redis_pair.replica.client() as client:
        with pytest.raises(ReadOnlyError):
            await client.set("key", "value")


@needs_faketime
async def test_a_shifted_clock_moves_one_server_and_its_ids(redis_pair: RedisControl) -> None:
    """Forward, back, and back to the machine's; its replica keeps the right time."""
    master = redis_pair.master
    assert master.clock is not None
    for ahead_s in (30, -30, 0):
        master.clock.shift(ahead_s)

        await until(lambda s=ahead_s: is_ahead(master, s), f"its clock is {ahead_s} s ahead")
        assert await is_ahead(redis_pair.replica, 0)
    await add(redis_pair, 1)
    last = (await stream(master)).last
    assert abs(last.ms - time.time() * 1000) < 5_000


@needs_faketime
async def test_a_clock_that_goes_back_pins_ids_to_the_newest(redis_pair: RedisControl) -> None:
    """Ids never go back on one server: they wait for the clock."""
    master = redis_pair.master
    assert master.clock is not None
    master.clock.shift(30)
    await until(lambda: is_ahead(master, 30), "its clock is ahead")
    await add(redis_pair, 1)
    newest = (await stream(master)).last
    master.clock.shift(0)
    await until(lambda: is_ahead(master, 0), "its clock is right again")

    await add(redis_pair, 1)

    assert (newest.ms, newest.seq + 1) == (await stream(master)).last


async def is_ahead(node: Node, ahead_s: int) -> bool:
    return abs(await node.ahead_ms() - ahead_s * 1000) < 3_000


def test_without_the_library_there_is_no_clock_to_shift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers run all the same; faults that need it say so."""
    assert find_faketime(tmp_path) is None

    def find_nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(redis_control, "find_faketime", find_nothing)
    assert Node(tmp_path).clock is None


def test_a_clock_file_says_what_the_library_reads(tmp_path: Path) -> None:
    """Seconds with a sign, relative to the machine's clock."""
    clock = FakeClock(tmp_path / "libfaketime.so.1", tmp_path / "clock")

    clock.shift(-45)

    assert "-45\n" == (tmp_path / "clock").read_text()
