"""The pool of connections to Redis, where it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared.errors import StoreDown
from shared.redis import open_redis, redis_errors
from tests.waiting import until


@dataclass(slots=True)
class Silent:
    """A server that takes connections and says nothing, as a frozen Redis does."""

    url: str = ""
    clients: list[asyncio.StreamWriter] = field(default_factory=list)


@asynccontextmanager
async def silent_server() -> AsyncIterator[Silent]:
    silent = Silent()
    server = await asyncio.start_server(
        lambda _, writer: silent.clients.append(writer), "127.0.0.1", 0
    )
    silent.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server:
        yield silent
        for client in silent.clients:
            client.close()


async def test_nobody_waits_for_what_others_were_not_told() -> None:
    """Each who asks has a connection at once, not after the time-outs of those before."""
    async with silent_server() as silent, open_redis(silent.url, timeout_s=600) as redis:
        asked = [asyncio.ensure_future(redis.get("key")) for _ in range(20)]
        await until(lambda: len(silent.clients) == len(asked), "all are connected", timeout_s=10)
        assert not any(task.done() for task in asked)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_however_many_ask_each_is_told() -> None:
    """Those too who got no connection; nobody's is lost to the next."""
    told: list[str] = []

    async def ask() -> None:
        try:
            with redis_errors():
                await redis.get("key")
        except StoreDown as error:
            told.append(str(error))

    async with silent_server() as silent, open_redis(silent.url, timeout_s=0.2) as redis:
        for _ in range(2):
            await asyncio.gather(*(ask() for _ in range(150)))

    assert 300 == len(told)
    assert any("No connection available" in text for text in told)
    assert any("Timeout" in text for text in told[150:])
