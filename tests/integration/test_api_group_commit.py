"""Appending: many requests in one round trip, and what each is told when Redis fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from api.group_commit import GROUP_BYTES_MAX, GROUP_EVENTS_MAX, GroupCommit
from shared.appends import AppendConnection
from shared.connections import Pool, open_redis
from shared.errors import AppendRefused
from shared.keys import Keys, shard_of
from shared.settings import Settings
from shared.streams import Append
from tests.fronts import front
from tests.plays import STREAM, append_of, deps_of, drain_all, record, rows, save
from tests.servers import OwnServers
from tests.waiting import until


@dataclass(slots=True)
class Flusher:
    """A group commit over one Redis, and the sizes of the groups it sent."""

    group_commit: GroupCommit
    settings: Settings
    keys: Keys
    groups: list[float] = field(default_factory=list)

    def event(self, content_id: str = "1", user: str = "ann", note: str = "") -> Append:
        given = save(user, content_id, note=note)
        return append_of(self.keys, self.settings.shards, given)

    def append(self, event: Append) -> asyncio.Task[None]:
        return asyncio.create_task(self.group_commit.append(event))


def flusher(
    settings: Settings, redis: Redis, *, timeout_s: float = 2.0, queue_events_max: int = 10_000
) -> Flusher:
    keys = Keys(settings.key_prefix)
    groups: list[float] = []
    connection = AppendConnection(redis, keys, STREAM, timeout_s=timeout_s)
    commit = GroupCommit(connection, groups.append, queue_events_max=queue_events_max)
    return Flusher(commit, settings, keys, groups)


@asynccontextmanager
async def running(it: Flusher) -> AsyncIterator[None]:
    task = asyncio.create_task(it.group_commit.run())
    try:
        yield
    finally:
        it.group_commit.stop()
        await task


async def ids_in(it: Flusher, redis: Redis) -> list[str]:
    """The content ids in all streams, in the order of each."""
    found: list[str] = []
    for shard in range(it.settings.shards):
        for _, fields in await redis.xrange(it.keys.stream(STREAM, shard)):
            found.append(fields[1].split(b'"id":"')[1].split(b'"')[0].decode())
    return found


async def outcome_of(task: asyncio.Task[None]) -> str:
    try:
        await task
    except AppendRefused as error:
        return str(error)
    return "kept"


async def test_requests_that_wait_share_a_round_trip_in_bounded_groups(
    settings: Settings, redis: Redis
) -> None:
    """Twelve hundred waiting events go as three groups, each kept, each user's in order."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number))) for number in range(1_200)]
    await asyncio.sleep(0)
    async with running(it):
        await asyncio.gather(*tasks)

    assert [GROUP_EVENTS_MAX, GROUP_EVENTS_MAX, 200] == it.groups
    assert [str(number) for number in range(1_200)] == await ids_in(it, redis)


async def test_a_group_is_bounded_in_bytes_too(settings: Settings, redis: Redis) -> None:
    """Ten events of 60 KB take more than one script call; one alone always goes."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number), note="x" * 60_000)) for number in range(10)]
    tasks.append(it.append(it.event("huge", note="x" * (GROUP_BYTES_MAX + 1))))
    await asyncio.sleep(0)
    async with running(it):
        await asyncio.gather(*tasks)

    assert [4, 4, 2, 1] == it.groups


async def test_concurrent_requests_of_a_front_go_together(settings: Settings) -> None:
    """A hundred requests at a time need far fewer round trips."""
    async with front(settings) as site:
        users = [f"user{number}" for number in range(100)]
        groups: list[float] = []
        site.site.group_commit._observe_group = groups.append
        answers = await asyncio.gather(*(site.save(user, "s+1", record()) for user in users))

    assert {200} == {answer.status_code for answer in answers}
    assert 100 == sum(groups)
    assert len(groups) < 50


async def test_a_request_that_goes_away_takes_nobody_with_it(
    settings: Settings, redis: Redis
) -> None:
    """Cancelling one waiter of a group leaves the others and the flusher alone."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    async with running(it), asyncio.timeout(30):
        assert ["kept", "kept"] == [await outcome_of(tasks[0]), await outcome_of(tasks[2])]
        assert "kept" == await outcome_of(it.append(it.event("later")))
    assert tasks[1].cancelled()


