"""Fronts for tests: the whole ASGI application, started as a server would start it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from redis.asyncio import Redis

from api.app import App
from api.play_records import PATH
from api.site import Site
from shared.cookies import sign
from shared.keys import Keys
from shared.settings import Settings


class Refused(Exception):
    """The application would not start; the message is what it told the server."""


@dataclass(frozen=True, slots=True)
class Front:
    """One API process's application and a client that talks to it."""

    app: App
    client: httpx.AsyncClient
    settings: Settings

    @property
    def site(self) -> Site:
        assert self.app.site is not None
        return self.app.site

    def cookie(self, user: str, role: str = "user") -> dict[str, str]:
        """The header of a request by *user*."""
        return {"cookie": f"user_auth={sign(user, role, self.settings.password, 0)}"}

    async def save(self, user: str, key: str, record: dict[str, Any]) -> httpx.Response:
        body = {"key": key, "record": record}
        return await self.client.post(PATH, json=body, headers=self.cookie(user))

    async def delete(self, user: str, key: str) -> httpx.Response:
        return await self.client.delete(PATH, params={"key": key}, headers=self.cookie(user))

    async def clear(self, user: str) -> httpx.Response:
        return await self.client.delete(PATH, headers=self.cookie(user))

    async def read(self, user: str) -> httpx.Response:
        return await self.client.get(PATH, headers=self.cookie(user))

    async def records(self, user: str) -> dict[str, Any]:
        """What *user* reads."""
        response = await self.read(user)
        assert response.status_code == 200, response.text
        records: dict[str, Any] = response.json()
        return records


@asynccontextmanager
async def front(settings: Settings) -> AsyncIterator[Front]:
    """A started front. Raises `Refused` if it will not start."""
    app = App(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://front") as client,
    ):
        yield Front(app, client, settings)


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """Start and stop *app* by ASGI's own protocol."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    started = await from_app.get()
    if started["type"] != "lifespan.startup.complete":
        await asyncio.wait([task])
        task.exception()  # the message says it: nobody else is to be told
        raise Refused(started["message"])
    try:
        yield
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await task
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"


JSON = {"content-type": "application/json"}


async def events_in(site: Front, redis: Redis) -> list[dict[str, Any]]:
    """Every event in every stream."""
    keys = Keys(site.settings.key_prefix)
    found: list[dict[str, Any]] = []
    for shard in range(site.settings.shards):
        for _, fields in await redis.xrange(keys.stream("plays", shard)):
            found.append(orjson.loads(dict(zip(fields[::2], fields[1::2], strict=True))[b"d"]))
    return found


async def post(site: Front, body: bytes, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a POST by ann."""
    response = await site.client.post(
        PATH, content=body, headers={**site.cookie("ann"), **JSON, **headers}
    )
    return response.status_code, response.json()
