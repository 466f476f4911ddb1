"""`make simulate`: run schedules from a seed on, or one with all its steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tests.simulation.runner import Outcome, run_on_every_core, run_schedule

SEED_MAX, SCHEDULES_MAX = 2**32, 10_000_000


def main(arguments: Sequence[str]) -> int:
    """SEED and SCHEDULES; 0: every promise held, 1: one was broken, 2: wrong arguments."""
    try:
        first_seed, schedules = _numbers(arguments)
    except ValueError as fault:
        print(fault, file=sys.stderr)  # noqa: T201
        return 2
    if schedules == 1:
        return _replay(first_seed)
    started_s, done = time.monotonic(), 0
    for number, outcome in run_on_every_core(first_seed, schedules):
        done += number
        if outcome is not None:
            say(failure_text(outcome))
            return 1
        _tell_progress(done, schedules)
    say(f"{done} schedules, every promise held, {time.monotonic() - started_s:.0f} s")
    return 0


def failure_text(outcome: Outcome) -> str:
    """What was broken, and how to see it again."""
    return (
        f"seed {outcome.seed}: {outcome.broken}\n"
        f"every step: make simulate SEED={outcome.seed} SCHEDULES=1"
    )


def _numbers(arguments: Sequence[str]) -> tuple[int, int]:
    if len(arguments) != 2:
        raise ValueError("two numbers are needed: SEED and SCHEDULES")
    seed, schedules = arguments
    return _number("SEED", seed, 0, SEED_MAX), _number("SCHEDULES", schedules, 1, SCHEDULES_MAX)


def _number(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def _replay(seed: int) -> int:
    outcome = run_schedule(seed, traced=True)
    for step in outcome.steps:
        say(step)
    return 1 if outcome.broken else 0


def _tell_progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {of}", end="", file=sys.stderr)  # noqa: T201


def say(line: str) -> None:
    print(line)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