async def test_a_full_queue_refuses_at_once(settings: Settings, redis: Redis) -> None:
    """What waits is bounded; the refused event is not sent later."""
    it = flusher(settings, redis, queue_events_max=2)
    tasks = [it.append(it.event(str(number))) for number in range(3)]

    assert "wait for Redis" in await outcome_of(tasks[2])
    async with running(it):
        await asyncio.gather(*tasks[:2])
    assert ["0", "1"] == await ids_in(it, redis)


async def test_stopping_sends_what_waits_first(settings: Settings, redis: Redis) -> None:
    """An orderly stop loses no request that was taken in; later ones are refused."""
    it = flusher(settings, redis)
    tasks = [it.append(it.event(str(number))) for number in range(700)]
    await asyncio.sleep(0)
    it.group_commit.stop()
    await it.group_commit.run()

    assert {"kept"} == {await outcome_of(task) for task in tasks}
    assert "kept" != await outcome_of(it.append(it.event("late")))


async def test_after_noscript_each_event_is_appended_once(
    migrated: Settings, redis: Redis, pool: Pool
) -> None:
    """Redis forgot the script: only what it refused is sent again."""
    it = flusher(replace(migrated, flush_interval_ms=0), redis)
    users = [f"user{number}" for number in range(20)]
    async with running(it):
        await it.append(it.event())
        for content_id in ("a", "b", "c"):
            await redis.script_flush()
            await asyncio.gather(*(it.append(it.event(content_id, user)) for user in users))
    await drain_all(deps_of(it.settings, redis, pool))

    expected = [(user, content_id) for user in sorted(users) for content_id in "abc"]
    assert sorted(["1", *"abc" * 20]) == sorted(await ids_in(it, redis))
    assert expected == await rows(
        pool,
        "SELECT username, content_id FROM play_records WHERE username <> 'ann' ORDER BY 1, 2",
    )


async def test_a_script_lost_between_two_groups_doubles_neither(
    settings: Settings, redis: Redis
) -> None:
    """The first group was kept, the second refused: only the second goes again."""

    async def flush_after_the_first(commands: bytes) -> AsyncIterator[bytes]:
        starts = [match.start() for match in re.finditer(rb"\*\d+\r\n\$7\r\nEVALSHA", commands)]
        if len(starts) < 2:
            yield commands
            return
        yield commands[: starts[1]]
        await until(lambda: _has_entries(redis, settings), "Redis has run the first group")
        await redis.script_flush()
        yield commands[starts[1] :]

    users = ["ann", "bob", "cat", "eve"]
    assert {0, 1} == {shard_of(user, settings.shards) for user in users}
    async with slowed(settings.redis_url, flush_after_the_first) as url, open_redis(url) as through:
        it = flusher(settings, through)
        tasks = [it.append(it.event(user=user, content_id=user)) for user in users]
        await asyncio.sleep(0)
        async with running(it):
            await asyncio.gather(*tasks)

    assert [4] == it.groups
    assert users == sorted(await ids_in(it, redis))


async def _has_entries(redis: Redis, settings: Settings) -> bool:
    keys = Keys(settings.key_prefix)
    lengths = [await redis.xlen(keys.stream(STREAM, shard)) for shard in range(settings.shards)]
    return any(lengths)


