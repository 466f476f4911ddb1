"""What the database's sessions are at."""

from __future__ import annotations

from shared.mysql import Cursor
from tests.waiting import until

_WAITS = "SELECT waiting_pid, blocking_pid, CONNECTION_ID() FROM sys.innodb_lock_waits"


async def waiters(cursor: Cursor) -> set[int]:
    """The sessions that wait for rows locked by that of *cursor*, or behind others who do.

    MariaDB shows the waits of up to 0.1 s ago, which may be those of another test: none of them
    is for this session.
    """
    await cursor.execute(_WAITS)
    waits = await cursor.fetchall()
    found = {waiting for waiting, blocking, own in waits if blocking == own}
    return found | {waiting for waiting, blocking, _ in waits if blocking in found}


async def until_somebody_waits(cursor: Cursor, count: int = 1) -> list[int]:
    """Return once *count* sessions wait for that of *cursor*: which ones."""
    found: set[int] = set()

    async def enough_wait() -> bool:
        found.clear()
        found.update(await waiters(cursor))
        return len(found) >= count

    # What MariaDB shows is not renewed while somebody looks all the time.
    await until(enough_wait, f"{count} sessions wait for this one", poll_s=0.15)
    return sorted(found)
