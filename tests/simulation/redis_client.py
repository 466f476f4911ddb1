"""The part of `redis.asyncio.Redis` that the product's code calls, for the model of Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from tests.simulation.loop import Process
from tests.simulation.network import Wire
from tests.simulation.redis_scripts import SCRIPTS
from tests.simulation.redis_server import RedisServer

#: A pipeline without MULTI may be cut in two by somebody else's command, this often.
_CUT_CHANCE = 0.2
_WRITES = frozenset(
    ("set", "delete", "hset", "hdel", "hincrby", "xadd", "xtrim", "xsetid", "pexpire")
)

Named = tuple[str, Any]
Command = tuple[Named, Callable[[], Any]]


class Commands:
    """One method per command; *send* decides what becomes of it."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def _send(self, name: Named, work: Callable[[], Any]) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._server, name)

        def command(*args: Any, **options: Any) -> Any:
            return self._send((name, args), partial(method, *args, **options))

        return command

    def execute_command(self, name: str, *args: Any) -> Any:
        return getattr(self, name.lower().replace(" ", "_"))(*args)

    def register_script(self, text: str) -> Callable[[Sequence[str], Sequence[Any]], Any]:
        script = SCRIPTS[text]

        def run(keys: Sequence[str] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
            work = partial(script, self._server, keys, args)
            return (client or self)._send((script.__name__, (keys, args)), work)

        return run


class RedisClient(Commands):
    """The client of one process."""

    def __init__(self, server: RedisServer, wire: Wire, process: Process) -> None:
        super().__init__(server)
        self._wire = wire
        self._process = process

    def _send(self, name: Named, work: Callable[[], Any]) -> Awaitable[Any]:
        return self._wire.ask(self._process, name, work)

    def pipeline(self, transaction: bool = True) -> Pipeline:
        return Pipeline(self._server, self._wire, self._process, atomic=transaction)


class Pipeline(Commands):
    """Commands sent together; with MULTI they are one step."""

    def __init__(self, server: RedisServer, wire: Wire, process: Process, *, atomic: bool) -> None:
        super().__init__(server)
        self._wire = wire
        self._process = process
        self._atomic = atomic
        self._commands: list[Command] = []

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._commands = []

    def _send(self, name: Named, work: Callable[[], Any]) -> Pipeline:
        self._commands.append((name, work))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self._commands = self._commands, []
        parts = [commands]
        if not self._atomic and len(commands) > 1 and self._wire.rng.random() < _CUT_CHANCE:
            middle = self._wire.rng.randrange(1, len(commands))
            parts = [commands[:middle], commands[middle:]]
        replies: list[Any] = []
        for part in parts:
            names = [name for name, _ in part]
            replies += await self._wire.ask(self._process, names, partial(_all, part))
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors and raise_on_error:
            raise errors[0]
        return replies


def _all(commands: Sequence[Command]) -> list[Any]:
    replies: list[Any] = []
    for _, work in commands:
        try:
            replies.append(work())
        except RedisError as error:
            replies.append(error)
    return replies
