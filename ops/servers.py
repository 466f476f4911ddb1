"""
A private server process: started, watched and ended by its own pid, on its own directory.

Whatever killed it or its owner, `start` on the same directory brings back the
same data: a stale pid file is recognised, a server left over is ended first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from shared.errors import MoonwakeError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.02
#: Below the kernel's ephemeral range, so that no client connection takes the port meanwhile.
PORTS = range(20_000, 32_000)
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class ServerFailed(MoonwakeError):
    """A server did not start or stop; the message has the end of its log."""


def wait_until(met: Callable[[], bool], timeout_s: float) -> bool:
    """Poll *met* until it is true or *timeout_s* has passed; say which."""
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


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


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the kernel sends the child this when its parent dies."""
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the call above
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child


def started_at(pid: int) -> str | None:
    """The start time of process *pid* in clock ticks: tells it from a later one of that pid.

    None when there is no such process (a zombie counts as none).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


class PidFile:
    """Names a running process so that a later program can find it and be sure it is that one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, pid: int) -> None:
        self.path.write_text(f"{pid} {started_at(pid)}\n")

    def running(self) -> int | None:
        """The pid, if that very process still runs; None for a stale or damaged file."""
        try:
            pid, _, start = self.path.read_text().strip().partition(" ")
            alive = started_at(int(pid)) == start
        except (OSError, ValueError):
            return None
        return int(pid) if alive and start else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Server(ABC):
    """One server on one directory. `port` and `socket` are where it listens (loopback only)."""

    name: str

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.directory = directory
        self.port = port or 0
        self.data = directory / "data"
        self.socket = directory / f"{self.name}.sock"
        self.log = directory / f"{self.name}.log"
        self.pid_file = PidFile(directory / f"{self.name}.pid")
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Make the data directory and configuration; safe to repeat after any crash."""

    @abstractmethod
    def command(self) -> tuple[str, list[str]]:
        """(program, arguments) that run the server in the foreground on `port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves requests on its unix socket now."""

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        return self.pid_file.running()

    def start(self) -> None:
        """Start and wait until it answers; ends a server left over on this directory first.

        Keeps `port` if it is free, else takes another. Raises `ServerFailed`.
        """
        if len(os.fsencode(self.socket)) > 107:
            raise ServerFailed(f"{self.socket} is too long a path for a unix socket")
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.pid is not None:
            self.stop()
        self.port = free_port(self.port)
        self.prepare()
        self.socket.unlink(missing_ok=True)
        self._spawn()
        self._await_answer()

    def _spawn(self) -> None:
        program, argv = self.command()
        with self.log.open("ab") as log:
            # Its own session: Ctrl-C in the terminal is for the owner, who stops us in order.
            self._process = subprocess.Popen(
                argv,
                executable=program,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(self._death_signal),  # noqa: PLW1509 -- only prctl
            )
        self.pid_file.write(self._process.pid)

    def _await_answer(self) -> None:
        settled = wait_until(lambda: self.pid is None or self.answers(), START_TIMEOUT_S)
        if self.pid is None:
            raise ServerFailed(f"{self.name} ended while starting; {self.log} ends:\n{self.tail()}")
        if not settled:
            self.kill()
            raise ServerFailed(f"{self.name} gave no answer in {START_TIMEOUT_S:.0f} s: {self.log}")

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM (a clean shutdown for both servers) and wait; raises `ServerFailed`."""
        pid = self.pid
        if pid is not None:
            self._signal(pid, signal.SIGCONT)
            self._signal(pid, signal.SIGTERM)
            if not wait_until(lambda: self.pid is None, timeout_s):
                raise ServerFailed(f"{self.name} (pid {pid}) did not stop in {timeout_s:.0f} s")
        self._forget()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it, and wait until it is gone."""
        if (pid := self.pid) is not None:
            self._signal(pid, signal.SIGKILL)
            wait_until(lambda: self.pid is None, STOP_TIMEOUT_S)
        self._forget()

    def restart(self) -> None:
        """A clean stop and a start on the same data and port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        if (pid := self.pid) is not None:
            self._signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        if (pid := self.pid) is not None:
            self._signal(pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _forget(self) -> None:
        self._process = None
        self.pid_file.remove()

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
