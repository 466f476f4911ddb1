"""The numbered SQL files of this program, and what a database made from them must remember."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from schema.statements import split
from shared.errors import SchemaError

SQL_DIRECTORY = Path(__file__).parent
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One step of the schema; never edited once a database may have taken it."""

    version: int
    name: str
    checksum: str
    statements: tuple[str, ...]

    def statement_checksum(self, number: int) -> str:
        """Of statement *number*, counted from 1; "" if there is none."""
        texts = self.statements[number - 1 : number]
        return checksum_of(texts[0].encode()) if texts else ""


@dataclass(frozen=True, slots=True)
class Applied:
    """A file that a database says it has taken; `applied_at` is UTC."""

    version: int
    name: str
    checksum: str
    applied_at: datetime


def checksum_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def load(directory: Path = SQL_DIRECTORY) -> list[SqlFile]:
    """Every SQL file of *directory* in order, numbered from 1 without a gap.

    Raises `SchemaError` for a name that is not NNNN_words.sql, a number that is
    missing or there twice, and SQL that cannot be cut into statements.
    """
    files = [_read(path) for path in sorted(directory.glob("*.sql"))]
    for expected, file in enumerate(files, 1):
        if file.version < expected:
            twin = files[expected - 2].name
            raise SchemaError(f"{twin} and {file.name} have the same number")
        if file.version > expected:
            raise SchemaError(f"{file.name} comes where number {expected:04} is missing")
    return files


def _read(path: Path) -> SqlFile:
    match = _NAME.fullmatch(path.name)
    if not match or match[1] == "0000":
        raise SchemaError(f"{path.name} is not named like 0001_words.sql")
    content = path.read_bytes()
    try:
        statements = split(content.decode())
    except ValueError as fault:
        raise SchemaError(f"{path.name}: {fault}") from None
    return SqlFile(int(match[1]), path.name, checksum_of(content), tuple(statements))


def expected_version(directory: Path = SQL_DIRECTORY) -> int:
    """The number of the newest file, which is the version of a database that has them all."""
    return len(load(directory))


def pending(files: Sequence[SqlFile], applied: Sequence[Applied]) -> list[SqlFile]:
    """The files a database with *applied* (in order) still lacks.

    Raises `SchemaError` if what it has is not the beginning of *files*: an edited
    or renamed file, one that is missing in between, or a newer program's.
    """
    for position, row in enumerate(applied, 1):
        if row.version != position:
            raise SchemaError(
                f"the database has {row.name} but not number {position:04}: somebody changed "
                "schema_migrations by hand"
            )
        if position > len(files):
            raise SchemaError(
                f"the database is newer than this program: it has {row.name}, this program ends "
                f"at {len(files):04}; run the program that is as new as the database"
            )
        _compare(files[position - 1], row)
    return list(files[len(applied) :])


def _compare(file: SqlFile, row: Applied) -> None:
    if file.name != row.name:
        raise SchemaError(f"{file.name} was applied under the name {row.name}")
    if file.checksum != row.checksum:
        raise SchemaError(
            f"{file.name} was edited after it was applied ({row.applied_at:%Y-%m-%d %H:%M} UTC): "
            "put it back as it was; a change goes into a new file"
        )
