"""MySQL away until past the high-water mark: refused, never lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.processes import Site, running_site
from tests.fronts import Front, front
from tests.plays import record
from tests.servers import OwnServers
from tests.waiting import until

#: Enough names to have some in each shard.
USERS = [f"u{number}" for number in range(16)]


@pytest.fixture(name="site")
async def _site(own_servers: OwnServers, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(own_servers, tmp_path, workers=1) as site:
        yield site


class Posts:
    """Saves posted to a front, one of each user at a time; `acknowledged` are those taken."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._numbers = itertools.count()
        self.acknowledged: list[str] = []
        self.retry_after: set[str | None] = set()

    async def round(self) -> set[int]:
        """A save of each user; the status codes they got."""
        return set(await asyncio.gather(*map(self._post, USERS)))

    async def _post(self, user: str) -> int:
        nonce = f"n{next(self._numbers)}"
        answer = await self._front.save(user, "s+1", record(nonce=nonce))
        if answer.status_code == 200:
            self.acknowledged.append(nonce)
        else:
            self.retry_after.add(answer.headers.get("retry-after"))
        return answer.status_code


async def test_mysql_down_past_the_high_water_mark_loses_nothing(site: Site) -> None:
    """
    Writes go on without MySQL up to the mark, are refused with Retry-After above it, and
    are taken again once workers have caught up.
    """
    async with front(replace(site.settings, max_lag_entries=100)) as api:
        posts = Posts(api)
        assert {200} == await posts.round()
        await site.drained()
        site.servers.mysql.kill()

        async def is_full() -> bool:
            return await posts.round() == {503}

        await until(is_full, "every shard is closed")
        assert len(posts.acknowledged) > site.settings.shards * 100
        assert all(posts.retry_after)

        site.servers.mysql.start()

        async def is_open() -> bool:
            return await posts.round() == {200}

        await until(is_open, "every shard is open again")

    await site.assert_exact(posts.acknowledged)
