"""Faults of the stores, as far as they can be judged without a site."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import redis_faults
from tests.faults.failovers import FailoverFromAhead
from tests.faults.fault import Fault, NotInjected
from tests.faults.kinds import chosen
from tests.faults.redis_control import Node
from tests.faults.redis_faults import RedisClockBack, RedisClockForward, shift_clock

#: What the checker promises to break in a store.
STORE_KINDS = {
    *("mysql_kill", "mysql_restart", "mysql_freeze", "mysql_sessions_killed"),
    *("mysql_commit_lost", "mysql_deadlock", "mysql_read_only", "mysql_disk_full"),
    *("mysql_restored", "redis_restart", "redis_freeze", "redis_drop", "redis_delay"),
    *("redis_cut", "redis_clock_forward", "redis_clock_back", "redis_tail_lost"),
    *("redis_flush", "stream_deleted", "stream_trimmed", "entries_deleted"),
    *("failover_undrained", "failover_drained", "failover_from_ahead"),
}


def test_every_kind_of_trouble_with_a_store_is_known() -> None:
    """None is left out by an import that was forgotten."""
    assert set() == STORE_KINDS - set(chosen(""))


def test_what_loses_redis_data_has_redis_for_itself() -> None:
    """Nobody restarts or freezes a server whose data are just being taken away."""
    losing = [fault for fault in chosen("").values() if fault.loses_redis_data]

    assert losing
    assert [] == [fault.kind for fault in losing if "redis" not in fault.holds]


@pytest.mark.parametrize("fault", [RedisClockForward, RedisClockBack, FailoverFromAhead])
def test_a_clock_that_cannot_be_shifted_is_said_beforehand(
    fault: type[Fault], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name on a machine without the library, it says what to install."""
    monkeypatch.setattr(redis_faults, "find_faketime", lambda: None)

    with pytest.raises(NotInjected, match="apt-get install libfaketime"):
        fault.check()


async def test_a_server_without_a_clock_of_its_own_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was started before the library was there: the fault is not injected."""
    monkeypatch.setattr(redis_faults, "find_faketime", lambda: Path("libfaketime.so.1"))
    node = Node(tmp_path)
    node.clock = None

    with pytest.raises(NotInjected, match="started before"):
        await shift_clock(node, 30)
