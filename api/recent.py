"""A value of MySQL's that is read at most once in a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """What *load* returned last, for at most *ttl_s*."""

    def __init__(self, load: Callable[[], Awaitable[T]], ttl_s: float) -> None:
        self._load = load
        self._ttl_s = ttl_s
        self._known: tuple[T, float] | None = None
        self._loading: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The value. Raises what loading it does."""
        if self._known is not None and monotonic() < self._known[1]:
            return self._known[0]
        # One loads for all who ask meanwhile, and whoever goes away takes it from nobody.
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_anew())
        return await asyncio.shield(self._loading)

    async def _load_anew(self) -> T:
        try:
            loaded = await self._load()
            if self._loading is asyncio.current_task():
                self._known = (loaded, monotonic() + self._ttl_s)
            return loaded
        finally:
            if self._loading is asyncio.current_task():
                self._loading = None

    def forget(self) -> None:
        """It was changed: the next one is read, by a reading that begins later."""
        self._known = self._loading = None
