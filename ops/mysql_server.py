"""A private MariaDB or MySQL with the durability each has by default, in UTC and utf8mb4."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.files import write_private
from ops.programs import Flavour, MysqlProgram, ProgramMissing, find, find_mysql
from ops.servers import Server, ServerFailed

CONFIG = """\
# Written at every start; change it in the program, not here.
[server]
bind-address = 127.0.0.1
port = {port}
socket = {socket}
datadir = {data}
tmpdir = {tmp}
pid-file = {data}/server.pid
init-file = {users}
character-set-server = utf8mb4
default-time-zone = +00:00
skip-name-resolve = ON
innodb-buffer-pool-size = {buffer_pool_mib}M
secure-file-priv = {secure_file_priv}
"""
#: What only one of the two knows: its redo log and the second protocol's port.
FLAVOUR_CONFIG = {
    Flavour.MARIADB: "innodb-log-file-size = {buffer_pool_mib}M\n",
    Flavour.MYSQL: "innodb-redo-log-capacity = {buffer_pool_mib}M\nmysqlx = OFF\n",
}
#: Run by the server itself at every start, before it listens, so that it also repairs.
USERS = """\
CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}';
ALTER USER '{user}'@'%' IDENTIFIED BY '{password}';
GRANT ALL ON {scope} TO '{user}'@'%' {option};
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who may log in over TCP: *user* owns *database*, or every database with *everything*."""

    password: str
    user: str = "moontv"
    database: str = "moontv"
    everything: bool = False


class MysqlServer(Server):
    """A database server on its own directory, which lies inside the chroot if there is one.

    The redo log is as large as the buffer pool: enough not to throttle long writes.
    """

    def __init__(
        self,
        directory: Path,
        account: Account,
        *,
        program: MysqlProgram | None = None,
        buffer_pool_mib: int = 256,
        **options: Any,
    ) -> None:
        super().__init__("mysql", directory, **options)
        self.program = program or find_mysql()
        self.account = account
        self._buffer_pool_mib = buffer_pool_mib
        self._config = directory / "server.cnf"
        self._users = directory / "users.sql"
        #: Its own: a MariaDB that starts deletes every temporary table below its tmpdir,
        #: also those of another one that is at work.
        self._tmp = directory / "tmp"
        self._flavour_note = self.data / "moonwake-flavour"

    @property
    def title(self) -> str:
        return "MySQL" if self._is_mysql else "MariaDB"

    def prepare(self) -> None:
        self._check_data()
        self._tmp.mkdir(exist_ok=True)
        if not self.data.exists():
            self._initialise()
        write_private(self._users, self._users_sql())
        text = (CONFIG + FLAVOUR_CONFIG[self.program.flavour]).format(
            port=self.port,
            socket=self.socket.name,
            data=self._inside(self.data),
            tmp=self._inside(self._tmp),
            users=self._inside(self._users),
            # Where files may be read from: nowhere. Each server has its own word for it.
            secure_file_priv="NULL" if self._is_mysql else self._inside(self.data),
            buffer_pool_mib=self._buffer_pool_mib,
        )
        write_private(self._config, text)

    def command(self) -> tuple[str, list[str]]:
        argv = [self.program.path, f"--defaults-file={self._inside(self._config)}"]
        argv = self._enter([*argv, *self._as_user()])
        return argv[0], argv

    def answers(self) -> bool:
        """It greets clients (protocol version 10), which it does after the recovery."""
        with contextlib.suppress(OSError), self.connected() as client:
            greeting = client.recv(5)
            return len(greeting) == 5 and greeting[4] == 10
        return False

    def _users_sql(self) -> str:
        account = self.account
        scope = "*.*" if account.everything else f"`{account.database}`.*"
        return USERS.format(
            database=account.database,
            user=account.user,
            password=account.password,
            scope=scope,
            option="WITH GRANT OPTION" if account.everything else "",
        )

    @property
    def _is_mysql(self) -> bool:
        return self.program.flavour is Flavour.MYSQL

    def _check_data(self) -> None:
        """Refuse a directory that another kind of server or nobody we know has filled."""
        if not self.data.exists():
            return
        if not self._flavour_note.exists():
            raise ServerFailed(f"{self.data} was not made by moonwake: move it away and try again")
        flavour = self._flavour_note.read_text().strip()
        if flavour != self.program.flavour.value:
            raise ServerFailed(
                f"{self.data} belongs to {flavour}, and this machine runs"
                f" {self.program.flavour.value}: install {flavour}, or move the directory away"
            )

    def _initialise(self) -> None:
        """Make the system tables beside `data` and rename: half of them never count."""
        fresh = self.directory / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir()
        argv = self._mysql_install(fresh) if self._is_mysql else self._mariadb_install(fresh)
        with self.log.open("ab") as log:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        if done.returncode != 0:
            raise ServerFailed(f"no new data directory; {self.log} ends:\n{self.tail()}")
        (fresh / self._flavour_note.name).write_text(self.program.flavour.value + "\n")
        fresh.replace(self.data)

    def _mysql_install(self, fresh: Path) -> list[str]:
        argv = [self.program.path, "--no-defaults", "--initialize-insecure"]
        return self._enter([*argv, f"--datadir={self._inside(fresh)}", *self._as_user()])

    def _mariadb_install(self, fresh: Path) -> list[str]:
        installer = find("mariadb-install-db", "mysql_install_db")
        if not installer:
            raise ProgramMissing("no mariadb-install-db on this machine: run `make setup`")
        folders = [f"--datadir={fresh}", f"--tmpdir={self._tmp}"]
        options = ["--skip-test-db", "--auth-root-authentication-method=socket"]
        return [installer, "--no-defaults", *folders, *options, *self._as_user()]

    def _as_user(self) -> list[str]:
        """Both servers refuse to run as root unless told to."""
        return ["--user=root"] if os.geteuid() == 0 else []

    def _enter(self, argv: list[str]) -> list[str]:
        if self.program.root is None:
            return argv
        return [find("chroot") or "chroot", str(self.program.root), *argv]

    def _inside(self, path: Path) -> Path:
        """*path* as the server sees it."""
        if self.program.root is None:
            return path
        return Path("/", path.relative_to(self.program.root))
