"""The site's own processes, and what a fault may do to one of them."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ops.processes import Process
from shared.settings import Settings
from tests.e2e.processes import WorkerProcess
from tests.servers import to_environ
from tests.waiting import until

__all__ = ["ApiProcess", "WorkerProcess", "restart"]


class ApiProcess(Process):
    """One uvicorn with the front on `port`, as an operator's Procfile runs it."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        options = ["--host", settings.host, "--port", str(settings.port), "--no-access-log"]
        super().__init__(
            name,
            folder,
            argv=[sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app", *options],
            environ=to_environ(settings),
            death_signal=signal.SIGKILL,
        )
        self.port = settings.port


async def restart(process: Process, number: signal.Signals, timeout_s: float = 60) -> int | None:
    """End *process* by *number*, start it again, and say how it ended."""
    if number is signal.SIGTERM:
        process.terminate()
        await until(lambda: process.pid is None, f"{process.name} ends", timeout_s=timeout_s)
    else:
        process.kill()
    status = process.exit_status
    process.launch()
    return status
