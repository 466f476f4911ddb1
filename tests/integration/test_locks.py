"""Locks: whom they keep apart, and that nothing stays locked, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from shared.accounts import locks
from shared.accounts.locks import Locks
from shared.commands import Commands
from shared.errors import Busy
from shared.keys import Keys
from shared.redis import Command, open_redis
from shared.settings import Settings
from tests.fronts import front
from tests.servers import OwnServers
from tests.waiting import until

KEYS = Keys("locks:")
ANN, BOB = KEYS.lock("ann"), KEYS.lock("bob")


@pytest.fixture(name="ours")
def _ours(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Locks:
    # A machine that stands still for a second is no Redis that is away.
    monkeypatch.setattr(locks, "ANSWER_S", 60)
    return Locks(redis, KEYS)


@pytest.fixture(name="theirs")
async def _theirs(empty_redis_server: Any) -> AsyncIterator[Locks]:
    """The same locks as another process has them."""
    async with open_redis(empty_redis_server.url) as client:
        yield Locks(client, KEYS)


class Boom(Exception):
    """What a body may raise."""


class Holder:
    """A task that holds locks until it is let go."""

    def __init__(self, locks: Locks, *names: str) -> None:
        self.is_in = False
        self._go_on = asyncio.Event()
        self.task = asyncio.create_task(self._hold(locks, *names))

    async def _hold(self, locks: Locks, *names: str) -> None:
        async with locks.hold(*names):
            self.is_in = True
            await self._go_on.wait()
        self.is_in = False

    async def enter(self) -> Holder:
        """Return once it holds its locks."""
        await until(lambda: self.is_in or self.task.done(), "the locks are held")
        assert self.is_in
        return self

    async def leave(self) -> None:
        """Return once it has let go."""
        self._go_on.set()
        await until(self.task.done, "the locks are given back")
        await self.task


class Gate:
    """Lets commands of one kind (take, renew, give_back) pass, or holds up them and later ones.

    Those go on when it opens, even if the caller is gone: as a request does that Redis has in
    its buffer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        #: Key and holder's id of each.
        self.calls: list[tuple[str, str]] = []
        self._open = asyncio.Event()
        self._open.set()
        send = Commands._replies

        async def hold_up(commands: Commands, asked: Sequence[Command]) -> Sequence[Any]:
            calls = [call for words in asked for found, call in [_kind_of(words)] if found == kind]
            self.calls += calls
            if calls:
                await self._open.wait()
            return await send(commands, asked)

        monkeypatch.setattr(Commands, "_replies", hold_up)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


def _kind_of(words: Command) -> tuple[str, tuple[str, str]]:
    """What a command of locks does, and to which key for whom."""
    if words[0] == "SET":
        return "take", (words[1], words[2])
    if words[0] == "EVALSHA":
        *_, key, holder, ttl_ms = words
        return "renew" if ttl_ms else "give_back", (key, holder)
    return "", ("", "")


def counted(name: str) -> float:
    """What a counter or a histogram of locks shows."""
    for sample in (f"moonwake_lock_{name}_total", f"moonwake_lock_{name}_count"):
        if (value := REGISTRY.get_sample_value(sample)) is not None:
            return value
    raise AssertionError(f"there is no moonwake_lock_{name}")


async def keys_in(redis: Redis) -> set[bytes]:
    """Every key there is."""
    return set(await redis.keys())


async def turns(redis: Redis, locks: Locks, order: list[str], who: str) -> None:
    async with locks.hold("ann"):
        order.append(who)
        await redis.ping()


async def quiet(redis: Redis) -> None:
    """Return when everything that could go on by itself has."""
    for _ in range(50):
        await redis.ping()


async def raises_boom(locks: Locks, *names: str) -> None:
    async with locks.hold(*names):
        raise Boom


# --- who is kept apart -------------------------------------------------------------


