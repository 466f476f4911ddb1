"""The statistics that only the owner reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.mysql import Pool, transaction
from shared.settings import Settings
from tests.fronts import Front, front

DAILY = "/api/admin/play-stats/daily"


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[Front]:
    async with front(replace(migrated, flush_interval_ms=0)) as site:
        yield site


@pytest.fixture(name="days")
async def _days(pool: Pool) -> None:
    async with transaction(pool) as cursor:
        await cursor.execute(
            "INSERT INTO play_stats_daily"
            " (stat_date, total_plays, total_watch_time, unique_users, final) VALUES"
            " ('2026-01-30', 1, 10, 1, 1), ('2026-01-31', 3, 3000000000, 2, 1),"
            " ('2026-02-01', 5, 50, 4, 0)"
        )


@pytest.mark.usefixtures("days")
async def test_the_owner_reads_the_days_asked_for(site: Front) -> None:
    """Both ends included, oldest first, never cached."""
    window = {"from": "2026-01-31", "to": "2026-02-01"}
    response = await site.client.get(DAILY, params=window, headers=site.cookie("admin"))

    assert (200, "no-store") == (response.status_code, response.headers["cache-control"])
    assert [
        {
            "date": "2026-01-31",
            "totalPlays": 3,
            "totalWatchTime": 3_000_000_000,
            "uniqueUsers": 2,
            "final": True,
        },
        {
            "date": "2026-02-01",
            "totalPlays": 5,
            "totalWatchTime": 50,
            "uniqueUsers": 4,
            "final": False,
        },
    ] == response.json()


@pytest.mark.usefixtures("days")
async def test_without_a_window_it_is_thirty_days_up_to_the_last(site: Front) -> None:
    """Only `to`: the thirty days that end there; neither: those that end today."""
    headers = site.cookie("admin")
    some = await site.client.get(DAILY, params={"to": "2026-02-28"}, headers=headers)
    recent = await site.client.get(DAILY, headers=headers)

    assert ["2026-01-30", "2026-01-31", "2026-02-01"] == [day["date"] for day in some.json()]
    assert 200 == recent.status_code


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("to=20260201", "to"),
        ("from=", "from"),
        ("from=2026-02-02&to=2026-02-01", "from"),
        ("from=2025-01-31&to=2026-02-01", "from"),
    ],
)
async def test_a_bad_window_is_refused_by_name(site: Front, query: str, field: str) -> None:
    """No date, no such date, the wrong order, more than 366 days."""
    response = await site.client.get(f"{DAILY}?{query}", headers=site.cookie("admin"))

    assert (400, field) == (response.status_code, response.json()["field"])
    assert response.json()["allowed"]


async def test_everybody_else_is_refused(site: Front) -> None:
    """Without a login as everywhere, with another one by the text front ends know."""
    stranger = await site.client.get(DAILY)
    user = await site.client.get(DAILY, headers=site.cookie("ann", role="owner"))

    assert (401, "Unauthorized") == (stranger.status_code, stranger.text)
    assert (401, {"error": "权限不足"}) == (user.status_code, user.json())
