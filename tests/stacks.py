"""`moonwake up` as an operator runs it: a process, what it prints, and how it ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ops.processes import PidFile, wait_until
from ops.servers import is_free

PROGRAM = str(Path(sys.executable).with_name("moonwake"))
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60


def plain_environ(**more: str) -> dict[str, str]:
    """A login shell's environment (it exports USERNAME), a free web port, and *more*."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    shell = {"PATH": path, "USERNAME": "shelluser", "HOME": "/nonexistent", "COLUMNS": "80"}
    return {**shell, "PORT": str(_web_port()), **more}


def _web_port() -> int:
    """A free port that `moonwake up` does not take for a server before web does."""
    # Above those, and below the kernel's own.
    return next(port for port in random.sample(range(32_000, 32_768), 200) if is_free(port))


class RunningStack:
    """One `moonwake up` in *folder*; its output goes to a file that `output` reads."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.run = folder / ".run"
        self.environ = dict(environ)
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [PROGRAM, "up"],
                cwd=folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._output.read_text()

    def line(self, start: str) -> str:
        """The first printed line that begins with *start*."""
        return next(line for line in self.output.splitlines() if line.startswith(start))

    def await_output(self, text: str) -> None:
        """Return when it has printed *text*; fails when it ended before."""
        said = wait_until(
            lambda: text in self.output or self.process.poll() is not None, START_TIMEOUT_S
        )
        assert said, f"never said {text!r}:\n{self.output}"
        assert text in self.output, self.output

    def await_up(self) -> None:
        """Return when it has printed its last line."""
        self.await_output("Ctrl-C stops everything.")

    def pid(self, name: str) -> int | None:
        """The process id of one of its children: web, worker-1, redis, mysql, ..."""
        folder = self.run / name if name in {"redis", "mysql"} else self.run
        return PidFile(folder / f"{name}.pid").running()

    def shell(self, line: str) -> str:
        """What *line* prints when it is typed into a shell; it must succeed."""
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> int:
        """Ctrl-C, and its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL: it has no chance to stop its children."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_stack(folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[RunningStack]:
    """A stack that is up. Ctrl-C ends it, which must work, unless the test ended it before."""
    stack = RunningStack(folder, environ or plain_environ())
    try:
        stack.await_up()
        yield stack
    finally:
        ended = stack.process.poll() is not None
        status = 0 if ended else stack.stop()
    assert status == 0, stack.output
