"""`moonwake resume`: what is stopped is shown, and taken up again when it is named."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from shared.keys import Keys
from shared.settings import Settings
from tests.commands import moonwake

REASON = "MySQL refused 60 of 120 entries: the fault is ours"


@pytest.fixture(name="keys")
def _keys(migrated: Settings) -> Keys:
    return Keys(migrated.key_prefix)


@pytest.fixture(name="stopped")
async def _stopped(migrated: Settings, redis: Redis, keys: Keys) -> Settings:
    """Both shards are stopped."""
    for shard in range(2):
        await redis.set(keys.stopped("plays", shard), REASON)
    return migrated


async def test_without_arguments_it_only_shows_what_is_stopped(
    stopped: Settings, redis: Redis, keys: Keys
) -> None:
    """Looking is safe; exit code 1 says that something stays stopped."""
    shown = await moonwake(stopped, "resume")

    assert 1 == shown.exit_code
    assert f"plays:0 stays stopped: {REASON}" in shown.output
    assert 2 == await redis.exists(keys.stopped("plays", 0), keys.stopped("plays", 1))


async def test_a_named_shard_is_resumed_alone(stopped: Settings, redis: Redis, keys: Keys) -> None:
    """The other one may have another cause."""
    shown = await moonwake(stopped, "resume", "1")

    assert 1 == shown.exit_code
    assert f"plays:1 is resumed; it was stopped: {REASON}" in shown.output
    assert f"plays:0 stays stopped: {REASON}" in shown.output
    assert "no worker lives" in shown.output
    assert 1 == await redis.exists(keys.stopped("plays", 0))
    assert 0 == await redis.exists(keys.stopped("plays", 1))


async def test_all_are_resumed_at_once_and_twice_is_no_harm(stopped: Settings) -> None:
    """Afterwards nothing is stopped, and saying it again says so."""
    first = await moonwake(stopped, "resume", "--all")
    again = await moonwake(stopped, "resume", "--all")
    named = await moonwake(stopped, "resume", "0")

    assert (0, 0, 0) == (first.exit_code, again.exit_code, named.exit_code)
    assert 2 == first.output.count("is resumed")
    assert "no shard of plays is stopped\n" == again.output
    assert "plays:0 was not stopped" in named.output


@pytest.mark.parametrize("arguments", [("7",), ("0", "--stream", "usage")])
async def test_a_shard_that_does_not_exist_is_refused(
    migrated: Settings, arguments: tuple[str, ...]
) -> None:
    """A slip of the finger is told, not silently taken for done."""
    refused = await moonwake(migrated, "resume", *arguments)

    assert 2 == refused.exit_code
    assert "shards are 0 to 1" in refused.output or "no stream usage" in refused.output
