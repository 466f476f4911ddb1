"""
An event loop whose clock jumps: nothing sleeps, and a seed decides everything.

Ready callbacks run in the order asyncio promises. What varies is when a server
answers, and who is stopped or dead by then: every task belongs to a `Process`,
which can be stopped like SIGSTOP does and killed like SIGKILL does.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, TypeVar

T = TypeVar("T")


class Crashed(BaseException):
    """Its process is dead: nothing it does reaches anybody any more."""


class Stalled(Exception):
    """Nothing is left to run, or far too much was."""


@dataclass(eq=False, slots=True)
class Process:
    """A process of its own, as far as the stores can tell."""

    name: str
    alive: bool = True
    stopped_until_s: float = 0.0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    #: Called when it dies: its connections close.
    obituaries: list[Callable[[], None]] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* as a task of this process, and so everything that it starts."""
        context = copy_context()
        context.run(_PROCESS.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def kill(self) -> None:
        """SIGKILL: it is cut off from the stores for ever, then its remains are cleared away."""
        self.alive = False
        self.stopped_until_s = 0.0
        for tell in self.obituaries:
            tell()
        for task in list(self.tasks):
            task.cancel()


class Handle:
    """A callback that waits for its turn, or for its time."""

    __slots__ = ("args", "callback", "context", "is_cancelled", "when_s")

    def __init__(
        self, callback: Callable[..., Any], args: Any, context: Context | None, when_s: float = 0.0
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context or copy_context()
        self.when_s = when_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
#: The servers' own callbacks: they stop and die with nobody.
NOBODY = Context()


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks until nothing is left; time passes only while everybody waits."""

    def __init__(self, callbacks_max: int = 200_000) -> None:
        self._now_s = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._number = 0
        self._left = callbacks_max

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run *main* to its end, also inside of another loop's callback."""
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._run_one()
            return task.result()
        finally:
            events._set_running_loop(outer)

    def _run_one(self) -> None:
        if self._ready:
            handle = self._ready.popleft()
        elif self._timers:
            when_s, _, handle = heappop(self._timers)
            self._now_s = max(self._now_s, when_s)
        else:
            raise Stalled("everybody waits, for nothing")
        if handle.is_cancelled:
            return
        self._left -= 1
        if self._left < 0:
            raise Stalled("it goes on and on")
        process = handle.context.get(_PROCESS)
        if process is not None and process.stopped_until_s > self._now_s:
            self._at(process.stopped_until_s, handle)
            return
        handle.context.run(handle.callback, *handle.args)

    def _at(self, when_s: float, handle: Handle) -> None:
        self._number += 1
        heappush(self._timers, (when_s, self._number, handle))

    # --- what asyncio asks of a loop ----------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context, when)
        self._at(when, handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        process = (context or copy_context()).get(_PROCESS)
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard, context=NOBODY)
            if not process.alive:
                task.cancel()
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """The tasks of the dead have exceptions that nobody asks for."""


def virtual_loop() -> VirtualLoop:
    """A new one. What asyncio can do beyond its methods, nobody here asks for."""
    return VirtualLoop()  # type: ignore[abstract]
