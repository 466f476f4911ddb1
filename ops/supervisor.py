"""Keeps processes running: what dies starts again, a little later each time it dies at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ops.processes import Process, wait_until
from shared.errors import MoonwakeError

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
#: A process that ran this long was well: its next end counts as the first.
WELL_AFTER_S = 60.0


@dataclass(slots=True)
class _Watch:
    """What the supervisor knows of one process; times are of the clock `tend` is given."""

    process: Process
    delay_s: float = FIRST_DELAY_S
    launched_s: float = 0.0
    due_s: float | None = None


class Supervisor:
    """Call `tend` often; it never blocks for longer than a start takes."""

    def __init__(
        self, processes: Sequence[Process], say: Callable[[str], None], now_s: float
    ) -> None:
        self._watches = [_Watch(process, launched_s=now_s) for process in processes]
        self._say = say

    def tend(self, now_s: float) -> None:
        """Notice who ended, and start again those whose delay is over."""
        for watch in self._watches:
            if watch.due_s is not None and now_s >= watch.due_s:
                self._launch(watch, now_s)
            elif watch.due_s is None and watch.process.pid is None:
                self._schedule(watch, now_s, how_it_ended(watch.process))

    def _schedule(self, watch: _Watch, now_s: float, why: str) -> None:
        if now_s - watch.launched_s > WELL_AFTER_S:
            watch.delay_s = FIRST_DELAY_S
        name, log = watch.process.name, watch.process.log
        self._say(f"{name} {why}, starts again in {watch.delay_s:g} s (log: {log})")
        watch.due_s = now_s + watch.delay_s
        watch.delay_s = min(watch.delay_s * 2, LONGEST_DELAY_S)

    def _launch(self, watch: _Watch, now_s: float) -> None:
        watch.due_s, watch.launched_s = None, now_s
        try:
            watch.process.launch()
        except (MoonwakeError, OSError) as fault:
            self._schedule(watch, now_s, f"did not start: {fault}")
        else:
            self._say(f"{watch.process.name} started again")


def how_it_ended(process: Process) -> str:
    """In words: by which signal, or with which exit status."""
    status = process.exit_status
    if status is None:
        return "ended"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def stop_together(
    processes: Sequence[Process], timeout_s: float, say: Callable[[str], None]
) -> None:
    """Ask all of them to stop, wait *timeout_s*, and kill who still runs."""
    for process in processes:
        process.terminate()
    wait_until(lambda: all(process.pid is None for process in processes), timeout_s)
    for process in processes:
        if process.pid is not None:
            say(f"{process.name} did not stop in {timeout_s:g} s and was killed")
        process.kill()
