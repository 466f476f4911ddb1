"""Where the servers' programs are, and what to type when they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from shared.errors import MoonwakeError

#: Debian keeps servers out of an ordinary user's PATH.
SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/libexec")
#: The first Redis that has it.
WAITAOF_SINCE = (7, 2)


class ProgramMissing(MoonwakeError):
    """A program this machine lacks; the message says what to type."""


class Flavour(Enum):
    """Which of the two database servers a program is."""

    MARIADB = "mariadb"
    MYSQL = "mysql"


@dataclass(frozen=True, slots=True)
class MysqlProgram:
    """A database server: *path* is as seen inside *root* when that is a chroot directory."""

    flavour: Flavour
    path: str
    root: Path | None = None


def find(*names: str) -> str | None:
    """The full path of the first of *names* that is installed, /usr/sbin included."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *SERVER_FOLDERS])
    return next((path for name in names if (path := shutil.which(name, path=folders))), None)


def find_redis() -> list[str]:
    """[program, argv 0] of a Redis or Valkey server; raises `ProgramMissing`.

    Debian's redis-tools holds the whole server under the name redis-check-rdb:
    which of the two it is depends on the name it is called by. Using it spares
    the machine the system service that the package redis-server starts.
    """
    if path := find("redis-server", "valkey-server"):
        return [path, path]
    path = find("redis-check-rdb", "valkey-check-rdb")
    if path and _is_redis([path, "redis-server"]):
        return [path, "redis-server"]
    raise ProgramMissing("no redis-server on this machine: run `make setup`")


def _is_redis(program: Sequence[str]) -> bool:
    told = subprocess.run(
        [program[1], "--version"], executable=program[0], capture_output=True, check=False
    )
    return b"server v=" in told.stdout


def find_newer_redis(root: str | None) -> Path | None:
    """The chroot directory *root* of a Redis with WAITAOF, None if that of this machine has it.

    Raises `ProgramMissing`.
    """
    if root:
        if Path(root, "usr/bin/redis-server").exists():
            return Path(root).resolve()
        raise ProgramMissing(f"{root} holds no /usr/bin/redis-server")
    program, called = find_redis()
    told = subprocess.run(
        [called, "--version"], executable=program, capture_output=True, text=True, check=False
    )
    version = told.stdout.partition("v=")[2].split(" ")[0]
    if tuple(int(part) for part in version.split(".")[:2]) < WAITAOF_SINCE:
        raise ProgramMissing(f"Redis {version} has no WAITAOF: `make test-mysql` installs a newer")
    return None


def find_mysql() -> MysqlProgram:
    """MariaDB if installed, else MySQL; raises `ProgramMissing`."""
    if path := find("mariadbd"):
        return MysqlProgram(Flavour.MARIADB, path)
    if path := find("mysqld"):
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        mariadb = "mariadb" in told.stdout.lower()
        return MysqlProgram(Flavour.MARIADB if mariadb else Flavour.MYSQL, path)
    raise ProgramMissing("no mariadbd or mysqld on this machine: run `make setup`")


def find_real_mysql(root: str | None) -> MysqlProgram:
    """MySQL itself, never MariaDB: in the chroot directory *root*, else on PATH.

    Raises `ProgramMissing`.
    """
    if root:
        if Path(root, "usr/sbin/mysqld").exists():
            return MysqlProgram(Flavour.MYSQL, "/usr/sbin/mysqld", Path(root).resolve())
        raise ProgramMissing(f"{root} holds no /usr/sbin/mysqld")
    if path := find("mysqld"):
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if "mariadb" not in told.stdout.lower():
            return MysqlProgram(Flavour.MYSQL, path)
    raise ProgramMissing("no MySQL server on this machine: run `make test-mysql`")
