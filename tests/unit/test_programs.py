"""Finding the servers' programs, by scripts that answer --version as the real ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ops.programs import (
    Flavour,
    MysqlProgram,
    ProgramMissing,
    find_mysql,
    find_real_mysql,
    find_redis,
)

MARIADB = "mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)"
MYSQL = "/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"

Install = Callable[[str, str], str]


@pytest.fixture(name="install")
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a program into the only folder that is searched; returns its path."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("ops.programs.SERVER_FOLDERS", (str(tmp_path),))

    def install(name: str, version: str) -> str:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{version}'\n")
        program.chmod(0o755)
        return str(program)

    return install


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize("find", [find_redis, find_mysql])
def test_a_machine_without_servers_is_told_to_run_make_setup(find: Callable[[], object]) -> None:
    """The message is what to type."""
    with pytest.raises(ProgramMissing, match="run `make setup`"):
        find()


def test_servers_are_found_outside_of_an_ordinary_users_path(install: Install) -> None:
    """Debian puts them into /usr/sbin, which only root searches."""
    path = install("mariadbd", MARIADB)

    assert MysqlProgram(Flavour.MARIADB, path) == find_mysql()


def test_a_mysqld_is_asked_which_of_the_two_it_is(install: Install) -> None:
    """MariaDB installs itself under MySQL's name too."""
    install("mysqld", MYSQL)
    assert Flavour.MYSQL is find_mysql().flavour

    install("mysqld", MARIADB)
    assert Flavour.MARIADB is find_mysql().flavour


def test_mariadb_under_mysqls_name_does_not_pass_for_mysql(install: Install) -> None:
    """`make test-mysql` would otherwise test MariaDB twice."""
    install("mysqld", MARIADB)

    with pytest.raises(ProgramMissing, match="run `make test-mysql`"):
        find_real_mysql(None)

    path = install("mysqld", MYSQL)
    assert MysqlProgram(Flavour.MYSQL, path) == find_real_mysql(None)


def test_a_chroot_directory_without_mysql_is_refused_by_name(tmp_path: Path) -> None:
    """A wrong MOONWAKE_MYSQL_ROOT never falls back to another server."""
    with pytest.raises(ProgramMissing, match=f"{tmp_path} holds no /usr/sbin/mysqld"):
        find_real_mysql(str(tmp_path))


def test_redis_tools_alone_hold_a_server(install: Install) -> None:
    """The one program is server or checker by the name it is called by."""
    path = install("redis-check-rdb", "Redis server v=7.0.15 sha=00000000:0")

    assert [path, "redis-server"] == find_redis()


def test_a_checker_that_is_no_server_is_not_taken_for_one(install: Install) -> None:
    """Other builds ship a checker that only checks."""
    install("redis-check-rdb", "redis-check-rdb 7.0.15")

    with pytest.raises(ProgramMissing):
        find_redis()


def test_a_redis_server_is_preferred_and_valkey_will_do(install: Install) -> None:
    """Both speak the same protocol; Redis comes first because tests run on it."""
    valkey = install("valkey-server", "Server v=8.0")
    assert [valkey, valkey] == find_redis()

    redis = install("redis-server", "Redis server v=7.0.15")
    assert [redis, redis] == find_redis()
