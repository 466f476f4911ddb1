"""Commands of many tasks over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from shared.commands import Commands
from shared.errors import StoreDown
from shared.redis import Command, open_redis
from tests.servers import OwnServers

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@pytest.fixture(name="commands")
def _commands(redis: Redis) -> Commands:
    return Commands(redis, timeout_s=5)


@pytest.fixture(name="writes")
def _writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each write to Redis had."""
    counts: list[int] = []
    send = Commands._replies

    async def count(commands: Commands, asked: Sequence[Command]) -> Sequence[Any]:
        counts.append(len(asked))
        return await send(commands, asked)

    monkeypatch.setattr(Commands, "_replies", count)
    return counts


async def test_what_is_asked_at_one_moment_goes_out_together(
    commands: Commands, writes: list[int]
) -> None:
    """Each gets its own reply, in one round trip."""
    replies = await asyncio.gather(*(commands.put("ECHO", str(number)) for number in range(50)))

    assert [str(number).encode() for number in range(50)] == replies
    assert [50] == writes


async def test_order_holds_for_what_cancelled_tasks_asked_for(
    redis: Redis, commands: Commands
) -> None:
    """What nobody waits for any more is done, and before what is asked for later."""
    commands.put("SET", "key", "first").cancel()
    later = commands.put("GETSET", "key", "second")

    assert b"first" == await later
    assert b"second" == await redis.get("key")


async def test_an_error_is_the_reply_of_its_command_alone(commands: Commands) -> None:
    wrong, right = commands.put("NO-SUCH-COMMAND"), commands.put("ECHO", "here")

    assert isinstance(await wrong, ResponseError)
    assert b"here" == await right


async def test_a_script_that_was_removed_is_loaded_again(redis: Redis, commands: Commands) -> None:
    """SCRIPT FLUSH costs one reply."""
    assert 2 == await commands.put_script(ADD, "sum", 2)
    await redis.script_flush()

    assert isinstance(await commands.put_script(ADD, "sum", 2), NoScriptError)
    assert 4 == await commands.put_script(ADD, "sum", 2)


async def test_after_a_failure_the_next_command_opens_another_connection(
    own_servers: OwnServers,
) -> None:
    """Who waited is told, with what came to wait meanwhile; scripts are there again."""
    async with open_redis(own_servers.redis.url) as client:
        commands = Commands(client, timeout_s=5)
        assert 1 == await commands.put_script(ADD, "sum", 1)
        own_servers.redis.kill()
        lost = [commands.put("PING"), commands.put_script(ADD, "sum", 1)]
        assert [StoreDown, StoreDown] == [type(await reply) for reply in lost]
        own_servers.redis.start()

        assert b"PONG" == await commands.put("PING")
        assert 2 == await commands.put_script(ADD, "sum", 1)


async def test_an_answer_that_comes_too_late_is_nobody_elses(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection on which one may still come is not used again."""
    async with open_redis(own_servers.redis.url) as client:
        commands = Commands(client, timeout_s=30)
        assert b"PONG" == await commands.put("PING")
        own_servers.redis.pause()
        with monkeypatch.context() as impatient:
            impatient.setattr(commands, "_timeout_s", 0.2)
            assert isinstance(await commands.put("ECHO", "late"), StoreDown)
        own_servers.redis.resume()

        assert b"in time" == await commands.put("ECHO", "in time")


async def test_a_fault_of_ours_stops_no_later_command(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited is told that Redis did not do it, also who asked in the middle of the fault."""
    assert b"PONG" == await commands.put("PING")
    meanwhile: list[asyncio.Future[Any]] = []

    async def fail(*_: Any) -> Any:
        meanwhile.append(commands.put("PING"))
        raise KeyError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr("shared.commands.exchange", fail)
        first = commands.put("PING")
        assert isinstance(await first, StoreDown)
        assert isinstance(await meanwhile[0], StoreDown)
    assert b"PONG" == await commands.put("PING")


async def test_who_waits_when_the_sender_is_cancelled_is_told(own_servers: OwnServers) -> None:
    async with open_redis(own_servers.redis.url) as client:
        commands = Commands(client, timeout_s=60)
        assert b"PONG" == await commands.put("PING")
        own_servers.redis.pause()
        lost = commands.put("PING")
        assert commands._sending is not None
        await asyncio.sleep(0)  # it has begun
        commands._sending.cancel()
        assert isinstance(await lost, StoreDown)
        own_servers.redis.resume()

        assert b"PONG" == await commands.put("PING")
