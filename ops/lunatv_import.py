"""From what a LunaTV's Redis holds to rows: collected by shard, written in batches, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from redis.asyncio import Redis

from ops.importing import Refusal, by_halves, patiently, refusal_of
from ops.lunatv import Found, Misplaced, past_record, read_records
from ops.lunatv_source import Progress, shown
from shared.errors import DataRefused, InvalidField
from shared.keys import shard_of
from shared.redis import redis_errors
from shared.streams import now_ms_of
from worker.deps import Deps
from worker.history import Outcome, PastRecord, Plan, plan_history, write_history
from worker.sinks.plays import PlaysSink

#: Records of one transaction: the knee of both servers, and short enough for drains to wait.
_BATCH_MAX = 2_000
#: Records waiting in memory over all shards.
_WAITING_MAX = 20_000
_TICK_EVERY = 500


@dataclass(slots=True)
class Tally:
    """found = written + kept + deleted + refused."""

    found: int = 0
    written: int = 0
    kept: int = 0
    deleted: int = 0
    users_created: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.written += outcome.written
        self.kept += outcome.kept
        self.deleted += outcome.deleted
        self.users_created += outcome.users_created


class Import:
    """One import; with *plan* nothing is written, and counted all the same."""

    def __init__(
        self,
        deps: Deps,
        *,
        plan: Plan | None,
        restore: bool,
        refuse: Callable[[Refusal], None],
        tick: Callable[[Progress, Tally], None],
    ) -> None:
        self._deps = deps
        self._sink = PlaysSink(deps.settings)
        self._plan = plan
        self._restore = restore
        self._tell_refusal = refuse
        self._tick = tick
        self._waiting: dict[int, list[PastRecord]] = {}
        self._count = 0
        self._tally = Tally()

    async def run(self, source: Redis) -> Tally:
        """Take everything from *source*.

        Raises `StoreDown` or `Transient` when a store fails; what was written stays, and
        running it again goes on.
        """
        progress = Progress()
        async for found in read_records(source, progress):
            self._tally.found += 1
            if (past := self._record_of(found)) is not None:
                await self._keep(past)
            if self._tally.found % _TICK_EVERY == 0:
                self._tick(progress, self._tally)
        for shard in list(self._waiting):
            await self._flush(shard)
        self._tick(progress, self._tally)
        return self._tally

    def _record_of(self, found: Found | Misplaced) -> PastRecord | None:
        """What was found as a record; None if it is refused."""
        if isinstance(found, Misplaced):
            self._refuse(Refusal(shown(found.key), "wrong_type", f"it is a {found.type}"))
            return None
        try:
            return past_record(found)
        except InvalidField as error:
            self._refuse(refusal_of(found.origin, error))
            return None

    def _refuse(self, refusal: Refusal) -> None:
        self._tally.refused[refusal.reason] += 1
        self._tell_refusal(refusal)

    async def _keep(self, past: PastRecord) -> None:
        """Let *past* wait for others of its shard, and write what has waited enough."""
        shard = shard_of(past.key[0], self._deps.settings.shards)
        records = self._waiting.setdefault(shard, [])
        records.append(past)
        self._count += 1
        if len(records) >= _BATCH_MAX:
            await self._flush(shard)
        elif self._count >= _WAITING_MAX:
            await self._flush(max(self._waiting, key=lambda each: len(self._waiting[each])))

    async def _flush(self, shard: int) -> None:
        records = self._waiting.pop(shard)
        self._count -= len(records)
        await by_halves(records, self._write, self._refuse_record)

    async def _write(self, records: Sequence[PastRecord]) -> None:
        self._tally.add(await patiently(partial(self._attempt, records)))

    def _refuse_record(self, record: PastRecord, error: DataRefused) -> None:
        self._refuse(Refusal(record.origin, "refused_by_mysql", str(error)))

    async def _attempt(self, records: Sequence[PastRecord]) -> Outcome:
        deps, sink, restore = self._deps, self._sink, self._restore
        with redis_errors():
            now_ms = now_ms_of(await deps.redis.time())
        if self._plan is not None:
            return await plan_history(deps, sink, records, now_ms, self._plan, restore=restore)
        return await write_history(deps, sink, records, now_ms, restore=restore)
