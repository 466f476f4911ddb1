"""moonwake's worker that also notes, in the batch's own transaction, which events it holds."""

from __future__ import annotations

import sys

from shared.events import Event, Save
from shared.mysql import Cursor
from shared.published import Checkpoint
from worker import main as worker_main
from worker.__main__ import main
from worker.sinks.folding import PlayFold
from worker.sinks.plays import PlaysSink


class AuditedFold(PlayFold):
    """Remembers every event that was folded into it: its nonce and its time."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.events: list[tuple[int | None, int]] = []

    def add(self, event: Event, ms: int, size: int, *, foreign: bool) -> None:
        super().add(event, ms, size, foreign=foreign)
        if isinstance(event, Save):
            self.events.append((event.record.save_time, ms))


class AuditedSink(PlaysSink):
    """The sink with one statement more."""

    def new_fold(self) -> AuditedFold:
        return AuditedFold(self._day_of)

    async def apply(
        self, cursor: Cursor, fold: PlayFold, shard: int, checkpoint: Checkpoint
    ) -> int:
        rows = await super().apply(cursor, fold, shard, checkpoint)
        assert isinstance(fold, AuditedFold)
        noted = ",".join(f"({nonce},{ms})" for nonce, ms in fold.events)
        await cursor.execute(f"INSERT INTO audit (nonce, ms) VALUES {noted}")
        return rows


if __name__ == "__main__":
    worker_main.PlaysSink = AuditedSink  # type: ignore[attr-defined]
    sys.exit(main())
