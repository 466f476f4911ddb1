"""Many events, one transaction: moonwake's own fold and statements, for rivals that batch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shared.errors import StoredRecordIsNewer, Transient
from shared.events import Save
from shared.mysql import Pool, transaction
from shared.published import Checkpoint
from shared.settings import Settings
from worker.sinks.plays import PlaysSink

#: An event as it was accepted, and when.
Timed = tuple[Save, int]
#: What a heartbeat weighs; nothing here depends on it.
_BYTES = 400


class BatchWriter:
    """Writes batches, one at a time: two at once would both count from the same stored record."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._sink = PlaysSink(settings)
        self._pool = pool
        self._number = 0
        self._audits = "RIVAL_AUDIT" in os.environ

    async def write(self, batch: Sequence[Timed]) -> None:
        """Commit *batch*; what the server refuses for the moment is tried again."""
        while True:
            try:
                await self._write(batch)
            except Transient:
                continue
            except StoredRecordIsNewer:  # late repetitions: only one by one is exact
                for event in batch:
                    await self._write([event])
            return

    async def _write(self, batch: Sequence[Timed]) -> None:
        fold = self._sink.new_fold()
        for event, ms in batch:
            fold.add(event, ms, _BYTES, foreign=False)
        self._number += 1
        async with transaction(self._pool) as cursor:
            await self._sink.apply(cursor, fold, 0, Checkpoint(batch_no=self._number))
            if self._audits:
                rows = ",".join(f"({event.record.save_time},{ms})" for event, ms in batch)
                await cursor.execute(f"INSERT INTO audit (nonce, ms) VALUES {rows}")
