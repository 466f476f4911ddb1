"""`moonwake up`: one command brings up everything, and nothing ends it but the operator."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import environment
from ops.processes import started_at, wait_until
from shared.settings import Settings
from tests.servers import to_environ
from tests.stacks import PROGRAM, RunningStack, plain_environ, running_stack

CHILDREN = ("web", "worker-1", "worker-2", "redis", "mysql")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # pytest keeps folders of past runs to look into; hundreds of megabytes each are too many.
    shutil.rmtree(tmp_path / ".run" / "mysql", ignore_errors=True)


@pytest.fixture(name="stack", scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack for the tests that do it no harm."""
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(folder) as stack:
        yield stack
    shutil.rmtree(folder / ".run" / "mysql")


def post_and_await_row(stack: RunningStack) -> None:
    """The two printed lines: a record goes in and comes out of the database."""
    assert '{"success":true}' == stack.shell(stack.line("curl ")).strip()
    query = stack.line("mariadb ") + " || true"  # it may just be started again

    assert wait_until(lambda: "admin\tdemo\t1\t42" in stack.shell(query), 30)


def test_the_printed_lines_put_a_record_in_and_show_it_in_mysql(stack: RunningStack) -> None:
    """A first start in an empty folder needs nothing but the two lines it prints."""
    post_and_await_row(stack)

    assert "admin" in stack.line("owner:")
    assert "shelluser" not in stack.output
    assert f"{stack.run}/logs/" in stack.line("logs:")


def test_no_secret_is_printed(stack: RunningStack) -> None:
    """What a terminal shows may be pasted into an issue: passwords stay in .run/env."""
    saved = environment.load(stack.run)

    for name in ("PASSWORD", "MYSQL_PASSWORD", "REDIS_URL"):
        assert saved[name] not in stack.output
    assert 0o600 == (stack.run / "env").stat().st_mode & 0o777


