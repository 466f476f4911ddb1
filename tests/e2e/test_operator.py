"""What an operator sees and does while real workers run: a shard stops, and is taken up again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.keys import shard_of
from tests.commands import moonwake
from tests.e2e.processes import Site, running_site
from tests.integration.test_poison import refusing
from tests.mysql_state import books
from tests.plays import append, save
from tests.servers import OwnServers
from tests.waiting import until
from worker.pace import REFUSED_MAX


@pytest.fixture(name="site")
async def _site(own_servers: OwnServers, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_site(own_servers, tmp_path, workers=0) as site:
        yield site


async def status(site: Site) -> dict[str, Any]:
    """The document that `moonwake status --json` prints."""
    shown = await moonwake(site.settings, "status", "--json")
    document: dict[str, Any] = orjson.loads(shown.output)
    assert document["healthy"] == (shown.exit_code == 0)
    return document


async def test_a_stopped_shard_goes_on_once_it_is_resumed(site: Site) -> None:
    """
    Nothing of it is lost: what was refused before the stop is a dead letter, the rest is applied.

    Refusals count anew after a resume: the ten that MySQL still refuses do not stop it again.
    """
    shard = shard_of("ann", site.settings.shards)
    poison = [save("ann", str(number), title="poison") for number in range(REFUSED_MAX + 10)]
    good = [save("ann", f"g{number}") for number in range(60)]
    await append(site.settings, site.deps.redis, [*poison, *good])
    async with refusing(site.deps.pool):
        worker = site.start_worker()
        await worker.says("shard_stopped")

        async def is_told() -> bool:
            state: str = (await status(site))["shards"][shard]["state"]
            return state == "stopped"

        await until(is_told, "the shard is told to be stopped")
        stopped = await status(site)
        resumed = await moonwake(site.settings, "resume", str(shard))

        assert 0 == resumed.exit_code
        assert stopped["shards"][shard]["stopped"] in resumed.output
        await site.drained()

    assert "stopped" == stopped["shards"][shard]["state"]
    assert not stopped["healthy"]
    assert REFUSED_MAX - 1 == stopped["shards"][shard]["books"]["dead"]
    assert (120, len(good), len(poison), 0) == await books(site.deps.pool)
    assert 1 == len(worker.events("shard_stopped"))


async def test_status_follows_workers_as_they_drain_and_die(site: Site) -> None:
    """
    A live worker and its drained shards are told, and a killed one is not taken for live.
    """
    await append(site.settings, site.deps.redis, [save(f"u{n}") for n in range(40)])
    assert not (await status(site))["healthy"]
    worker = site.start_worker()
    await site.drained()

    async def is_published() -> bool:
        lag: int = (await status(site))["totals"]["lag"]
        return lag == 0

    await until(is_published, "all that was drained is published")
    drained = await status(site)
    site.kill_worker(worker)

    async def is_silent() -> bool:
        return not any(each["live"] for each in (await status(site))["workers"])

    await until(is_silent, "the killed worker counts as silent")
    await append(site.settings, site.deps.redis, [save("ann")])
    after = await status(site)

    assert drained["healthy"]
    assert [True] == [each["live"] for each in drained["workers"]]
    expected = {"added": 40, "applied": 40, "dead": 0, "pending": 0, "lost": 0, "difference": 0}
    assert expected == drained["totals"]["books"]
    assert {**expected, "added": 41, "pending": 1} == after["totals"]["books"]
    assert ["no worker lives and 1 entries wait: start `python -m worker`"] == after["attention"]
