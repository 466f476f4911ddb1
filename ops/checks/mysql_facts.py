"""What the checks need to know of MySQL, in a session like the workers'; no row is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import schema
from ops.checks.redis_facts import Clock, clock_between
from shared.errors import MoonwakeError, SchemaError, Transient
from shared.mysql import (
    Cursor,
    Dialect,
    MySQLError,
    Pool,
    dialect_of,
    error_text,
    mysql_errors,
    open_mysql,
    reading,
)
from shared.settings import Settings

#: What a worker does to each of its tables (S select, I insert, U update, D delete), and a
#: column to update.
TABLES = {
    "users": ("SIU", "role"),
    "play_records": ("SIUD", "title"),
    "content_stats": ("SIU", "title"),
    "content_viewers": ("SIU", "first_seen_ms"),
    "user_watch_daily": ("SIU", "plays"),
    "stat_days_touched": ("SIU", "batch_no"),
    "play_stats_daily": ("SIUD", "final"),
    "aggregation_runs": ("SIUD", "days"),
    "stream_checkpoints": ("SIU", "batch_no"),
    "dead_letters": ("SIU", "state"),
    "instance_settings": ("SIU", "value"),
}
_VERBS = {
    "S": "SELECT 1 FROM {table} WHERE FALSE",
    "I": "INSERT INTO {table} SELECT * FROM {table} WHERE FALSE",
    "U": "UPDATE {table} SET {column} = {column} WHERE FALSE",
    "D": "DELETE FROM {table} WHERE FALSE",
}
_VERB_NAMES = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
_DENIED = frozenset((1044, 1142, 1143, 1227))
_READ_ONLY = ("1290", "1836", "1792")

_VARIABLES = (
    *("time_zone", "sql_mode", "transaction_isolation", "tx_isolation"),
    *("character_set_client", "character_set_connection", "innodb_lock_wait_timeout"),
    *("max_allowed_packet", "max_connections", "max_user_connections"),
    *("innodb_flush_log_at_trx_commit", "log_bin", "sync_binlog", "read_only", "autocommit"),
)
_NOW = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000"
_DATABASE = (
    "SELECT default_character_set_name FROM information_schema.schemata"
    " WHERE schema_name = DATABASE()"
)
_FOREIGN = (
    "SELECT DISTINCT table_name FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name IN %s AND character_set_name <> 'utf8mb4'"
)
_SHARDS = "SELECT value FROM instance_settings WHERE name = 'shards'"
_DEAD = "SELECT COUNT(*) FROM dead_letters WHERE state = 'dead'"


class MysqlRefused(MoonwakeError):
    """The server answers and lets nobody in: a wrong login, a missing database."""


@dataclass(frozen=True, slots=True)
class MysqlFacts:
    """One server and our database on it, as a worker's session sees them."""

    dialect: Dialect
    version: str
    #: The session's variables.
    variables: Mapping[str, str]
    clock: Clock
    database_charset: str = "utf8mb4"
    #: Tables of ours with columns in another character set than utf8mb4.
    foreign_tables: tuple[str, ...] = ()
    #: Empty, or why the schema is not this program's.
    schema_fault: str = ""
    shard_count: int | None = None
    dead_letters: int = 0
    #: What a worker does and this user may not, as `DELETE on play_records`.
    denied: tuple[str, ...] = ()
    #: Does the server refuse every write of this user?
    read_only: bool = field(default=False)


async def read_mysql(settings: Settings) -> MysqlFacts:
    """Ask MySQL. Raises `Transient` if it does not answer, `MysqlRefused` if it lets us not in."""
    async with open_mysql(settings, drain=True) as pool:
        try:
            return await facts_of(pool)
        except MySQLError as fault:
            raise MysqlRefused(error_text(fault)) from fault


async def facts_of(pool: Pool) -> MysqlFacts:
    """Ask the server that *pool* connects to."""
    async with reading(pool) as cursor:
        schema_fault = await _schema_fault(cursor)
        denied, read_only = await _denied(cursor)
        return MysqlFacts(
            dialect=dialect_of(cursor),
            version=cursor.connection.get_server_info().removeprefix("5.5.5-"),
            variables=await _variables(cursor),
            clock=await _clock(cursor),
            database_charset=await _one(cursor, _DATABASE) or "unknown",
            foreign_tables=await _foreign_tables(cursor),
            schema_fault=schema_fault,
            shard_count=await _number(cursor, _SHARDS),
            dead_letters=await _number(cursor, _DEAD) or 0,
            denied=denied,
            read_only=read_only,
        )


async def _schema_fault(cursor: Cursor) -> str:
    try:
        await schema.check(cursor)
    except SchemaError as fault:
        return str(fault)
    return ""


async def _variables(cursor: Cursor) -> dict[str, str]:
    await cursor.execute("SHOW SESSION VARIABLES WHERE Variable_name IN %s", (_VARIABLES,))
    return dict(await cursor.fetchall())


async def _clock(cursor: Cursor) -> Clock:
    before_ns = time.time_ns()
    await cursor.execute(_NOW)
    [server_ms] = await cursor.fetchone()
    return clock_between(server_ms, before_ns, time.time_ns())


async def _foreign_tables(cursor: Cursor) -> tuple[str, ...]:
    await cursor.execute(_FOREIGN, (tuple(TABLES),))
    return tuple(sorted(name for (name,) in await cursor.fetchall()))


async def _denied(cursor: Cursor) -> tuple[tuple[str, ...], bool]:
    """Try every verb on no row: servers look at rights before they look for rows."""
    denied: list[str] = []
    for table, (verbs, column) in TABLES.items():
        for verb in verbs:
            try:
                with mysql_errors():
                    await cursor.execute(_VERBS[verb].format(table=table, column=column))
            except MySQLError as fault:
                if fault.args[0] in _DENIED:
                    denied.append(f"{_VERB_NAMES[verb]} on {table}")
            except Transient as fault:
                if not any(code in str(fault) for code in _READ_ONLY):
                    raise
                return tuple(denied), True
    return tuple(denied), False


async def _one(cursor: Cursor, query: str) -> str | None:
    await cursor.execute(query)
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def _number(cursor: Cursor, query: str) -> int | None:
    """None where there is no row, no table or no right to read it: other checks tell that."""
    try:
        value = await _one(cursor, query)
    except MySQLError:
        return None
    return None if value is None else int(value)
