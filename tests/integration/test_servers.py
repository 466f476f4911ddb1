"""The private servers: whatever ended them, they come back with the same data."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ops.mysql_server import MysqlServer
from ops.processes import started_at, wait_until
from ops.redis_server import RedisServer
from ops.servers import ServerFailed, free_port, is_free
from tests.databases import admin
from tests.servers import ACCOUNT, OwnServers, mysql_program, temporary_directory

pytestmark = pytest.mark.integration


@pytest.fixture(name="new_mysql")
def _new_mysql() -> Iterator[MysqlServer]:
    program = mysql_program()
    with temporary_directory(program.root) as directory:
        server = MysqlServer(directory, ACCOUNT, program=program, death_signal=signal.SIGKILL)
        yield server
        server.kill()


@pytest.fixture(name="redis_here")
def _redis_here(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, appendfsync="always", death_signal=signal.SIGKILL)
    yield server
    server.kill()


async def put_and_commit(servers: OwnServers, value: str) -> None:
    """Store *value* in both servers."""
    async with Redis.from_url(servers.redis.url) as redis:
        await redis.set("kept", value)
    async with admin(servers.mysql) as cursor:
        await cursor.execute("CREATE OR REPLACE VIEW moonwake.kept AS SELECT %s AS v", (value,))


async def stored(servers: OwnServers) -> tuple[bytes | None, str]:
    """What `put_and_commit` stored, from both servers."""
    async with Redis.from_url(servers.redis.url) as redis:
        in_redis = await redis.get("kept")
    async with admin(servers.mysql) as cursor:
        await cursor.execute("SELECT v FROM moonwake.kept")
        ((in_mysql,),) = await cursor.fetchall()
    return in_redis, in_mysql


async def test_a_restart_keeps_data_and_ports(own_servers: OwnServers) -> None:
    """A clean restart brings both servers back where they were, with what they held."""
    await put_and_commit(own_servers, "restart")
    ports = (own_servers.mysql.port, own_servers.redis.port)

    own_servers.mysql.restart()
    own_servers.redis.restart()

    assert ports == (own_servers.mysql.port, own_servers.redis.port)
    assert (b"restart", "restart") == await stored(own_servers)


async def test_a_killed_server_starts_again_with_what_it_acknowledged(
    own_servers: OwnServers,
) -> None:
    """SIGKILL loses nothing that was acknowledged, and the next start needs no help."""
    await put_and_commit(own_servers, "killed")

    for server in (own_servers.mysql, own_servers.redis):
        server.kill()
        assert server.pid is None
        server.start()

    assert (b"killed", "killed") == await stored(own_servers)


async def test_a_frozen_server_answers_again_when_resumed(own_servers: OwnServers) -> None:
    """A paused server keeps its clients waiting and its data."""
    own_servers.redis.pause()
    assert not own_servers.redis.answers()

    own_servers.redis.resume()

    assert own_servers.redis.answers()


async def test_servers_pin_utf8mb4_and_utc_and_listen_on_loopback_only(
    own_servers: OwnServers,
) -> None:
    """Nothing depends on the machine's configuration files, and nobody outside can connect."""
    async with admin(own_servers.mysql) as cursor:
        await cursor.execute(
            "SELECT @@character_set_server, @@global.time_zone, @@bind_address,"
            " @@innodb_flush_log_at_trx_commit"
        )
        assert [("utf8mb4", "+00:00", "127.0.0.1", 1)] == list(await cursor.fetchall())
    async with Redis.from_url(own_servers.redis.url) as redis:
        known = await redis.config_get("bind", "appendonly", "maxmemory-policy", "save")
    expected = {"bind": "127.0.0.1", "appendonly": "yes", "maxmemory-policy": "noeviction"}
    assert known == {**expected, "save": ""}


async def test_a_database_servers_temporary_tables_are_its_own(own_servers: OwnServers) -> None:
    """A MariaDB that starts empties its folder of them: nobody else's work may be in it."""
    folder = own_servers.mysql.directory / "tmp"

    async with admin(own_servers.mysql) as cursor:
        await cursor.execute("SELECT @@tmpdir")
        ((tmpdir,),) = await cursor.fetchall()

    assert folder.is_dir()
    assert str(folder).endswith(tmpdir)


