"""
What an acknowledgement promises (INGEST_ACK), and how Redis shows that it holds.

A level is met or it is not at the moment of each group: the commands of `Promise`
follow the group's script in the same write, and what they answer decides. Asking
once at the start would not do: AOF, its fsync and replicas change under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Connection, Redis
from redis.exceptions import NoPermissionError

from shared.errors import AckUnmet, StoreDown
from shared.redis import Command, connected, exchange, redis_errors

MEMORY, FSYNC, REPLICA = "memory", "fsync", "replica"

#: A replica on the same network answers in less than a millisecond; one that takes a
#: second is frozen or gone, and clients wait.
REPLICA_WAIT_MS = 1_000
#: With `appendfsync everysec` the next fsync may be a second away, and takes its time.
FSYNC_WAIT_MS = 2_000
#: Replicas report each second.
REPLICA_SILENT_MAX_S = 3

_CONFIG = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite")
_CONFIG_GET: Command = ("CONFIG", "GET", *_CONFIG)
_INFO_AOF: Command = ("INFO", "persistence")
_PROBE_TTL_MS = 60_000

_AOF_OFF = "its append-only file is off"
_SWITCH_ON = "CONFIG SET appendonly yes, and the same in redis.conf"
_ALWAYS = "CONFIG SET appendfsync always, and the same in redis.conf; or use Redis 7.2 or later"


@dataclass(frozen=True, slots=True)
class Promise:
    """How a level is kept on one server."""

    #: What follows a group's scripts on their connection.
    commands: tuple[Command, ...] = ()
    #: How long Redis may take to answer them.
    wait_s: float = 0.0
    #: Why their answers keep the promise not; empty where they do.
    fault: Callable[[Sequence[Any]], str] = lambda _: ""
    #: What a write needs behind it to show that the promise holds now.
    proof: tuple[Command, ...] = ()
    #: How it is kept, for people.
    by: str = "as safe as Redis' own settings"
    #: What could not be looked at; empty where everything could.
    unchecked: str = ""


IN_MEMORY = Promise()


async def promise_on(connection: Connection, level: str, *, wary: bool = False) -> Promise:
    """How the server behind *connection* keeps *level*; nothing is written.

    *wary*: it was seen not to, a moment ago. Raises `AckUnmet`.
    """
    if level == FSYNC:
        # A millisecond, whatever it answers: only an error tells something.
        questions: list[Command] = [("WAITAOF", 1, 0, 1), _CONFIG_GET, _INFO_AOF]
        return fsync_promise(*await exchange(connection, questions), wary=wary)
    if level == REPLICA:
        return replica_promise(*await exchange(connection, [("INFO", "replication")]))
    return IN_MEMORY


async def proven(
    connection: Connection, level: str, probe_key: str, *, wary: bool = False
) -> Promise:
    """`promise_on`, shown by a write to *probe_key* where only a write can show it.

    Raises `AckUnmet`, or `StoreDown` if Redis refuses the write.
    """
    promise = await promise_on(connection, level, wary=wary)
    if promise.proof:
        write: Command = ("SET", probe_key, 1, "PX", _PROBE_TTL_MS)
        written, *answers = await exchange(connection, [write, *promise.proof])
        if isinstance(written, Exception):
            raise StoreDown(f"Redis: {written}") from written
        if fault := promise.fault(answers):
            raise AckUnmet(level, fault, _SEE_TO_REPLICA)
    return promise


async def prove(redis: Redis, level: str, probe_key: str) -> Promise:
    """`proven` on a connection of its own, which a caller may cancel.

    Raises `AckUnmet` or `StoreDown`.
    """
    if level == MEMORY:
        return IN_MEMORY
    with redis_errors():
        async with connected(redis) as connection:
            return await proven(connection, level, probe_key)


# --- fsync ------------------------------------------------------------------------


def fsync_promise(waitaof: Any, config: Any, info: Any, *, wary: bool = False) -> Promise:
    """From the replies, errors among them, to WAITAOF, CONFIG GET and INFO persistence.

    Raises `AckUnmet` or `StoreDown`.
    """
    if not isinstance(waitaof, Exception):
        return _BY_WAITAOF
    about = fields_of(info)
    if about.get("aof_enabled") == "0":
        raise AckUnmet(FSYNC, _AOF_OFF, _SWITCH_ON)
    if not (isinstance(waitaof, NoPermissionError) or "unknown command" in str(waitaof)):
        raise AckUnmet(FSYNC, str(waitaof), "see to that")
    if _is_first_rewrite(about, wary=wary):
        # Until then the file on disk is none, or an older one that lacks these writes.
        raise AckUnmet(FSYNC, "its append-only file is only being made", "wait a moment")
    if isinstance(config, Exception):
        return _UNCHECKED
    if fault := _not_always([config]):
        raise AckUnmet(FSYNC, f"{fault}, and it has no WAITAOF", _ALWAYS)
    return _BY_ALWAYS


def _is_first_rewrite(about: Mapping[str, str], *, wary: bool) -> bool:
    """Was the file switched on only now? Its size alone stays that of an earlier one."""
    is_rewriting = "1" in {
        about.get("aof_rewrite_in_progress"),
        about.get("aof_rewrite_scheduled"),
    }
    return is_rewriting and (wary or about.get("aof_base_size") == "0")


def _not_fsynced(answers: Sequence[Any]) -> str:
    [answer] = answers
    if isinstance(answer, Exception):
        return str(answer)
    return "" if answer[0] >= 1 else f"not fsynced within {FSYNC_WAIT_MS} ms"


def _not_always(answers: Sequence[Any]) -> str:
    """`appendfsync always` fsyncs before it answers, so its being set is the proof."""
    [answer] = answers
    if isinstance(answer, Exception):
        return str(answer)
    config = config_of(answer)
    if config.get("appendonly") != "yes":
        return _AOF_OFF
    if (fsync := config.get("appendfsync")) != "always":
        return f"its appendfsync is {fsync}"
    if config.get("no-appendfsync-on-rewrite") != "no":
        return "its no-appendfsync-on-rewrite is yes"
    return ""


def _no_file(answers: Sequence[Any]) -> str:
    [answer] = answers
    if isinstance(answer, Exception):
        return str(answer)
    return "" if fields_of(answer).get("aof_enabled") == "1" else _AOF_OFF


_BY_WAITAOF = Promise(
    (("WAITAOF", 1, 0, FSYNC_WAIT_MS),), FSYNC_WAIT_MS / 1000, _not_fsynced, by="WAITAOF"
)
_BY_ALWAYS = Promise((_CONFIG_GET,), fault=_not_always, by="appendfsync always")
_UNCHECKED = Promise(
    (_INFO_AOF,),
    fault=_no_file,
    by="its append-only file",
    unchecked="CONFIG is denied and there is no WAITAOF, so nobody knows whether its"
    " appendfsync is always: ask whoever runs it",
)


# --- replica ----------------------------------------------------------------------

_SEE_TO_REPLICA = "see to its replica: REPLICAOF there, and master_link_status:up in its INFO"


def replica_promise(info: Any) -> Promise:
    """From the reply to INFO replication. Raises `AckUnmet` or `StoreDown`."""
    about = fields_of(info)
    if about.get("role") != "master":
        raise AckUnmet(REPLICA, "it is a replica itself", "point REDIS_URL to the master")
    silent_s = silences_s(about)
    if not silent_s:
        raise AckUnmet(REPLICA, "it has no replica that is in step", _SEE_TO_REPLICA)
    if min(silent_s) > REPLICA_SILENT_MAX_S:
        fault = f"its replica has been silent for {min(silent_s)} s"
        raise AckUnmet(REPLICA, fault, _SEE_TO_REPLICA)
    return _BY_WAIT


def silences_s(about: Mapping[str, str]) -> list[int]:
    """How long ago each replica in step reported, from the fields of INFO replication."""
    lags: list[int] = []
    for number in range(int(about.get("connected_slaves", "0"))):
        line = about.get(f"slave{number}", "")
        replica = dict(part.split("=", 1) for part in line.split(",") if "=" in part)
        if replica.get("state") == "online":
            lags.append(int(replica.get("lag", "0")))
    return lags


def _not_replicated(answers: Sequence[Any]) -> str:
    [answer] = answers
    if isinstance(answer, Exception):
        return str(answer)
    return "" if answer >= 1 else f"no replica had it within {REPLICA_WAIT_MS} ms"


_WAIT: Command = ("WAIT", 1, REPLICA_WAIT_MS)
_BY_WAIT = Promise((_WAIT,), REPLICA_WAIT_MS / 1000, _not_replicated, proof=(_WAIT,), by="WAIT")


# --- what Redis answers -----------------------------------------------------------


def fields_of(info: Any) -> dict[str, str]:
    """INFO's reply by field. Raises `StoreDown` if it is an error."""
    if isinstance(info, Exception):
        raise StoreDown(f"Redis: {info}") from info
    lines = bytes(info).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def config_of(reply: Sequence[bytes]) -> dict[str, str]:
    """CONFIG GET's reply by name."""
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))
