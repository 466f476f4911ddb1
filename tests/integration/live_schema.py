"""A database's tables as lines of text, the same for MySQL and MariaDB."""

from __future__ import annotations

import re
from collections import defaultdict

from shared.mysql import Cursor

_COLLATIONS = {None: "", "utf8mb4_bin": " bin", "utf8mb4_unicode_ci": " text"}

_COLUMNS = """
SELECT c.table_name, column_name, column_type, collation_name, is_nullable, column_default, extra
FROM information_schema.columns c
WHERE c.table_schema = DATABASE() ORDER BY c.table_name, ordinal_position"""

_KEYS = """
SELECT table_name, index_name, MIN(non_unique),
    GROUP_CONCAT(column_name, IF(collation = 'D', ' desc', '') ORDER BY seq_in_index)
FROM information_schema.statistics
WHERE table_schema = DATABASE() GROUP BY table_name, index_name ORDER BY table_name, index_name"""

_FOREIGN_KEYS = """
SELECT k.table_name, k.constraint_name, column_name, k.referenced_table_name,
    referenced_column_name, delete_rule
FROM information_schema.key_column_usage k
JOIN information_schema.referential_constraints r
    ON r.constraint_schema = k.table_schema AND r.constraint_name = k.constraint_name
WHERE k.table_schema = DATABASE() ORDER BY k.table_name, k.constraint_name"""

_CHECKS = """
SELECT t.table_name, t.constraint_name, check_clause
FROM information_schema.table_constraints t
JOIN information_schema.check_constraints c
    ON c.constraint_schema = t.table_schema AND c.constraint_name = t.constraint_name
WHERE t.table_schema = DATABASE() AND t.constraint_type = 'CHECK'
ORDER BY t.table_name, t.constraint_name"""


async def describe(cursor: Cursor) -> dict[str, list[str]]:
    """Per table its columns in order, then its keys, foreign keys and checks."""
    tables: dict[str, list[str]] = defaultdict(list)
    checks = {tuple(row[:2]): _plain(row[2]) for row in await _rows(cursor, _CHECKS)}
    # MariaDB's JSON is a LONGTEXT with a check that has the column's name.
    json = {key for key, clause in checks.items() if clause.startswith("json_valid")}
    for table, name, *facts in await _rows(cursor, _COLUMNS):
        tables[table].append(f"{name} " + _column(*facts, is_json=(table, name) in json))
    for table, name, non_unique, columns in await _rows(cursor, _KEYS):
        kind = "index" if non_unique else "unique"
        tables[table].append(f"{kind} {name} ({columns})")
    for table, name, column, other, other_column, rule in await _rows(cursor, _FOREIGN_KEYS):
        tables[table].append(f"{name}: {column} -> {other}.{other_column}, delete: {rule.lower()}")
    for (table, name), clause in checks.items():
        if (table, name) not in json:
            tables[table].append(f"{name}: {clause}")
    return dict(tables)


def _column(
    kind: str,
    collation: str | None,
    nullable: str,
    default: str | None,
    extra: str,
    *,
    is_json: bool,
) -> str:
    kind = "boolean" if kind == "tinyint(1)" else re.sub(r"^(\w*int)\(\d+\)", r"\1", kind)
    text = "json" if is_json else kind
    if not is_json and not kind.startswith("enum"):
        text += _COLLATIONS.get(collation, f" {collation}")
    text += " not null" if nullable == "NO" else ""
    if default not in (None, "NULL"):
        text += f" default {default}"
    text += " " + extra.lower().replace("default_generated", "").strip()
    return re.sub(r"current_timestamp", "now", text, flags=re.IGNORECASE).replace("'", "").strip()


def _plain(clause: str) -> str:
    """Without the quotes, brackets and capitals that the two servers set differently."""
    return re.sub(r"[`()']", "", clause.lower())


async def _rows(cursor: Cursor, query: str) -> list[tuple[str, ...]]:
    await cursor.execute(query)
    return list(await cursor.fetchall())
