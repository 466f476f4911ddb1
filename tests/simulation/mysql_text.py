"""
The product's SQL as SQLite understands it: its tables, and every statement it sends.

A limit that MySQL enforces in strict mode (UNSIGNED, VARCHAR(n), ENUM) becomes a CHECK.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import orjson

from schema import files

#: The tables that the drain's own modules use; the sink of the simulation has two more.
TABLES = ("stream_checkpoints", "dead_letters", "incidents")
SINK_TABLES = (
    """CREATE TABLE simulated_entries (
        shard SMALLINT UNSIGNED NOT NULL,
        number BIGINT UNSIGNED NOT NULL,
        times BIGINT UNSIGNED NOT NULL,
        PRIMARY KEY (shard, number)
    ) ENGINE=InnoDB""",
    """CREATE TABLE simulated_totals (
        name VARCHAR(20) NOT NULL,
        amount BIGINT UNSIGNED NOT NULL,
        PRIMARY KEY (name)
    ) ENGINE=InnoDB""",
)
_CREATE = re.compile(r"CREATE TABLE (\w+) \((.*)\)[^)]*", re.DOTALL)
_ALTER = re.compile(r"ALTER TABLE (\w+)\s(.*)", re.DOTALL)
_TOP_COMMA = re.compile(r",\s*(?![^(]*\))")
_NOISE = re.compile(
    r" ON UPDATE CURRENT_TIMESTAMP(\(\d\))?| (CHARACTER SET|CHARSET|COLLATE)[ =]\w+"
    r"| COMMENT '[^']*'| AFTER \w+| UNSIGNED",
    re.IGNORECASE,
)
_SKIPPED = re.compile(r"(KEY|INDEX|CONSTRAINT \w+ FOREIGN)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Table:
    """One table: what makes it, its columns, and those of its primary key."""

    name: str
    statement: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


@lru_cache(maxsize=1)
def tables() -> tuple[Table, ...]:
    """The tables as the schema's files leave them, and the sink's."""
    parts: dict[str, list[str]] = {}
    statements = [text for file in files.load() for text in file.statements]
    for text in (*statements, *SINK_TABLES):
        if (made := _CREATE.match(text.strip())) and _is_wanted(made[1]):
            parts[made[1]] = _TOP_COMMA.split(_without_comments(made[2]))
        elif (altered := _ALTER.match(text.strip())) and altered[1] in parts:
            added = _TOP_COMMA.split(_without_comments(altered[2]))
            parts[altered[1]] += [re.sub(r"^ADD (COLUMN )?", "", each.strip()) for each in added]
    return tuple(_table(name, each) for name, each in parts.items())


def _is_wanted(name: str) -> bool:
    return name in TABLES or name.startswith("simulated_")


def _without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def _table(name: str, parts: list[str]) -> Table:
    columns: list[str] = []
    key: tuple[str, ...] = ()
    lines: list[str] = []
    last: list[str] = []
    for part in (re.sub(r"\s+", " ", each).strip() for each in parts):
        if part.upper().startswith("PRIMARY KEY"):
            key = tuple(re.findall(r"\w+", part)[2:])
            last.append(part)
        elif part.upper().startswith("UNIQUE"):
            last.append("UNIQUE " + part[part.index("(") :])
        elif part and not _SKIPPED.match(part):
            columns.append(part.split()[0])
            lines.append(_column(part))
    if any("AUTO_INCREMENT" in part for part in parts):
        lines = [re.sub(r"(\w+) .*AUTO_INCREMENT.*", r"\1 INTEGER PRIMARY KEY", x) for x in lines]
        last = [each for each in last if not each.startswith("PRIMARY")]
    statement = f"CREATE TABLE {name} ({', '.join(lines + last)})"
    return Table(name, statement, tuple(columns), key)


def _column(text: str) -> str:
    name = text.split(maxsplit=1)[0]
    checks = []
    if re.search(r"\bUNSIGNED\b", text, re.IGNORECASE):
        checks.append(f"{name} >= 0")
    if limit := re.search(r"\b(?:VAR)?CHAR\((\d+)\)", text):
        checks.append(f"length({name}) <= {limit[1]}")
    if choice := re.search(r"\bENUM(\([^)]*\))", text):
        checks.append(f"{name} IN {choice[1]}")
        text = text.replace(choice[0], "TEXT")
    text = _NOISE.sub("", text)
    text = re.sub(r"CURRENT_TIMESTAMP\(\d\)", "CURRENT_TIMESTAMP", text)
    return " ".join([text, *(f"CHECK ({each})" for each in checks)])


# --- statements ---------------------------------------------------------------------

_TEXT = re.compile(r"""('(?:[^']|'')*')|"((?:[^"\\]|\\.)*)\"""")
_TARGET = re.compile(r"(SET |, )(\w+)\.(\w+ =)")
_RENAMED = (
    (re.compile(r"\bGREATEST\("), "MAX("),
    (re.compile(r"\bLEAST\("), "MIN("),
    (re.compile(r"\bIF\("), "IIF("),
    (re.compile(r"\bVALUES\((\w+)\)"), r"excluded.\1"),
    (re.compile(r"\s+ON DUPLICATE KEY UPDATE\s+"), " ON CONFLICT DO UPDATE SET "),
    (re.compile(r"\s+FOR UPDATE\b"), ""),
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in SQLite's words; *locks*: the rows that it selects stay locked."""

    text: str
    verb: str
    locks: bool
    said: str


@lru_cache(maxsize=2_000)
def translated(text: str | bytes) -> Statement:
    """*text* as the product wrote it, for SQLite."""
    if isinstance(text, bytes):  # rendered by worker/sql.py, values and all
        said = text.decode(errors="surrogateescape")
        text = _TEXT.sub(_quoted, said)
    else:
        said = re.sub(r"\s+", " ", text).strip()
        text = said.replace("%s", "?")
    locks = " FOR UPDATE" in text
    head, values, tail = text.partition(" ON DUPLICATE KEY ")
    # VALUES (...) of the insert stays what it is; VALUES(column) comes after it.
    renamed = "".join(_renamed(values + tail)) if values else ""
    text = (head if values else _renamed(head)) + renamed
    text = _TARGET.sub(r"\1\3", text)
    verb = text.split(None, 1)[0].upper()
    if locks:
        table = _table_named(re.search(r"\bFROM (\w+)", text))
        text = text.replace("SELECT ", f"SELECT touch('{table.name}', {key_of(table)}, 2), ", 1)
    return Statement(text, verb, locks, said)


def _renamed(text: str) -> str:
    for pattern, other in _RENAMED:
        text = pattern.sub(other, text)
    return text


def _quoted(match: re.Match[str]) -> str:
    if match[1] is not None:  # by the connection's own `literal`
        return match[1]
    value: str = orjson.loads(match[0])
    return "'" + value.replace("'", "''") + "'"


def _table_named(match: re.Match[str] | None) -> Table:
    assert match is not None
    return next(each for each in tables() if each.name == match[1])


def key_of(table: Table, row: str = "") -> str:
    """An expression for the primary key of a row, as one text."""
    return " || ':' || ".join(f"{row}{column}" for column in table.key)


def triggers() -> Iterator[str]:
    """What tells `touch` of every row that a statement writes: 0 new, 1 changed, 2 the same."""
    for table in tables():
        new, differs = (
            key_of(table, "new."),
            " OR ".join(f"old.{column} IS NOT new.{column}" for column in table.columns),
        )
        yield (
            f"CREATE TRIGGER {table.name}_new AFTER INSERT ON {table.name}"
            f" BEGIN SELECT touch('{table.name}', {new}, 0); END"
        )
        yield (
            f"CREATE TRIGGER {table.name}_changed AFTER UPDATE ON {table.name}"
            f" BEGIN SELECT touch('{table.name}', {new}, iif({differs}, 1, 2)); END"
        )
