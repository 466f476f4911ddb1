"""
A process of ours: started, watched and ended by its own pid, gone when its owner is.

Whatever killed it or its owner, `launch` on the same directory works: a stale pid
file is recognised, a process left over is ended first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shared.errors import MoonwakeError

POLL_S = 0.02
#: For what takes no longer than a thread waits for its turn.
POLL_FROZEN_S = 0.001
#: A log longer than this is set aside (NAME.log.1) when its process starts.
LOG_MAX_BYTES = 16 * 1024 * 1024
#: Isolated and without site-packages: it starts in some ten milliseconds.
LAUNCHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")))


class ProcessFailed(MoonwakeError):
    """A process did not start or stop; the message says where to look."""


def wait_until(met: Callable[[], bool], timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Poll *met* every *poll_s* until it is true or *timeout_s* has passed; say which."""
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def started_at(pid: int) -> str | None:
    """The start time of process *pid* in clock ticks: tells it from a later one of that pid.

    None when there is no such process (a zombie counts as none).
    """
    fields = _stat_of(Path(f"/proc/{pid}"))
    return None if fields is None or fields[0] in "ZX" else fields[19]


def stands_still(pid: int) -> bool:
    """Is every thread of process *pid* stopped, or gone?"""
    threads = (_stat_of(thread) for thread in Path(f"/proc/{pid}/task").glob("*"))
    return all(fields is None or fields[0] in "TtZX" for fields in threads)


def _stat_of(entry: Path) -> list[str] | None:
    """What /proc says of a process or thread from its state on; None when it is gone."""
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


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


class Process:
    """One child process with its log and pid file in *directory*.

    When the thread that launched it ends, which is the main thread's end for a program
    that dies in whatever way, the kernel sends the child *death_signal*.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        argv: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.directory = directory
        self.log = log or directory / f"{name}.log"
        self.pid_file = PidFile(directory / f"{name}.pid")
        self.exit_status: int | None = None
        self._argv = list(argv)
        self._environ = environ
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """What has to be done before each start; nothing here."""

    def command(self) -> tuple[str, list[str]]:
        """(program, arguments) that run it in the foreground."""
        return self._argv[0], self._argv

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        if self._process is None:
            return self.pid_file.running()
        self.exit_status = self._process.poll()
        return self._process.pid if self.exit_status is None else None

    def launch(self) -> None:
        """Start it without waiting; ends a process left over on this directory first."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.pid is not None:
            self.stop(timeout_s=30)
        self.prepare()
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        program, argv = self.command()
        with self.log.open("ab") as log:
            # Its own session: Ctrl-C in the terminal is for the owner, who stops us in order.
            self._process = subprocess.Popen(
                [*LAUNCHER, str(int(self._death_signal)), str(os.getpid()), program, *argv],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid_file.write(self._process.pid)

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM), without waiting."""
        self.resume()
        self._signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 60.0) -> None:
        """SIGTERM and wait; raises `ProcessFailed` if it still runs after *timeout_s*."""
        self.terminate()
        if not wait_until(lambda: self.pid is None, timeout_s):
            raise ProcessFailed(f"{self.name} (pid {self.pid}) did not stop in {timeout_s:.0f} s")
        self._forget()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        wait_until(lambda: self.pid is None, 60)
        self._forget()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers.

        Returns when it stands still: its threads run on until one of them gets to the signal,
        which on a busy machine takes long enough to answer once more.
        """
        self._signal(signal.SIGSTOP)
        if (pid := self.pid) is not None:
            wait_until(lambda: stands_still(pid), 60, POLL_FROZEN_S)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _forget(self) -> None:
        self._process = None
        self.pid_file.remove()
