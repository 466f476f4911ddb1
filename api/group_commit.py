"""
Group commit: the events that wait at a moment go to Redis in one round trip (protocol 1).

Requests enqueue and await a future; one long-lived task per process sends. A
request that goes away takes nothing with it: its event is sent all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

import structlog

from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.streams import Append
from shared.witness import LOOK_S

log = structlog.get_logger()

#: Bounds of one group: a script holds up everybody else's commands while it runs.
GROUP_EVENTS_MAX, GROUP_BYTES_MAX = 500, 262_144
#: Events that may wait while Redis does not answer; a client would have given up on more.
QUEUE_EVENTS_MAX = 10_000
QUEUE_BYTES_MAX = 67_108_864

Outcome = asyncio.Future[AppendRefused | None]
Waiting = tuple[Append, Outcome]


class GroupCommit:
    """The queue between requests and the append connection."""

    def __init__(
        self,
        connection: AppendConnection,
        observe_group: Callable[[int], None],
        *,
        queue_events_max: int = QUEUE_EVENTS_MAX,
    ) -> None:
        self._connection = connection
        self._observe_group = observe_group
        self._queue_events_max = queue_events_max
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        # Asked for once: it costs Python up to 3.11 a system call, too much for each request.
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._noted: AppendRefused | None = None

    async def append(self, event: Append) -> None:
        """Return once Redis holds *event*. Raises `AppendRefused`."""
        if (
            len(self._waiting) >= self._queue_events_max
            or self._waiting_bytes + len(event.body) > QUEUE_BYTES_MAX
        ):
            raise AppendRefused(f"{len(self._waiting)} events wait for Redis")
        outcome: Outcome = self._loop.create_future()
        self._waiting.append((event, outcome))
        self._waiting_bytes += len(event.body)
        if self._wake is not None:
            self._rouse()
        refused = await outcome
        if refused is not None:
            raise AppendRefused(str(refused))

    async def run(self) -> None:
        """Send groups until `stop` was called and nothing waits.

        Also where nothing waits a group goes out now and then, an empty one: the witness
        has to know where the streams stand.
        """
        try:
            while self._waiting or await self._something_waits():
                # What this turn of the loop still reads from its clients goes along.
                await asyncio.sleep(0)
                await self._send(self._take())
        finally:
            if self._look is not None:
                self._look.cancel()
            self._refuse_all()
            await self._connection.close()

    def stop(self) -> None:
        """Let `run` end when the queue is empty."""
        self._stopping = True
        self._rouse()

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _something_waits(self) -> bool:
        if not self._stopping:
            self._wake = self._loop.create_future()
            # One timer for many groups: a time-out for each would cost more than it.
            if self._look is None or self._look.when() <= self._loop.time():
                self._look = self._loop.call_later(LOOK_S, self._rouse)
            await self._wake
        return bool(self._waiting) or not self._stopping

    def _take(self) -> list[Waiting]:
        """The next group, oldest events first."""
        group: list[Waiting] = []
        size = 0
        while self._waiting and len(group) < GROUP_EVENTS_MAX:
            size += len(self._waiting[0][0].body)
            if group and size > GROUP_BYTES_MAX:
                break
            group.append(self._waiting.popleft())
        self._waiting_bytes -= sum(len(event.body) for event, _ in group)
        return group

    async def _send(self, group: list[Waiting]) -> None:
        shards: dict[int, list[Waiting]] = {}
        for waiter in group:
            shards.setdefault(waiter[0].shard, []).append(waiter)
        try:
            answers = await self._connection.append(
                [[event for event, _ in waiting] for waiting in shards.values()]
            )
        except AppendRefused as error:
            self._note(error)
            _refuse(group, error)
            # Those that wait would wait as long again, each group after the other.
            self._refuse_waiting(error)
        except BaseException as error:
            _refuse(group, AppendRefused(f"the flusher died: {error!r}"))
            raise
        else:
            if group:
                self._observe_group(len(group))
            for waiting, refusals in zip(shards.values(), answers, strict=True):
                _settle(waiting, refusals)
            self._note(next(filter(None, chain.from_iterable(answers)), None))

    def _note(self, refusal: AppendRefused | None) -> None:
        # Once per outage: a line per group would bury everything else.
        if refusal is not None and self._noted is None:
            log.error("append_failed", error=str(refusal))
        self._noted = refusal

    def _refuse_all(self) -> None:
        self._queue_events_max = 0
        self._refuse_waiting(AppendRefused("the process is stopping"))

    def _refuse_waiting(self, refusal: AppendRefused) -> None:
        left = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        _refuse(left, refusal)


def _refuse(waiting: Sequence[Waiting], refusal: AppendRefused) -> None:
    _settle(waiting, [refusal] * len(waiting))


def _settle(waiting: Sequence[Waiting], refusals: Sequence[AppendRefused | None]) -> None:
    """Tell each waiter; one that was cancelled must not stop the others."""
    for (_, outcome), refusal in zip(waiting, refusals, strict=True):
        if not outcome.done():
            outcome.set_result(refusal)
