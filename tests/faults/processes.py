"""A web process of the site, as an operator runs it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ops.processes import Process
from shared.settings import Settings
from tests.servers import to_environ


class ApiProcess(Process):
    """One uvicorn with the front on `port`, for the site's lifetime on that port."""

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
