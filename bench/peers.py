"""
What our front is measured against, each served by uvicorn as ours is.

`constant` reads the body and answers: the limit of this server. `write_through` is
the seed design's own way (its section 4.2): MySQL first, then the cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from litestar import Litestar, Request, Response, post

from api.asgi import Receive, Scope, Send, read_body
from api.errors import handle
from api.gate import Gate
from shared.accounts.bars import Bars
from shared.accounts.sessions import Sessions
from shared.keys import Keys
from shared.mysql import dialect_of, open_mysql, reading
from shared.redis import open_redis
from shared.settings import from_env
from worker.sql import upsert_clause

_ANSWER = b'{"success":true}'
_COLUMNS = (
    *("username", "source", "content_id", "title", "source_name", "cover", "year"),
    *("episode_index", "total_episodes", "play_time", "total_time", "search_title", "remarks"),
    *("original_episodes", "event_ms"),
)
_UPDATES = [
    f"{name} = {{new}}{name}" for name in ("title", "episode_index", "play_time", "total_time")
]
_FIELDS = (
    *("title", "source_name", "cover", "year", "index", "total_episodes", "play_time"),
    *("total_time", "search_title", "remarks", "total_episodes", "save_time"),
)


async def constant(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, answer a constant."""
    if scope["type"] != "http":
        return
    await read_body(scope, receive)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"16")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def write_through() -> Litestar:
    """The seed's way, behind the framework and the authentication that we use."""
    settings = from_env()

    @asynccontextmanager
    async def stores(app: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.redis = await stack.enter_async_context(open_redis(settings.redis_url))
            app.state.pool = await stack.enter_async_context(open_mysql(settings))
            keys = Keys(settings.key_prefix)
            bars = Bars(app.state.redis, keys, app.state.pool)
            app.state.gate = Gate(settings, bars, Sessions.of(app.state.redis, settings))
            yield

    @post("/api/playrecords", status_code=200)
    async def save(request: Request[Any, Any, Any]) -> Response[bytes]:
        visitor = await request.app.state.gate.visitor(request.scope["headers"])
        body = orjson.loads(await request.body())
        source, _, content_id = body["key"].partition("+")
        record = body["record"]
        values = (visitor.username, source, content_id, *(record.get(name) for name in _FIELDS))
        async with reading(request.app.state.pool) as cursor:
            marks = ",".join(["%s"] * len(_COLUMNS))
            clause = upsert_clause(dialect_of(cursor), "play_records", _UPDATES)
            await cursor.execute(
                f"INSERT INTO play_records ({','.join(_COLUMNS)}) VALUES ({marks}){clause}", values
            )
        cached = f"seed:user:{visitor.username}:play_records"
        redis = request.app.state.redis
        await redis.setex(f"{cached}:{body['key']}", 3600, orjson.dumps(record))
        await redis.delete(f"{cached}:all")
        return Response(_ANSWER, media_type="application/json")

    return Litestar(
        route_handlers=[save],
        lifespan=[stores],
        exception_handlers={Exception: handle},
        openapi_config=None,
        logging_config=None,
    )