async def test_one_at_a_time_in_all_processes(redis: Redis, ours: Locks, theirs: Locks) -> None:
    """
    A counter that is read, and written a round trip later, loses no step.
    """

    async def count(locks: Locks) -> None:
        async with locks.hold("ann"):
            seen = int(await redis.get("counter") or 0)
            await redis.ping()
            await redis.set("counter", seen + 1)

    await asyncio.gather(*(count(each) for each in (ours, theirs) for _ in range(25)))

    assert b"50" == await redis.get("counter")
    assert {b"counter"} == await keys_in(redis)


async def test_other_names_do_not_wait(ours: Locks, theirs: Locks) -> None:
    """
    Only who needs the same waits.
    """
    holders = [
        await Holder(each, name).enter() for each, name in ((ours, "ann"), (ours, "bob"))
    ] + [await Holder(theirs, "cleo").enter()]

    assert [True, True, True] == [holder.is_in for holder in holders]
    for holder in holders:
        await holder.leave()


async def test_first_come_first_served_in_a_process(redis: Redis, ours: Locks) -> None:
    """
    Tasks of one process get a lock in the order in which they asked.
    """
    first = await Holder(ours, "ann").enter()
    order: list[str] = []
    tasks = []
    for who in "abcdefgh":
        tasks.append(asyncio.create_task(turns(redis, ours, order, who)))
        await asyncio.sleep(0)
    await first.leave()
    await asyncio.gather(*tasks)

    assert [*"abcdefgh"] == order


