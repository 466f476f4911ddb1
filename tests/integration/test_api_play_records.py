"""/api/playrecords: what players send, what they get."""

from __future__ import annotations

import pytest

from api.play_records import PATH
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


@pytest.mark.parametrize("levels", [500, 30_000])
@pytest.mark.parametrize(
    "around",
    [
        (b'{"key":"s+1","record":', b"}"),
        (b'{"other":1,"key":"s+1","record":', b"}"),
        (b'{"key":"s+1","record":{"title":"T","source_name":"S","index":1,"deep":', b"}}"),
    ],
)
async def test_a_body_nested_without_end_is_refused(
    migrated: Settings, around: tuple[bytes, bytes], levels: int
) -> None:
    """It is the client's error, however deep: never the server's."""
    body = around[0] + b"[" * levels + b"]" * levels + around[1]
    async with front(migrated) as site:
        response = await site.client.post(PATH, content=body, headers=site.cookie("ann"))

    assert 400 == response.status_code
