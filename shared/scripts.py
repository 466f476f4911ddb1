"""The Lua scripts in shared/lua: what must change together in Redis is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from shared.redis import redis_errors

_LUA = Path(__file__).parent / "lua"


@cache
def script(name: str) -> str:
    """The text of shared/lua/*name*.lua, after what all scripts share."""
    texts = [(_LUA / f"{each}.lua").read_text(encoding="utf-8") for each in ("stamp", name)]
    return "".join(texts)


async def run_script(
    redis: Redis, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()
) -> Any:
    """What shared/lua/*name*.lua returns; it says there what it takes. Raises `StoreDown`."""
    with redis_errors():
        return await redis.register_script(script(name))(keys, arguments)