async def test_one_task_of_a_process_asks_redis(
    redis: Redis, ours: Locks, theirs: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However many wait, Redis is asked by the first of them, who has asked from the beginning.
    """
    asking = Gate(monkeypatch, "take")
    first = await Holder(theirs, "ann").enter()
    asking.calls.clear()
    waiting = [Holder(ours, "ann") for _ in range(5)]
    await until(lambda: len(asking.calls) > 3, "Redis was asked some times")

    assert 1 == len(set(asking.calls))
    await first.leave()
    for holder in waiting:
        await holder.leave()
    assert set() == await keys_in(redis)


async def test_locks_are_taken_in_the_order_given(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where everybody keeps to one order, nobody waits in a circle; a name given twice is one lock.
    """
    asking = Gate(monkeypatch, "take")
    async with ours.hold("zoe", "ann", "bob", "ann"):
        held = await keys_in(redis)

    assert [KEYS.lock(name) for name in ("zoe", "ann", "bob")] == [key for key, _ in asking.calls]
    assert {KEYS.lock(name).encode() for name in ("zoe", "ann", "bob")} == held
    assert set() == await keys_in(redis)


async def test_who_waits_for_a_neighbour_keeps_no_other_process_waiting(
    redis: Redis, ours: Locks, theirs: Locks
) -> None:
    """
    Nothing is taken in Redis before a task is at the head of all its queues.
    """
    neighbour = await Holder(ours, "bob").enter()
    waiting = Holder(ours, "ann", "bob")
    await quiet(redis)
    assert {BOB.encode()} == await keys_in(redis)
    await (await Holder(theirs, "ann").enter()).leave()

    await neighbour.leave()
    await (await waiting.enter()).leave()


async def test_queues_are_forgotten(redis: Redis, ours: Locks) -> None:
    """
    A process that locked each of a million users once remembers none of them.
    """
    order: list[str] = []
    await asyncio.gather(*(turns(redis, ours, order, who) for who in "abc"))
    holder = await Holder(ours, "ann", "bob").enter()
    assert {"ann", "bob"} == set(ours._queues)

    await holder.leave()

    assert {} == dict(ours._queues)


async def test_locks_can_be_switched_off(redis: Redis) -> None:
    """
    REDIS_LOCKS=false: nobody asks Redis, and nobody waits.
    """
    waits = counted("wait_seconds")
    off = Locks(cast("Redis", None), KEYS, enabled=False)
    async with off.hold("ann"), off.hold("ann"):
        held = await keys_in(redis)

    assert set() == held
    assert waits == counted("wait_seconds")


async def test_nothing_to_lock_asks_nobody() -> None:
    """
    An operation that names no locks needs no Redis.
    """
    waits = counted("wait_seconds")
    async with Locks(cast("Redis", None), KEYS).hold():
        pass

    assert waits == counted("wait_seconds")


# --- leases ------------------------------------------------------------------------


async def test_a_lock_outlives_its_lease_while_it_is_held(
    redis: Redis, ours: Locks, theirs: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who takes long keeps others out all the same: also with the first lock, while it waits for
    the second.
    """
    monkeypatch.setattr(locks, "LEASE_MS", 3_000)
    renewing = Gate(monkeypatch, "renew")
    await redis.set(BOB, "a stranger's")
    expiries = counted("expiries")
    holder = Holder(ours, "ann", "bob")
    await until(lambda: len(renewing.calls) > 3, "it was renewed for longer than a lease")
    assert {ANN} == {key for key, _ in renewing.calls}
    await redis.delete(BOB)
    await holder.enter()
    renewing.calls.clear()
    await until(lambda: len(renewing.calls) > 8, "both were renewed for longer than a lease")

    assert {ANN, BOB} == {key for key, _ in renewing.calls}
    assert 0 < await redis.pttl(ANN) <= 3_000
    monkeypatch.setattr(locks, "WAIT_S", 0.05)
    with pytest.raises(Busy):
        await raises_boom(theirs, "ann")
    await holder.leave()
    assert expiries == counted("expiries")


async def test_every_lease_runs_out_by_itself(redis: Redis, ours: Locks) -> None:
    """
    A process that dies holding a lock keeps others out for a while, but lets them in in time.
    """
    async with ours.hold("ann"):
        assert 0 < await redis.pttl(ANN) <= 5_000 < locks.WAIT_S * 1_000


async def test_a_lost_lease_is_noticed_and_the_body_goes_on(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    MySQL decides: no work is thrown away because Redis forgot a lock. It is counted once.
    """
    monkeypatch.setattr(locks, "LEASE_MS", 300)
    expiries = counted("expiries")
    holder = await Holder(ours, "ann").enter()
    await redis.delete(ANN)
    await until(lambda: counted("expiries") > expiries, "the loss is counted")
    assert holder.is_in

    await holder.leave()

    assert expiries + 1 == counted("expiries")


async def test_a_lease_that_is_anothers_by_now_is_left_alone(redis: Redis, ours: Locks) -> None:
    """
    Only the lock that was taken is given back; that it was lost is counted at the latest then.
    """
    expiries = counted("expiries")
    async with ours.hold("ann", "bob"):
        await redis.set(ANN, "another's")

    assert b"another's" == await redis.get(ANN)
    assert {ANN.encode()} == await keys_in(redis)
    assert expiries + 1 == counted("expiries")


# --- waiting too long --------------------------------------------------------------


async def test_waiting_is_bounded_and_leaves_nothing(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who cannot have all of its locks in time is told so, holds none of them, and is counted.
    """
    monkeypatch.setattr(locks, "WAIT_S", 0.2)
    timeouts, waits = counted("timeouts"), counted("wait_seconds")
    await redis.set(BOB, "another's")
    with pytest.raises(Busy, match="ann, bob"):
        await raises_boom(ours, "ann", "bob")

    assert {BOB.encode()} == await keys_in(redis)
    assert b"another's" == await redis.get(BOB)
    assert {} == dict(ours._queues)
    assert (timeouts + 1, waits) == (counted("timeouts"), counted("wait_seconds"))


async def test_waiting_in_the_process_is_bounded_too(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The time in the queue counts, and who gave up is in nobody's way.
    """
    holder = await Holder(ours, "ann").enter()
    monkeypatch.setattr(locks, "WAIT_S", 0.05)
    with pytest.raises(Busy):
        await raises_boom(ours, "bob", "ann")
    await holder.leave()

    assert set() == await keys_in(redis)
    await (await Holder(ours, "ann", "bob").enter()).leave()


async def test_a_time_out_of_the_body_is_the_bodys(ours: Locks) -> None:
    """
    Only waiting for locks is `Busy`.
    """
    with pytest.raises(TimeoutError):
        async with ours.hold("ann"):
            raise TimeoutError


async def test_the_bodys_error_comes_through_and_the_lock_is_free(
    redis: Redis, ours: Locks
) -> None:
    """
    Whatever the body raises is what the caller sees.
    """
    with pytest.raises(Boom):
        await raises_boom(ours, "ann")

    assert set() == await keys_in(redis)


# --- cancelled ---------------------------------------------------------------------


async def ended(task: asyncio.Task[None]) -> None:
    """Return when *task* has ended; fail unless it was cancelled."""
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_cancelled_in_the_queue_leaves_nothing(redis: Redis, ours: Locks) -> None:
    """
    The next in the queue moves up.
    """
    holder = await Holder(ours, "ann").enter()
    waiting, next_one = Holder(ours, "bob", "ann"), Holder(ours, "ann")
    await quiet(redis)
    waiting.task.cancel()
    await ended(waiting.task)
    await holder.leave()
    await (await next_one.enter()).leave()

    assert set() == await keys_in(redis)
    assert {} == dict(ours._queues)


async def test_cancelled_between_two_looks_leaves_nothing(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What was taken already is given back, and another's lock stays.
    """
    asking = Gate(monkeypatch, "take")
    await redis.set(BOB, "another's")
    waiting = Holder(ours, "ann", "bob")
    await until(lambda: len(asking.calls) > 4, "it looked some times")
    waiting.task.cancel()
    await ended(waiting.task)

    assert {BOB.encode()} == await keys_in(redis)


async def test_cancelled_while_redis_takes_a_lock_leaves_nothing(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Redis may do later what nobody waits for any more: it is given back after its answer.
    """
    asking = Gate(monkeypatch, "take")
    asking.close()
    waiting = Holder(ours, "ann")
    await until(lambda: bool(asking.calls), "Redis is asked")
    for _ in range(3):
        waiting.task.cancel()
        await quiet(redis)
    asking.open()
    await ended(waiting.task)
    # Whoever comes next asks after all that.
    await (await Holder(ours, "ann").enter()).leave()

    assert set() == await keys_in(redis)
    assert not waiting.is_in


async def test_cancelled_while_held_gives_back(redis: Redis, ours: Locks) -> None:
    """
    A client that hangs up locks nobody out.
    """
    holder = await Holder(ours, "ann", "bob").enter()
    holder.task.cancel()
    await ended(holder.task)

    assert set() == await keys_in(redis)


async def test_cancelled_while_giving_back_gives_back(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    However often it is cancelled; the next in the queue asks Redis after it.
    """
    giving = Gate(monkeypatch, "give_back")
    holder = await Holder(ours, "ann", "bob").enter()
    next_one = Holder(ours, "bob")
    giving.close()
    leaving = asyncio.create_task(holder.leave())
    await until(lambda: bool(giving.calls), "it is giving back")
    for _ in range(3):
        holder.task.cancel()
        await quiet(redis)
    assert not next_one.is_in
    giving.open()
    await ended(holder.task)
    await asyncio.wait([leaving])
    await (await next_one.enter()).leave()

    assert set() == await keys_in(redis)


async def test_cancelled_while_renewing_leaves_nothing(
    redis: Redis, ours: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A renewal on its way does not bring back what was given back, nor is it taken for a loss.
    """
    monkeypatch.setattr(locks, "LEASE_MS", 12_000)
    renewing = Gate(monkeypatch, "renew")
    renewing.close()
    expiries = counted("expiries")
    holder = await Holder(ours, "ann").enter()
    await until(lambda: bool(renewing.calls), "it is renewed")
    holder.task.cancel()
    await quiet(redis)
    renewing.open()
    await ended(holder.task)
    await quiet(redis)

    assert set() == await keys_in(redis)
    assert expiries == counted("expiries")


# --- Redis away --------------------------------------------------------------------


@pytest.fixture(name="own_redis")
async def _own_redis(own_servers: OwnServers) -> AsyncIterator[Redis]:
    """A client of the Redis that may be killed; by itself it would wait for an hour."""
    async with open_redis(own_servers.redis.url, timeout_s=3600) as client:
        yield client


async def test_without_redis_the_body_runs(own_servers: OwnServers, own_redis: Redis) -> None:
    """
    MySQL alone is enough, and tasks of one process still take turns. It is counted.
    """
    ours = Locks(own_redis, KEYS)
    unlocked, waits = counted("unlocked"), counted("wait_seconds")
    own_servers.redis.kill()
    first = await Holder(ours, "ann", "bob").enter()
    second = Holder(ours, "bob")
    assert unlocked + 1 == counted("unlocked")
    await first.leave()
    await (await second.enter()).leave()
    with pytest.raises(Boom):
        await raises_boom(ours, "ann")

    assert (unlocked + 3, waits + 3) == (counted("unlocked"), counted("wait_seconds"))


async def test_a_frozen_redis_is_not_waited_for_long(
    own_servers: OwnServers, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Neither when locks are taken nor when they are given back; what it does when it thaws is
    given back or runs out.
    """
    monkeypatch.setattr(locks, "LEASE_MS", 3_000)
    ours = Locks(own_redis, KEYS)
    unlocked = counted("unlocked")
    held = await Holder(ours, "ann").enter()
    monkeypatch.setattr(ours._commands, "_timeout_s", 0.2)
    own_servers.redis.pause()
    await (await Holder(ours, "bob", "cleo").enter()).leave()
    with pytest.raises(Boom):
        await raises_boom(ours, "dan")
    await held.leave()
    own_servers.redis.resume()

    async def is_empty() -> bool:
        return set() == await keys_in(own_redis)

    await until(is_empty, "nothing is locked")
    assert unlocked + 2 == counted("unlocked")


async def test_the_body_goes_on_when_redis_goes_away(
    own_servers: OwnServers, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The lock counts as lost when its lease has run out, and only once.
    """
    monkeypatch.setattr(locks, "LEASE_MS", 600)
    ours = Locks(own_redis, KEYS)
    expiries = counted("expiries")
    holder = await Holder(ours, "ann").enter()
    own_servers.redis.kill()
    await until(lambda: counted("expiries") > expiries, "the loss is counted")
    assert holder.is_in

    await holder.leave()

    assert expiries + 1 == counted("expiries")


async def test_a_redis_that_is_back_in_time_keeps_the_lock(
    own_servers: OwnServers, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One renewal that failed is no loss while the lease goes on.
    """
    monkeypatch.setattr(locks, "LEASE_MS", 60_000)
    expiries = counted("expiries")
    commands = Commands(own_redis, timeout_s=30)
    held = locks._Held(commands)
    await held.take(ANN)
    own_servers.redis.pause()
    with monkeypatch.context() as impatient:
        impatient.setattr(commands, "_timeout_s", 0.5)
        await held._renew()
    own_servers.redis.resume()
    await held._renew()
    await held.give_back()

    assert expiries == counted("expiries")
    assert set() == await keys_in(own_redis)


async def test_an_error_of_the_body_is_not_hidden_by_one_of_redis(
    own_servers: OwnServers, own_redis: Redis
) -> None:
    """
    That a lock could not be given back is for the log.
    """

    async def body() -> None:
        async with Locks(own_redis, KEYS).hold("ann"):
            own_servers.redis.kill()
            raise Boom

    with pytest.raises(Boom):
        await body()


# --- figures -----------------------------------------------------------------------


async def test_figures_of_locks_are_in_the_metrics(migrated: Settings, redis: Redis) -> None:
    """
    How long locks were waited for, and how often it went wrong.
    """
    async with front(migrated) as site:
        async with Locks(redis, KEYS).hold("ann"):
            pass
        text = (await site.client.get("/metrics")).text

    lines = {line.split(" ")[0] for line in text.splitlines()}
    assert {
        "moonwake_lock_wait_seconds_count",
        "moonwake_lock_timeouts_total",
        "moonwake_lock_expiries_total",
        "moonwake_lock_unlocked_total",
    } <= lines
