"""
The way between a process and a server: requests arrive late, or not, or their answers get lost.

A request that is on its way arrives although who sent it has given up, was stopped or
is dead by then: that is what makes an outcome unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation.loop import NOBODY, Crashed, Process, VirtualLoop

#: Delays are mostly short, so that orders vary; some are longer, few are long.
SHORT_S, MIDDLE_S, LONG_S = 0.002, 0.02, 0.4
SHORT_SHARE, MIDDLE_SHARE = 0.70, 0.94


@dataclass(slots=True)
class Faults:
    """How often a connection fails on the way there, and on the way back."""

    lost_before: float = 0.0
    lost_after: float = 0.0

    def end(self) -> None:
        self.lost_before = self.lost_after = 0.0


@dataclass(slots=True)
class Trace:
    """What happened, step by step; nothing is kept unless *wanted*."""

    loop: VirtualLoop
    wanted: bool = False
    steps: list[str] = field(default_factory=list)

    def tell(self, who: str, what: Any) -> None:
        if self.wanted:
            self.steps.append(f"{self.loop.time():9.4f} {who:<9} {what}")


@dataclass(slots=True)
class Wire:
    """Everybody's way to one server."""

    loop: VirtualLoop
    rng: Random
    trace: Trace
    #: What the client library raises when the connection is lost.
    lost: Callable[[str], Exception]
    faults: Faults = field(default_factory=Faults)
    #: Raised with every restart: what was under way to the server before is lost.
    generation: int = 0
    down_until_s: float = 0.0
    frozen_until_s: float = 0.0
    #: How many times longer everything takes.
    slowness: float = 1.0

    def delay_s(self) -> float:
        draw = self.rng.random()
        if draw < SHORT_SHARE:
            return draw * SHORT_S / SHORT_SHARE * self.slowness
        return self.rng.random() * (MIDDLE_S * self.slowness if draw < MIDDLE_SHARE else LONG_S)

    def restart(self, down_s: float) -> None:
        """Every connection is gone, and the server for *down_s*."""
        self.generation += 1
        self.down_until_s = self.loop.time() + down_s

    def freeze(self, for_s: float) -> None:
        self.frozen_until_s = self.loop.time() + for_s

    async def ask(
        self,
        process: Process,
        what: Any,
        work: Callable[[], Any],
        hang_up: Callable[[], None] | None = None,
    ) -> Any:
        """Have *work* done at the server, in one step; its answer, or what it raised.

        *work* may answer with a future: the server answers when that is done. *hang_up*
        is called when the connection is lost.
        """
        if not process.alive:
            raise Crashed
        answer = self.loop.create_future()
        request = _Request(self, process, what, work, hang_up, answer, self.generation)
        self.loop.call_later(self.delay_s(), request.arrive, context=NOBODY)
        return await answer


@dataclass(eq=False, slots=True)
class _Request:
    wire: Wire
    process: Process
    what: Any
    work: Callable[[], Any]
    hang_up: Callable[[], None] | None
    answer: asyncio.Future[Any]
    generation: int

    def arrive(self) -> None:
        wire = self.wire
        now_s = wire.loop.time()
        if wire.frozen_until_s > now_s:
            wire.loop.call_at(wire.frozen_until_s, self.arrive, context=NOBODY)
            return
        faults, draw = wire.faults, wire.rng.random()
        if self.generation != wire.generation or wire.down_until_s > now_s:
            self._lose("refused")
        elif draw < faults.lost_before:
            self._lose("lost on the way")
        else:
            lose = draw - faults.lost_before < faults.lost_after
            try:
                result = self.work()
            except Exception as error:  # noqa: BLE001 (an answer like any other)
                self._reply(error, failed=True, lose=lose)
                return
            if isinstance(result, asyncio.Future):
                result.add_done_callback(lambda done: self._later(done, lose), context=NOBODY)
            else:
                self._reply(result, failed=False, lose=lose)

    def _later(self, done: asyncio.Future[Any], lose: bool) -> None:
        error = done.exception()
        self._reply(error or done.result(), failed=error is not None, lose=lose)

    def _reply(self, result: Any, *, failed: bool, lose: bool) -> None:
        wire = self.wire
        if lose:
            self._lose("done, answer lost")
            return
        if wire.trace.wanted:
            wire.trace.tell(self.process.name, f"{_text(self.what)} -> {result!r}"[:400])
        wire.loop.call_later(wire.delay_s(), self._deliver, result, failed, context=NOBODY)

    def _lose(self, how: str) -> None:
        wire = self.wire
        if wire.trace.wanted:
            wire.trace.tell(self.process.name, f"{_text(self.what)}: {how}")
        if self.hang_up:
            self.hang_up()
        wire.loop.call_later(wire.delay_s(), self._deliver, wire.lost(how), True, context=NOBODY)

    def _deliver(self, result: Any, failed: bool) -> None:
        if self.answer.done():
            return
        if failed:
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


def _text(what: Any) -> str:
    """A request in words: (name, arguments), or a list of them."""
    if isinstance(what, list):
        return "; ".join(map(_text, what))
    name, arguments = what
    return " ".join([name, *(f"{each}" for each in arguments)])
