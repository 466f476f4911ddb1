"""Write-through: MySQL before the answer, with a pool of 20 connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.rivals.apps.front import Accept, Front
from bench.rivals.apps.one import writer
from shared.mysql import open_mysql
from shared.settings import Settings


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Accept]:
    async with open_mysql(settings) as pool:
        yield writer(pool, settings.stats_timezone)


def create_app() -> Front:
    return Front(opened)
