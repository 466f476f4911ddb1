"""docs/tables.md names every table and column there is, and its queries run."""

from __future__ import annotations

import re

import pytest

from shared.mysql import Pool
from tests.documents import ROOT, blocks
from tests.integration.expected_schema import TABLES
from tests.plays import rows

PAGE = ROOT / "docs" / "tables.md"
#: What describes a table and is no column of it.
_NO_COLUMN = ("unique ", "index ", "chk_", "fk_")
QUERIES = [block.text for block in blocks(PAGE) if block.text.startswith("SELECT")]


def test_every_table_and_column_is_explained() -> None:
    """What is not there is not explained either."""
    _, *sections = re.split(r"^### `(\w+)`$", PAGE.read_text(), flags=re.MULTILINE)
    told = dict(zip(sections[::2], sections[1::2], strict=True))

    known = {line.split()[0] for lines in TABLES.values() for line in lines} | set(TABLES)
    assert set(TABLES) == set(told)
    for table, lines in TABLES.items():
        columns = {line.split()[0] for line in lines if not line.startswith(_NO_COLUMN)}
        own = re.split(r"^## ", told[table], flags=re.MULTILINE)[0]
        named = set(re.findall(r"`(\w+)`", own))
        assert columns <= named, (table, columns - named)
        assert named <= known, (table, named - known)


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
async def test_every_query_of_the_page_runs(pool: Pool, query: str) -> None:
    """As it is typed there."""
    await rows(pool, query.strip().rstrip(";").replace("%", "%%"))  # the driver's own sign
