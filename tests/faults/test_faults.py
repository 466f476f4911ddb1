"""A short run of the checker with a fixed seed; `make faults` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.kinds import chosen
from tests.faults.run import Options, run

SEED = 20261122
#: Of everything a little: processes, MySQL, Redis, and data that is lost with a failover.
KINDS = "worker_kill,worker_freeze,worker_stop,api_kill,mysql_kill,redis_restart,failover_undrained"


async def test_faults_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    """
    Every kind strikes, some at the same time; what Redis lost is counted, all else is exact.
    """
    options = Options(SEED, duration_s=30, kinds=chosen(KINDS), every_s=2.5)

    result = await run(options, tmp_path, show=lambda progress: None)

    assert [] == result.differences
    assert set(options.kinds) == set(result.injected)
    assert result.lost > 0
    assert result.applied + result.lost >= result.acknowledged > 0