def test_a_second_stack_in_the_same_folder_is_refused(stack: RunningStack) -> None:
    """It names the running one, and does that one no harm."""
    second = subprocess.run(
        [PROGRAM, "up"],
        cwd=stack.folder,
        env=stack.environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == second.returncode
    assert f"already runs on {stack.run} (pid {stack.process.pid})" in second.stderr
    assert _serves(stack)


def test_a_cookie_from_the_command_line_opens_the_api(stack: RunningStack) -> None:
    """`moonwake cookie USER`, typed beside a running stack, logs that user in."""
    line = stack.line("curl ").partition(" -H ")[0]

    assert "{}" == stack.shell(f'{line} -H "$(moonwake cookie alice)"').strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_every_process_in_order(folder: Path, number: signal.Signals) -> None:
    """A service manager's SIGTERM and a closed terminal stop everything, as Ctrl-C does."""
    with running_stack(folder) as stack:
        pids = [stack.pid(name) for name in CHILDREN]
        assert None not in pids

        stack.process.send_signal(number)

        assert 0 == stack.process.wait(60)
        stopped = [line for line in stack.output.splitlines() if line.startswith("stopped ")]
        assert [
            "stopped web",
            "stopped worker-1, worker-2",
            "stopped redis",
            "stopped mysql",
        ] == stopped
        assert [None] * len(pids) == [started_at(pid) for pid in pids if pid]
        assert "was killed" not in stack.output


def test_whatever_dies_is_started_again_and_the_stack_goes_on(folder: Path) -> None:
    """SIGKILL of every child at once is repaired without the operator."""
    with running_stack(folder) as stack:
        before = {name: stack.pid(name) for name in CHILDREN}
        for pid in before.values():
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

        for name in CHILDREN:
            stack.await_output(f"{name} started again")

        assert wait_until(lambda: _serves(stack), 60)
        post_and_await_row(stack)


def test_a_killed_stack_starts_again_on_its_data_and_ports(folder: Path) -> None:
    """SIGKILL of `moonwake up` itself leaves nothing that the next one cannot take over."""
    with running_stack(folder) as stack:
        post_and_await_row(stack)
        saved = environment.load(stack.run)
        stack.kill()

    with running_stack(folder, stack.environ) as again:
        assert saved == environment.load(again.run)
        assert "admin\tdemo\t1\t42" in again.shell(again.line("mariadb "))


def test_given_servers_are_used_and_none_are_started(folder: Path, settings: Settings) -> None:
    """MYSQL_HOST and REDIS_URL name the operator's own servers: no private one runs beside."""
    environ = {**to_environ(settings), **plain_environ(USERNAME="admin")}

    with running_stack(folder, environ) as stack:
        post_and_await_row(stack)

        assert not (stack.run / "mysql").exists()
        assert not (stack.run / "redis").exists()
        assert {} == environment.load(stack.run)


def test_no_cookie_is_shown_that_would_be_no_login(folder: Path, settings: Settings) -> None:
    """ACCEPT_LUNATV_COOKIE=false: what is printed for a first try is a way that works."""
    refused = plain_environ(USERNAME="admin", ACCEPT_LUNATV_COOKIE="false")

    with running_stack(folder, {**to_environ(settings), **refused}) as stack:
        assert "user_auth" not in stack.output
        page, _, way = stack.line("http://").partition(": ")
        assert "POST /api/login there, then POST /api/playrecords" == way
        assert "API" in stack.shell(f"curl -sf {page}")


def test_a_taken_web_port_is_named_before_anything_starts(folder: Path) -> None:
    """PORT is the operator's choice: it is not quietly replaced by another."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]

        told = _fails_to_start(folder, PORT=str(port))

    assert f"PORT {port} is taken by another program" in told


def test_a_wrong_setting_is_named_before_anything_starts(folder: Path) -> None:
    """No server, no data directory: the message is all that happens."""
    told = _fails_to_start(folder, SHARDS="many")

    assert "SHARDS must be a whole number from 1 to 256, not 'many'" in told
    assert not (folder / ".run" / "mysql").exists()


def test_a_level_that_the_local_redis_cannot_keep_is_named_before_anything_starts(
    folder: Path,
) -> None:
    """It has no replica: INGEST_ACK=replica would answer every write with 503."""
    told = _fails_to_start(folder, INGEST_ACK="replica")

    assert "INGEST_ACK is replica" in told
    assert not (folder / ".run" / "mysql").exists()


def test_a_front_that_acknowledges_what_is_fsynced_gets_a_redis_that_fsyncs(folder: Path) -> None:
    """INGEST_ACK=fsync is all there is to set: events go in as they do without it."""
    with running_stack(folder, plain_environ(INGEST_ACK="fsync")) as stack:
        post_and_await_row(stack)

        assert "appendfsync always" in (stack.run / "redis" / "redis.conf").read_text()


def test_a_database_that_cannot_be_reached_is_reported(folder: Path) -> None:
    """The start ends with the schema's own message, and leaves no process behind."""
    told = _fails_to_start(folder, MYSQL_HOST="127.0.0.1", MYSQL_PORT="1")

    assert "the server at 127.0.0.1:1 (MYSQL_HOST, MYSQL_PORT) cannot be used now" in told
    assert [] == list((folder / ".run").rglob("*.pid"))


def test_the_schema_can_be_applied_by_hand(settings: Settings) -> None:
    """`moonwake db init` does what `python -m schema` does, as often as one likes."""
    for expected in ("0001", ""):
        done = subprocess.run(
            [PROGRAM, "db", "init"],
            env={**plain_environ(), **to_environ(settings)},
            capture_output=True,
            text=True,
            check=True,
        )

        assert expected in done.stdout


def test_a_database_that_cannot_be_used_is_told_by_hand_too(settings: Settings) -> None:
    """In words and with the exit codes of `--help`, never a traceback."""
    wrong = {"MYSQL_PASSWORD": "wrong"}, {"MYSQL_PORT": "1"}, {"MYSQL_HOST": ""}
    told = []
    for changes in wrong:
        done = subprocess.run(
            [PROGRAM, "db", "init"],
            env={**plain_environ(), **to_environ(settings), **changes},
            capture_output=True,
            text=True,
            check=False,
        )
        told.append((done.returncode, done.stdout, done.stderr.partition(" (")[0].split()[:4]))

    assert [
        (1, "", ["schema:", "the", "server", "refuses"]),
        (3, "", ["schema:", "the", "server", "at"]),
        (2, "", ["schema:", "settings:", "MYSQL_HOST", "is"]),
    ] == told


def _serves(stack: RunningStack) -> bool:
    """Whether its web process takes a write now."""
    line = stack.line("curl ").replace("curl -sS", "curl -s") + " || true"
    return '{"success":true}' == stack.shell(line).strip()


def _fails_to_start(folder: Path, **environ: str) -> str:
    """What `moonwake up` prints when it gives up with exit status 1."""
    done = subprocess.run(
        [PROGRAM, "up"],
        cwd=folder,
        env=plain_environ(**environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    return done.stdout + done.stderr
