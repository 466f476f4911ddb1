"""/api/playrecords: what players send, what they get."""

from __future__ import annotations

from shared.settings import Settings
from tests.fronts import front
from tests.plays import record


async def test_a_saved_record_is_read_back(migrated: Settings) -> None:
    """What was acknowledged is in the next read, with the entry's time and its episodes."""
    async with front(migrated) as site:
        saved = await site.save("ann", "s+1", record())

        assert (200, {"success": True}) == (saved.status_code, saved.json())
        [(key, got)] = (await site.records("ann")).items()
        assert "s+1" == key
        assert {**record(), "save_time": got["save_time"], "original_episodes": 12} == got
