"""A private server on its own directory: data, a unix socket and a loopback port."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.processes import Process, ProcessFailed, wait_until

START_TIMEOUT_S = 60.0
#: Below the kernel's ephemeral range, so that no client connection takes the port meanwhile.
PORTS = range(20_000, 32_000)


class ServerFailed(ProcessFailed):
    """A server did not start; the message has the end of its log."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback *port* now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def free_port(preferred: int | None = None) -> int:
    """*preferred* if it is free, else a random free loopback port."""
    if preferred and is_free(preferred):
        return preferred
    tries = random.sample(PORTS, 200)
    if port := next((port for port in tries if is_free(port)), None):
        return port
    raise ServerFailed(f"no free loopback port among 200 tried in {PORTS.start}-{PORTS.stop}")


class Server(Process):
    """One server. Its first start in this object picks `port`; later ones keep it."""

    def __init__(
        self, name: str, directory: Path, *, port: int | None = None, **options: Any
    ) -> None:
        super().__init__(name, directory, **options)
        self.port = port or 0
        self.data = directory / "data"
        #: Its name is relative to `data` for the server, which spares it the limit
        #: of 107 bytes that a unix socket's path has.
        self.socket = self.data / f"{name}.sock"
        self._has_port = False

    @property
    def title(self) -> str:
        """Its name as people write it."""
        return self.name.capitalize()

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves requests on its unix socket now."""

    def start(self) -> None:
        """Launch it and wait until it answers; raises `ServerFailed`."""
        self.launch()
        self.await_answer()

    def launch(self) -> None:
        """Start it without waiting; raises `ServerFailed` when its port was taken meanwhile."""
        if self.pid is not None:
            self.stop()
        port = free_port(self.port)
        if self._has_port and port != self.port:
            # Its clients know the old one.
            raise ServerFailed(f"port {self.port} of {self.name} was taken by another program")
        self.port, self._has_port = port, True
        super().launch()

    def await_answer(self) -> None:
        """Return once it answers; raises `ServerFailed` when it ends or takes too long."""
        settled = wait_until(lambda: self.pid is None or self.answers(), START_TIMEOUT_S)
        if self.pid is None:
            raise ServerFailed(f"{self.name} ended while starting; {self.log} ends:\n{self.tail()}")
        if not settled:
            self.kill()
            raise ServerFailed(f"{self.name} gave no answer in {START_TIMEOUT_S:.0f} s: {self.log}")

    def restart(self) -> None:
        """A clean stop and a start on the same data and port."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A client connection to its unix socket; raises OSError when nobody listens."""
        folder = os.open(self.data, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(f"/proc/self/fd/{folder}/{self.socket.name}")
                yield client
        finally:
            os.close(folder)
