"""What the database's sessions are at."""

from __future__ import annotations

from shared.mysql import Pool
from tests.plays import rows
from tests.waiting import until

_WAITING = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"


async def until_somebody_waits(pool: Pool) -> None:
    """Return once a transaction waits for a row's lock."""

    async def somebody_waits() -> bool:
        return bool(await rows(pool, _WAITING))

    # The table is a cache that is not renewed while somebody reads it all the time.
    await until(somebody_waits, "a transaction waits for a lock", poll_s=0.15)
