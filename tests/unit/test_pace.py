"""Pace: refusals by MySQL stop a shard when they are many at once, not when they add up."""

from __future__ import annotations

import pytest

from shared.errors import ShardStopped
from shared.settings import from_env
from worker.pace import REFUSED_MAX, Pace


@pytest.fixture(name="pace")
def _pace() -> Pace:
    return Pace(
        from_env(
            {
                "USERNAME": "admin",
                "PASSWORD": "secret",
                "MYSQL_HOST": "127.0.0.1",
                "MYSQL_PASSWORD": "secret",
                "REDIS_URL": "redis://127.0.0.1",
            }
        )
    )


def refuse_alone(pace: Pace) -> None:
    """MySQL refuses an entry that came by itself, and takes the dead letter."""
    pace.refuse()
    pace.succeed(1)


def refuse_all(pace: Pace, batch: int, batches: int) -> None:
    """MySQL refuses whole batches, one after the other."""
    for _ in range(batches):
        if batch > 1:
            pace.narrow(batch)
        for _ in range(batch):
            refuse_alone(pace)


def test_single_refusals_among_many_entries_never_stop_the_shard(pace: Pace) -> None:
    """A quiet shard meets a bad entry a day: after months it is as well as on the first."""
    for _ in range(10 * REFUSED_MAX):
        refuse_alone(pace)
        for _ in range(100):
            pace.succeed(1)


@pytest.mark.parametrize("batch", [1, 2, 10, 49])
@pytest.mark.parametrize("before", [0, 7, 100_000])
def test_small_batches_all_refused_stop_the_shard_too(pace: Pace, before: int, batch: int) -> None:
    """Where nothing is taken any more the fault is ours, however well it went before."""
    for _ in range(before):
        pace.succeed(1)
    with pytest.raises(ShardStopped):
        refuse_all(pace, batch, batches=100)


def test_a_large_batch_of_which_few_are_refused_goes_on(pace: Pace) -> None:
    """A share decides there: 50 of 10,000 are bad entries, 2,000 are a fault of ours."""
    pace.narrow(10_000)
    for _ in range(1_999):
        pace.refuse()
        pace.succeed(1)
    with pytest.raises(ShardStopped):
        pace.refuse()


def test_one_lost_connection_leaves_the_limits_and_a_second_one_halves_them(pace: Pace) -> None:
    """An outage breaks one batch of a shard; a batch that breaks again may be the cause."""
    full = pace.limits
    pace.lose()
    assert full == pace.limits
    pace.lose()
    assert (full.rows // 2, full.entries // 2) == (pace.limits.rows, pace.limits.entries)


def test_a_success_between_two_lost_connections_forgets_the_first(pace: Pace) -> None:
    """Outages a day apart have nothing to do with each other."""
    full = pace.limits
    pace.lose()
    pace.succeed(1)
    pace.lose()

    assert full == pace.limits