@asynccontextmanager
async def slowed(url: str, pieces: Callable[[bytes], AsyncIterator[bytes]]) -> AsyncIterator[str]:
    """The address of a way to *url* on which what is sent passes in *pieces*."""
    address = urlsplit(url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(address.hostname, address.port)
        back = asyncio.create_task(_copy(far_reader, writer))
        while sent := await reader.read(1_000_000):
            async for piece in pieces(sent):
                far_writer.write(piece)
                await far_writer.drain()
        far_writer.close()
        await back

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield address._replace(netloc=address.netloc.replace(str(address.port), str(port))).geturl()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while answered := await reader.read(1_000_000):
        writer.write(answered)
    writer.close()


async def test_an_append_that_reaches_redis_late_is_refused_there(
    own_servers: OwnServers,
) -> None:
    """A frozen Redis runs the command when it wakes: the script sees it is too late."""
    async with open_redis(own_servers.redis.url) as redis:
        it = flusher(own_servers.settings, redis, timeout_s=0.3)
        async with running(it):
            await it.append(it.event("before"))
            own_servers.redis.pause()
            late = await outcome_of(it.append(it.event("late")))
            own_servers.redis.resume()
            await it.append(it.event("after"))

        assert "did not answer in time" in late
        await until(lambda: _is_idle(redis), "Redis has run what was sent while it was frozen")
        assert ["before", "after"] == await ids_in(it, redis)


async def _is_idle(redis: Redis) -> bool:
    clients = await redis.client_list()
    return all(client["qbuf"] == "0" or client["cmd"] == "client|list" for client in clients)


async def test_an_unknown_outcome_is_told_only_when_it_can_no_longer_come_true(
    settings: Settings, redis: Redis
) -> None:
    """The connection dies before the answer: the refusal waits for the not-after time."""
    it = flusher(settings, redis, timeout_s=0.5)
    async with running(it):
        await it.append(it.event("first"))
        connection = it.group_commit._connection
        await redis.client_pause(10_000, all=False)
        task = it.append(it.event("unknown"))
        not_after_ms = connection._clock.now_ms() + 400
        await until(lambda: connection._connection is not None, "a connection is open")
        [[mine]] = [
            [client for client in await redis.client_list() if client["cmd"].startswith("evalsha")]
        ]
        await redis.client_kill_filter(_id=mine["id"])
        refused = await outcome_of(task)

        assert "did not answer in time" in refused
        assert connection._clock.now_ms() >= not_after_ms
        await redis.client_unpause()


async def test_redis_down_is_503_until_it_is_back(own_servers: OwnServers) -> None:
    """Writes are refused with Retry-After, taken again by themselves, and none counts twice."""
    settings = replace(own_servers.settings, flush_interval_ms=0)
    async with front(settings) as site:
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        own_servers.redis.kill()
        refused = [await site.save("ann", "s+2", record()), await site.clear("ann")]
        own_servers.redis.start()

        async def taken() -> bool:
            return (await site.save("ann", "s+3", record())).status_code == 200

        await until(taken, "writes are taken again")
        keys = set(await site.records("ann"))
        stream = site.site.keys.stream(STREAM, shard_of("ann", settings.shards))
        [[_, last]] = await site.site.redis.xrevrange(stream, count=1)
        about = await site.site.redis.info("replication")

    assert [503, 503] == [response.status_code for response in refused]
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert {"error"} == set(refused[0].json())
    assert {"s+1", "s+3"} == keys
    # Another run of Redis is another incarnation: its entries carry its own stamp.
    assert about["master_replid"][:8].encode() == last[b"i"]


@pytest.mark.parametrize(
    "setting", [{"maxmemory": "1"}, {"min-replicas-to-write": "1"}], ids=lambda s: next(iter(s))
)
async def test_a_redis_that_takes_no_writes_is_503(
    own_servers: OwnServers, setting: dict[str, str]
) -> None:
    """Full memory or missing replicas: Retry-After, nothing kept, and it ends with the cause."""
    async with front(own_servers.settings) as site, open_redis(own_servers.redis.url) as redis:
        [(name, value)] = setting.items()
        await redis.config_set(name, value)
        refused = await site.save("ann", "s+1", record())
        ready = await site.client.get("/readyz")
        await redis.config_set(name, "0")

        assert (503, 503) == (refused.status_code, ready.status_code)
        assert "retry-after" in refused.headers
        assert {} == await site.records("ann")
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        assert 200 == (await site.client.get("/readyz")).status_code


async def test_a_master_that_became_a_replica_is_left(own_servers: OwnServers) -> None:
    """READONLY closes the append connection; the next one finds whoever is master then."""
    async with front(own_servers.settings) as site, open_redis(own_servers.redis.url) as redis:
        assert 200 == (await site.save("ann", "s+1", record())).status_code
        connection = site.site.group_commit._connection
        stamp = connection.stamp
        await redis.replicaof("127.0.0.1", "1")
        refused = await site.save("ann", "s+2", record())
        left = connection._connection is None
        await redis.replicaof("NO", "ONE")
        taken = await site.save("ann", "s+3", record())

        assert (503, True, 200) == (refused.status_code, left, taken.status_code)
        # A promotion is a new incarnation, and entries say so.
        assert stamp != connection.stamp


async def test_entries_added_going_backwards_is_told(
    settings: Settings, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody emptied Redis under a running front: an incident, told with both figures."""
    it = flusher(settings, redis)
    async with running(it):
        await asyncio.gather(*(it.append(it.event(str(number))) for number in range(5)))
        await redis.delete(it.keys.stream(STREAM, shard_of("ann", settings.shards)))
        await it.append(it.event("after"))

    told = capsys.readouterr().out
    assert "entries_added_went_back" in told
    assert "before=5" in told
