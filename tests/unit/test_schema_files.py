"""Which files make the schema, and what a database that has some of them still lacks."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schema import expected_version
from schema.files import Applied, SqlFile, load, pending
from shared.errors import SchemaError

FILES = [SqlFile(n, f"000{n}_part.sql", f"sum{n}", ("SELECT 1",)) for n in (1, 2, 3)]


def has(*files: SqlFile) -> list[Applied]:
    """What a database says that has taken *files*."""
    when = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)
    return [Applied(file.version, file.name, file.checksum, when) for file in files]


def write(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).write_text("SELECT 1;")
    return directory


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """The number decides, other files in the directory do not count."""
    write(tmp_path, "0002_b.sql", "0001_z.sql", "0003_a.sql", "readme.txt")

    assert ["0001_z.sql", "0002_b.sql", "0003_a.sql"] == [file.name for file in load(tmp_path)]
    assert 3 == expected_version(tmp_path)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_c.sql"], "0003_c.sql comes where number 0002 is missing"),
        (["0002_b.sql"], "0002_b.sql comes where number 0001 is missing"),
        (["0001_a.sql", "0001_b.sql"], "0001_a.sql and 0001_b.sql have the same number"),
        (["0001_a.sql", "2_b.sql"], "2_b.sql is not named like"),
        (["0000_a.sql"], "0000_a.sql is not named like"),
        (["0001_a.sql", "0002_B!.sql"], "0002_B!.sql is not named like"),
    ],
)
def test_a_gap_a_twin_and_a_wrong_name_are_refused_by_name(
    tmp_path: Path, names: list[str], complaint: str
) -> None:
    """A file that would be skipped or be run out of order stops everything."""
    write(tmp_path, *names)

    with pytest.raises(SchemaError, match=re.escape(complaint)):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"SELECT 'open;", b"SELECT '\xff';"])
def test_a_file_that_cannot_be_cut_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    """Broken SQL and broken UTF-8 are found before the first statement runs."""
    (tmp_path / "0001_a.sql").write_bytes(content)

    with pytest.raises(SchemaError, match=re.escape("0001_a.sql: ")):
        load(tmp_path)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_what_a_database_lacks_is_what_comes_after_what_it_has(count: int) -> None:
    """Nothing is applied twice and nothing is left out."""
    assert FILES[count:] == pending(FILES, has(*FILES[:count]))


def test_an_edited_file_is_refused_by_name() -> None:
    """Two databases of the same version never differ."""
    edited = SqlFile(2, "0002_part.sql", "another sum", ("SELECT 2",))

    with pytest.raises(SchemaError, match=r"0002_part.sql was edited .*2026-05-04 03:02"):
        pending([FILES[0], edited, FILES[2]], has(*FILES[:2]))


def test_a_renamed_file_is_refused_with_both_names() -> None:
    """The history in the database and the one on disk stay the same."""
    renamed = SqlFile(1, "0001_new.sql", "sum1", ("SELECT 1",))

    with pytest.raises(SchemaError, match=r"0001_new.sql .* 0001_part.sql"):
        pending([renamed], has(FILES[0]))


def test_a_database_newer_than_the_program_is_refused() -> None:
    """An old program does not work on tables it does not know."""
    with pytest.raises(SchemaError, match=r"newer than this program: it has 0003_part.sql"):
        pending(FILES[:2], has(*FILES))


def test_a_hole_in_the_database_is_refused() -> None:
    """A row deleted by hand does not make its file run a second time."""
    with pytest.raises(SchemaError, match=r"has 0003_part\.sql but not number 0002"):
        pending(FILES, has(FILES[0], FILES[2]))
