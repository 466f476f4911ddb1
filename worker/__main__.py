"""`python -m worker`: read the settings, run until told to stop, say how it ended."""

from __future__ import annotations

import asyncio
import sys

import structlog
import uvloop

from shared.errors import MoonwakeError, SettingsError
from shared.garbage import collect_seldom
from shared.logging import set_up_logging
from shared.settings import from_env
from worker.main import run_worker

log = structlog.get_logger()


def main() -> int:
    """0 after a stop that was asked for, 1 after a failure, 2 for wrong settings."""
    try:
        settings = from_env()
    except SettingsError as error:
        sys.stderr.write(f"worker: {error}\n")
        return 2
    set_up_logging(settings)
    collect_seldom()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_worker(settings))
    except SettingsError as error:
        log.critical("settings_refused", error=str(error))
        return 2
    except MoonwakeError as error:
        log.critical("worker_failed", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