def test_a_stale_pid_file_harms_no_stranger(redis_here: RedisServer) -> None:
    """A pid that now belongs to another process is neither signalled nor waited for."""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        redis_here.pid_file.path.write_text(f"{stranger.pid} 1\n")

        redis_here.start()

        assert redis_here.pid not in (None, stranger.pid)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_damaged_pid_file_is_ignored(redis_here: RedisServer) -> None:
    """Half a pid file, as a full disk leaves it, does not keep the server from starting."""
    redis_here.pid_file.path.write_text("12")

    redis_here.start()

    assert redis_here.answers()


def test_a_server_left_over_is_ended_before_a_new_one_starts(redis_here: RedisServer) -> None:
    """Two servers never run on one directory: the older one is found by its pid file."""
    redis_here.start()
    left_over = redis_here.pid
    assert left_over is not None
    successor = RedisServer(redis_here.directory, death_signal=signal.SIGKILL)

    successor.start()

    try:
        assert successor.pid != left_over
        # The older one is this process's child: it stays a zombie, which counts as gone.
        assert started_at(left_over) is None
    finally:
        successor.kill()


def test_a_taken_port_is_replaced_by_a_free_one(redis_here: RedisServer) -> None:
    """A port that someone else listens on costs nothing but the number."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        redis_here.port = taken

        redis_here.start()

        assert redis_here.port != taken
        assert not is_free(redis_here.port)


def test_a_free_port_is_kept() -> None:
    """The port a stack had yesterday is the port it has today, if nobody took it."""
    port = free_port()

    assert port == free_port(port)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(redis_here: RedisServer) -> None:
    """The reason stands in the message, not only in a file."""
    redis_here.data.mkdir(parents=True)
    (redis_here.data / "appendonlydir").write_text("a file where Redis wants a folder")

    with pytest.raises(ServerFailed, match=r"(?s)ended while starting.*appendonlydir"):
        redis_here.start()


def test_a_half_initialised_data_directory_is_made_anew(new_mysql: MysqlServer) -> None:
    """A first start that was killed half way leaves nothing that a second one trips over."""
    (new_mysql.directory / "data.new" / "mysql").mkdir(parents=True)

    new_mysql.start()

    assert new_mysql.answers()
    assert not (new_mysql.directory / "data.new").exists()


def test_a_data_directory_of_unknown_origin_is_refused(new_mysql: MysqlServer) -> None:
    """A database that moonwake did not make is never touched, and the message names it."""
    new_mysql.data.mkdir()

    with pytest.raises(ServerFailed, match="was not made by moonwake"):
        new_mysql.start()


def test_a_data_directory_of_the_other_database_is_refused(new_mysql: MysqlServer) -> None:
    """MariaDB never opens MySQL's files, nor the reverse: the message says what to do."""
    new_mysql.data.mkdir()
    (new_mysql.data / "moonwake-flavour").write_text("another")

    with pytest.raises(ServerFailed, match="belongs to another"):
        new_mysql.start()


def test_no_path_is_too_long_for_the_unix_socket(tmp_path: Path) -> None:
    """A deep directory works like any other, though a socket's path has 107 bytes."""
    server = RedisServer(tmp_path / ("deep" * 30), death_signal=signal.SIGKILL)

    server.start()

    try:
        assert server.answers()
    finally:
        server.kill()


def test_a_server_whose_port_was_taken_meanwhile_does_not_move(redis_here: RedisServer) -> None:
    """Clients know the port: starting again elsewhere would only look like a start."""
    redis_here.start()
    redis_here.kill()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", redis_here.port))
        stranger.listen()

        with pytest.raises(ServerFailed, match=f"port {redis_here.port} of redis was taken"):
            redis_here.start()

    redis_here.start()
    assert redis_here.answers()


OWNER = """
import signal, sys
from pathlib import Path
from ops.redis_server import RedisServer
server = RedisServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
signal.pause()
"""


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """SIGKILL of the owner leaves no server behind."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())

    owner.kill()
    owner.wait()

    assert wait_until(lambda: started_at(pid) is None, 30)
