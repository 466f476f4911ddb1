"""The supervisor on real processes that end at once; time is the test's own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.processes import Process, ProcessFailed, stands_still, started_at, wait_until
from ops.supervisor import LONGEST_DELAY_S, WELL_AFTER_S, Supervisor, stop_together

WAITS = "import signal; print('ready', flush=True); signal.pause()"
#: Eight threads that sleep and wake.
BUSY = """
import threading, time
def work():
    while True:
        time.sleep(0.0001)
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
work()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + WAITS


class Failing(Process):
    """Its preparation fails, as on a full disk."""

    def prepare(self) -> None:
        raise ProcessFailed("no room")


class Stage:
    """Processes in one directory, ended with the test; what the supervisor says is kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[str] = []
        self.processes: list[Process] = []

    def process(self, code: str, name: str = "child") -> Process:
        """A Python process that runs *code*; not started yet."""
        made = Process(name, self.directory, argv=[sys.executable, "-c", code])
        self.processes.append(made)
        return made

    def running(self, code: str, name: str = "child") -> Process:
        """The same, started and ready."""
        made = self.process(code, name)
        made.launch()
        assert wait_until(lambda: "ready" in made.tail(), 30)
        return made


@pytest.fixture(name="stage")
def _stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for process in stage.processes:
        process.kill()


def end(process: Process) -> None:
    """Wait until it has ended by itself."""
    assert wait_until(lambda: process.pid is None, 30)


def test_a_process_that_dies_starts_again_after_its_delay(stage: Stage) -> None:
    """Not before the delay, which keeps a broken program from eating the machine."""
    child = stage.running(WAITS)
    supervisor = Supervisor([child], stage.said.append, now_s=0.0)
    child._signal(signal.SIGKILL)
    end(child)

    supervisor.tend(1.0)
    supervisor.tend(1.4)
    assert child.pid is None

    supervisor.tend(1.5)
    assert child.pid is not None
    assert [
        f"child was ended by SIGKILL, starts again in 0.5 s (log: {child.log})",
        "child started again",
    ] == stage.said


def test_a_process_that_runs_is_left_alone(stage: Stage) -> None:
    """Tending costs a living process nothing."""
    child = stage.running(WAITS)
    before = child.pid

    Supervisor([child], stage.said.append, now_s=0.0).tend(1.0)

    assert (before, []) == (child.pid, stage.said)


def test_the_delay_doubles_while_a_process_keeps_dying_and_then_stays(stage: Stage) -> None:
    """Half a second at first, half a minute in the end."""
    child = stage.process("raise SystemExit(3)")
    child.launch()
    supervisor = Supervisor([child], stage.said.append, now_s=0.0)
    now_s = 0.0
    for _ in range(9):
        end(child)
        supervisor.tend(now_s)
        now_s += LONGEST_DELAY_S
        supervisor.tend(now_s)

    delays = [text.split(" in ")[1].split(" s ")[0] for text in stage.said if " in " in text]
    assert ["0.5", "1", "2", "4", "8", "16", "30", "30", "30"] == delays
    assert stage.said[0].startswith("child ended with exit status 3, ")


def test_a_process_that_was_well_for_long_starts_again_soon(stage: Stage) -> None:
    """An old crash does not slow down the recovery from a new one."""
    child = stage.process("raise SystemExit(1)")
    child.launch()
    supervisor = Supervisor([child], stage.said.append, now_s=0.0)
    end(child)
    supervisor.tend(1.0)
    supervisor.tend(2.0)
    end(child)

    supervisor.tend(2.0 + WELL_AFTER_S + 1)

    assert stage.said[-1].startswith("child ended with exit status 1, starts again in 0.5 s")


def test_a_program_that_is_missing_is_named_in_the_log(stage: Stage) -> None:
    """The process ends as in a shell, and its log tells why."""
    missing = Process("missing", stage.directory, argv=["/nonexistent/program"])

    missing.launch()

    end(missing)
    assert 127 == missing.exit_status
    assert "cannot run /nonexistent/program: No such file or directory" == missing.tail()


def test_a_start_that_fails_is_tried_again_later(stage: Stage) -> None:
    """A failing start is said with its reason; the supervisor and the others go on."""
    failing = Failing("failing", stage.directory)
    child = stage.running(WAITS)
    supervisor = Supervisor([failing, child], stage.said.append, now_s=0.0)

    supervisor.tend(0.0)
    supervisor.tend(0.5)
    supervisor.tend(1.5)

    assert child.pid is not None
    assert [
        f"failing ended, starts again in 0.5 s (log: {failing.log})",
        f"failing did not start: no room, starts again in 1 s (log: {failing.log})",
        f"failing did not start: no room, starts again in 2 s (log: {failing.log})",
    ] == stage.said


def test_processes_are_asked_to_stop_and_end_by_themselves(stage: Stage) -> None:
    """A well-behaved process gets SIGTERM only, and nothing is said."""
    handled = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); " + WAITS
    child = stage.running(handled)

    stop_together([child], 30.0, stage.said.append)

    assert (None, [], 0) == (child.pid, stage.said, child.exit_status)


def test_a_process_that_does_not_stop_in_time_is_killed(stage: Stage) -> None:
    """The stop takes no longer than promised, and says whom it had to kill."""
    child = stage.running(STUBBORN)
    pid = child.pid
    assert pid is not None

    stop_together([child], 0.1, stage.said.append)

    assert started_at(pid) is None
    assert ["child did not stop in 0.1 s and was killed"] == stage.said


def test_stopping_what_does_not_stop_is_an_error(stage: Stage) -> None:
    """`stop` alone never kills: the caller decides."""
    child = stage.running(STUBBORN)

    with pytest.raises(ProcessFailed, match="did not stop in 0 s"):
        child.stop(timeout_s=0.1)

    assert child.pid is not None


def test_a_process_that_was_frozen_does_nothing_more(stage: Stage) -> None:
    """Not one of its threads finishes what it was about, however busy the machine is."""
    child = stage.running(BUSY)
    assert child.pid is not None
    for _ in range(20):
        child.pause()

        assert stands_still(child.pid)
        child.resume()


def test_a_frozen_process_can_be_stopped(stage: Stage) -> None:
    """SIGTERM alone would wait for ever in a process that SIGSTOP froze."""
    child = stage.running(WAITS)
    child.pause()

    child.stop(timeout_s=30)

    assert child.pid is None


def test_a_long_log_is_set_aside_at_the_next_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local stack does not fill the disk over the months."""
    monkeypatch.setattr("ops.processes.LOG_MAX_BYTES", 3)
    child = stage.running(WAITS)
    child.kill()

    child.launch()

    assert "ready\n" == child.log.with_name("child.log.1").read_text()
