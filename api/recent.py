"""A value of MySQL's that is read at most once in a while."""

from __future__ import annotations

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

    async def get(self) -> T:
        """The value. Raises what loading it does."""
        if self._known is None or self._known[1] < monotonic():
            loaded = await self._load()
            self._known = (loaded, monotonic() + self._ttl_s)
        return self._known[0]

    def forget(self) -> None:
        """It was changed: the next one is read."""
        self._known = None
