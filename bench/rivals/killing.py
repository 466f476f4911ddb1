"""
What a SIGKILL of the consumer does to acknowledged events.

Half way through a load it comes either at whatever moment that is, or on purpose in the
window between a commit and whatever ticks the events off: a proxy before MySQL passes a
COMMIT on and kills the one who sent it before it hears the answer. What was killed is
started again at once. Every contender is hit in the same way, whatever it is made of.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from bench.rivals import audit
from bench.rivals.clients import Beat, Clients
from bench.rivals.contenders import ROOT, Contender
from bench.rivals.heartbeats import KEYS
from bench.rivals.staging import Stage, staged
from bench.servers import Lab, RunFailed
from shared.mysql import open_mysql
from tests.faults.mysql_wire import packets, statement_of
from tests.faults.tcp_proxy import Link, TcpProxy, running_proxy

EVENTS = 4_000
#: Many contents for few users: batches hold several events of one key.
_KEYS = 400
#: A server that has said nothing for so long has said all there is to a COMMIT.
_ANSWERED_S = 0.05
_HIT_TIMEOUT_S = 15.0
#: A consumer that starts has looked for what a dead one left.
_LOOK_S = 6.0
_POLL_S = 0.005


class Moment(Enum):
    """When the consumer is killed."""

    ANY = "half way"
    AFTER_COMMIT = "after a commit, before it is ticked off"


@dataclass(frozen=True, slots=True)
class Killed:
    """One run with one kill."""

    moment: Moment
    acknowledged: int
    lost: int
    doubled: int

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "moment": self.moment.value}


class _Window:
    """Kills who sent a COMMIT, once the server has done it; armed for one."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self.armed = False
        self.hit = asyncio.Event()

    async def watch(self, link: Link, packet: bytes) -> bool:
        if not self.armed or not statement_of(packet).rstrip().endswith(b"COMMIT"):
            return False
        self.armed = False
        await link.stop_answers()
        link.to_server.write(packet)
        with contextlib.suppress(TimeoutError):
            while await asyncio.wait_for(link.server.read(65_536), _ANSWERED_S):
                pass
        assert self.stage is not None
        self.stage.victim.kill()
        self.hit.set()
        return True


async def kill_once(
    lab: Lab, contender: Contender, moment: Moment, *, redis_db: int, events: int = EVENTS
) -> Killed:
    """One run. Raises `RunFailed` if the kill could not be carried out."""
    window = _Window()
    async with AsyncExitStack() as stack:
        proxy: TcpProxy = await stack.enter_async_context(running_proxy(lab.mysql.port, packets))
        stage = await stack.enter_async_context(_staged(lab, contender, redis_db, proxy.port))
        pool = await stack.enter_async_context(open_mysql(lab.settings(stage.database)))
        window.stage = stage
        proxy.watch = window.watch
        clients = Clients(stage.port)
        sending = asyncio.create_task(clients.send(_beats(events)))
        try:
            await _half_way(clients, events, sending)
            await _kill(stage, window, moment)
            killed_at_s = time.monotonic()
            with _in_root():
                stage.victim.launch()
            await sending
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        found = await audit.settled(pool, clients.acknowledged, killed_at_s + contender.recovery_s)
        if contender.looks_at_start:
            await _restart(stage)
            looked_at_s = time.monotonic() + _LOOK_S
            found = await audit.settled(pool, clients.acknowledged, looked_at_s)
    return Killed(moment, found.acknowledged, found.lost, found.doubled)


@asynccontextmanager
async def _staged(
    lab: Lab, contender: Contender, redis_db: int, mysql_port: int
) -> AsyncIterator[Stage]:
    """`staged` in threads: the proxy goes on meanwhile."""
    context = staged(lab, contender, redis_db=redis_db, audit=True, victim_mysql_port=mysql_port)
    stage = await asyncio.to_thread(context.__enter__)
    try:
        yield stage
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def _half_way(clients: Clients, events: int, sending: asyncio.Task[None]) -> None:
    while len(clients.acknowledged) < events // 2:
        if sending.done():
            raise RunFailed(
                f"{len(clients.acknowledged)} of {events} events were acknowledged;"
                f" other answers: {clients.refusals[:5]}"
            )
        await asyncio.sleep(_POLL_S)


async def _kill(stage: Stage, window: _Window, moment: Moment) -> None:
    if moment is Moment.ANY:
        stage.victim.kill()
        return
    window.armed = True
    try:
        await asyncio.wait_for(window.hit.wait(), _HIT_TIMEOUT_S)
    except TimeoutError:
        raise RunFailed("not injected: the consumer sent no COMMIT") from None


async def _restart(stage: Stage) -> None:
    """Stop the one that was killed in order, and start it once more."""
    await asyncio.to_thread(stage.victim.stop)
    with _in_root():
        stage.victim.launch()


def _beats(events: int) -> Iterator[Beat]:
    randomness = random.Random(events)  # noqa: S311 - the same load in every run
    keys = randomness.sample(range(KEYS), _KEYS)
    for number in range(events):
        index = randomness.choice([1, 1, 1, 2])
        yield Beat(1_716_000_000_000 + number, randomness.choice(keys), index, 10 + number)


@contextmanager
def _in_root() -> Iterator[None]:
    """Where modules are found by a process started again."""
    with contextlib.chdir(ROOT):
        yield
