"""`moonwake import-users`: the accounts of a LunaTV site, brought along and made to agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from ops.audit import audit
from shared.connections import Pool
from shared.settings import Settings
from tests.commands import moonwake
from tests.lunatv import site, site_url
from tests.odd_sites import (
    OWNER,
    OddSite,
)
from tests.plays import rows

COUNTS = ("found", "created", "filled", "kept", "refused", "repaired")
TABLES = (
    *("users", "barred_users", "user_points", "points_records", "memberships", "card_keys"),
    *("user_card_keys", "invitations", "ip_reward_records", "user_login_stats"),
    *("admin_configs", "invitation_configs"),
)


@pytest.fixture(name="luna")
async def _luna(migrated: Settings) -> AsyncIterator[Redis]:
    async with site(migrated) as redis:
        yield redis


async def bring(settings: Settings, *options: str, code: int | None = 0) -> dict[str, Any]:
    """The summary of an import that ends with *code*; it always adds up."""
    done = await moonwake(settings, "import-users", site_url(settings), "--json", *options)
    assert done.exit_code in ((0, 1) if code is None else (code,)), done.output
    summary: dict[str, Any] = orjson.loads(done.stdout)
    kinds = {kind: counts for kind, counts in summary.items() if kind != "dry_run"}
    for counts in kinds.values():
        taken = counts["created"] + counts["filled"] + counts["kept"]
        assert counts["found"] == taken + counts["refused"], summary
        for what in ("refused", "repaired"):
            assert counts[what] == sum(counts[f"{what}_by_reason"].values())
    assert done.exit_code == any(counts["refused"] for counts in kinds.values())
    return summary


def told(summary: dict[str, Any], kind: str) -> dict[str, int]:
    """The counts of *kind* that are not 0."""
    return {name: summary[kind][name] for name in COUNTS if summary[kind][name]}


async def everything(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables of accounts, with their ids and times."""
    found = {table: await rows(pool, f"SELECT * FROM {table}") for table in TABLES}
    return {table: sorted(content, key=repr) for table, content in found.items()}


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_a_site_is_like_what_comes_along_agrees(
    migrated: Settings, pool: Pool, luna: Redis, seed: int
) -> None:
    """The audit is clean, a dry run tells the same, a second run changes and repairs nothing."""
    await OddSite(luna, seed).build()
    planned = await bring(migrated, "--dry-run", code=None)
    assert [(0,)] == await rows(pool, "SELECT COUNT(*) FROM users")

    done = await bring(migrated, code=None)

    assert {**planned, "dry_run": False} == done
    assert [] == await audit(pool, OWNER)
    before = await everything(pool)
    again = await bring(migrated, code=None)
    assert before == await everything(pool)
    for kind in again.keys() - {"dry_run"}:
        first, second = done[kind], again[kind]
        assert (first["found"], first["refused"]) == (second["found"], second["refused"])
        assert (0, 0, 0) == (second["created"], second["filled"], second["repaired"]), kind
