"""The checks of MySQL or MariaDB: fit to take a worker's batches and to keep them."""

from __future__ import annotations

from collections.abc import Callable

from ops.checks.findings import Finding, error, mib, numbers, ok, warning
from ops.checks.mysql_facts import MysqlFacts
from shared.mysql import Dialect
from shared.settings import Settings
from worker.sql import BYTES_PER_STATEMENT

MysqlCheck = Callable[[MysqlFacts, Settings], Finding]

VERSION_MIN = {Dialect.MYSQL: (8, 4), Dialect.MARIADB: (10, 11)}
#: A statement's rows, and what stands around them.
PACKET_MIN_BYTES = BYTES_PER_STATEMENT + 65_536


def version(facts: MysqlFacts, settings: Settings) -> Finding:
    """MySQL 8.4+ or MariaDB 10.11+."""
    found = (
        f"{facts.dialect.value} {facts.version} at {settings.mysql_host}:{settings.mysql_port},"
        f" database {settings.mysql_database}"
    )
    if numbers(facts.version) < VERSION_MIN[facts.dialect]:
        return error(
            "mysql-version",
            found,
            "neither the schema nor the workers' SQL was ever tried on it",
            "use MySQL 8.4 or newer, or MariaDB 10.11 or newer",
        )
    return ok("mysql-version", found)


def schema_version(facts: MysqlFacts, _: Settings) -> Finding:
    """The tables are exactly those this program was made for."""
    if facts.schema_fault:
        return error(
            "mysql-schema",
            facts.schema_fault,
            "a worker refuses a schema that is not its own",
            "stop the workers, run `python -m schema`, start them",
        )
    return ok("mysql-schema", "the schema is this program's")


def charset(facts: MysqlFacts, settings: Settings) -> Finding:
    """utf8mb4 in our tables, and for those a later schema makes."""
    if facts.foreign_tables:
        tables = ", ".join(facts.foreign_tables)
        return error(
            "mysql-charset",
            f"columns that are not utf8mb4 in {tables}",
            "titles it cannot hold are refused, and names it folds would become one user",
            "convert them back as schema/*.sql has them (ALTER TABLE ... CONVERT TO CHARACTER SET)",
        )
    if facts.database_charset != "utf8mb4":
        return warning(
            "mysql-charset",
            f"tables are utf8mb4, the database's default is {facts.database_charset}",
            "a table made without naming its character set gets that one",
            f"ALTER DATABASE `{settings.mysql_database}`"
            " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
        )
    return ok("mysql-charset", "utf8mb4")


def session(facts: MysqlFacts, _: Settings) -> Finding:
    """UTC, strict, READ COMMITTED and utf8mb4: pinned at connect, unless something undoes it."""
    variables = facts.variables
    isolation = variables.get("transaction_isolation") or variables.get("tx_isolation", "unknown")
    found = {
        "time_zone": variables.get("time_zone", "unknown"),
        "sql_mode": variables.get("sql_mode", "unknown"),
        "isolation": isolation,
        "character_set_client": variables.get("character_set_client", "unknown"),
    }
    wrong = {
        "time_zone": found["time_zone"] != "+00:00",
        "sql_mode": "STRICT_ALL_TABLES" not in found["sql_mode"],
        "isolation": isolation != "READ-COMMITTED",
        "character_set_client": found["character_set_client"] != "utf8mb4",
    }
    if not any(wrong.values()):
        return ok("mysql-session", "UTC, strict, READ COMMITTED, utf8mb4")
    return error(
        "mysql-session",
        ", ".join(f"{name} is {found[name] or 'empty'}" for name, bad in wrong.items() if bad),
        "times would shift, values be cut silently, or batches wait for each other",
        "a proxy in between undoes SET at connect: connect to the server itself,"
        " or have the proxy keep session variables",
    )


def packet(facts: MysqlFacts, _: Settings) -> Finding:
    """max_allowed_packet against the longest statement."""
    size = int(facts.variables.get("max_allowed_packet", 0))
    found = f"max_allowed_packet {mib(size)}, statements take up to {mib(PACKET_MIN_BYTES)}"
    if size < PACKET_MIN_BYTES:
        return error(
            "mysql-packet",
            found,
            "a longer statement is refused, and its batch cut down to single entries",
            "SET GLOBAL max_allowed_packet = 16777216, and the same in the server's configuration",
        )
    return ok("mysql-packet", found)


def durability(facts: MysqlFacts, _: Settings) -> Finding:
    """Is a commit on disk when the server says so?"""
    variables = facts.variables
    needed = ["innodb_flush_log_at_trx_commit"]
    if variables.get("log_bin", "OFF") == "ON":
        needed.append("sync_binlog")
    lax = [name for name in needed if variables.get(name, "1") != "1"]
    if lax:
        return warning(
            "mysql-durability",
            ", ".join(f"{name} is {variables[name]}" for name in lax),
            "a power cut takes back batches that Redis may have trimmed (STREAM_RETENTION_S)",
            f"SET GLOBAL {', '.join(f'{name} = 1' for name in lax)},"
            " and the same in the server's configuration",
        )
    return ok("mysql-durability", "commits are on disk")


def rights(facts: MysqlFacts, settings: Settings) -> Finding:
    """Everything a worker does, tried on no row."""
    if facts.read_only:
        return error(
            "mysql-rights",
            "the server is read-only",
            "no batch can be written",
            "point MYSQL_HOST to the primary, or SET GLOBAL read_only = OFF",
        )
    if facts.denied:
        shown = ", ".join(facts.denied[:4]) + (" and more" if len(facts.denied) > 4 else "")
        # An underscore in GRANT stands for any character unless it is escaped.
        pattern = settings.mysql_database.replace("_", r"\_")
        return error(
            "mysql-rights",
            f"{settings.mysql_user} lacks {shown}",
            "a worker's batches would be refused",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{pattern}`.* TO '{settings.mysql_user}'@...",
        )
    return ok("mysql-rights", f"{settings.mysql_user} may do what a worker does")


def dead_letters(facts: MysqlFacts, _: Settings) -> Finding:
    """Entries kept because they could not be applied."""
    if facts.dead_letters:
        return warning(
            "dead-letters",
            f"{facts.dead_letters} wait for a decision",
            "their events are in no record and no count",
            "moonwake dead-letters list",
        )
    return ok("dead-letters", "none")


MYSQL_CHECKS: tuple[MysqlCheck, ...] = (
    version,
    schema_version,
    charset,
    session,
    packet,
    durability,
    rights,
    dead_letters,
)
