"""A private Redis that keeps what it acknowledged: append-only file on, nothing ever evicted."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ops.files import write_private
from ops.programs import find, find_redis
from ops.servers import Server

CONFIG = """\
# Written at every start; change it in the program, not here.
bind 127.0.0.1
port {port}
dir "{data}"
unixsocket {socket}
unixsocketperm 700
daemonize no
appendonly yes
appendfsync {appendfsync}
save ""
maxmemory-policy noeviction
"""
#: The server inside a chroot directory.
IN_ROOT = "/usr/bin/redis-server"


class RedisServer(Server):
    """Redis or Valkey on its own directory; *password* also guards the unix socket.

    With *root* that of a chroot directory, in which its own directory lies too.
    """

    def __init__(
        self,
        directory: Path,
        *,
        password: str = "",
        appendfsync: str = "everysec",
        root: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__("redis", directory, **options)
        self.password = password
        self.appendfsync = appendfsync
        self._root = root
        self._config = directory / "redis.conf"

    @property
    def url(self) -> str:
        """For REDIS_URL."""
        secret = f"default:{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        self.data.mkdir(exist_ok=True)
        text = CONFIG.format(
            port=self.port,
            socket=self.socket.name,
            data=self._inside(self.data),
            appendfsync=self.appendfsync,
        )
        if self.password:
            text += f"requirepass {self.password}\n"
        write_private(self._config, text)

    def command(self) -> tuple[str, list[str]]:
        if self._root:
            chroot = find("chroot") or "chroot"
            return chroot, [chroot, str(self._root), IN_ROOT, str(self._inside(self._config))]
        program, called = find_redis()
        return program, [called, str(self._config)]

    def _inside(self, path: Path) -> Path:
        """*path* as the server sees it."""
        return Path("/", path.relative_to(self._root)) if self._root else path

    def answers(self) -> bool:
        """It answers PING when the append-only file is loaded (-LOADING before)."""
        with contextlib.suppress(OSError), self.connected() as client:
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False
