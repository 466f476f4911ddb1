"""What is rendered into statements is what the server reads."""

from __future__ import annotations

import pytest

from shared.mysql import Pool, reading
from shared.times import datetime_text
from worker.sql import select_joined

#: Every character that either server or JSON treats in its own way, and all its neighbours.
CHARACTERS = [chr(code) for code in (*range(0x300), 0x2028, 0x3000, 0xFEFF, 0xFFFD, 0x1F319)]
WORDS = [
    *("", " ", "NULL", "null", "it's", '"quoted"', "a\\", "\\'", '\\"', "\\u0041", "\\f", "\\%"),
    *("],[", "[[", "]]", ")),((", '"],["', "),(", "-- ", "/* */", ";", "%s", "{new}", "月亮"),
    '{"note":[["a"],["b"]],"text":"\\u001f\\n"}',
]


async def echo(pool: Pool, texts: list[str | None]) -> list[str | None]:
    """*texts* as the server understood them."""
    rows = list(enumerate(texts))
    async with reading(pool) as cursor:
        found = dict(await select_joined(cursor, ("n", "x"), rows, "SELECT k.n, k.x FROM k"))
    return [found[number] for number, _ in rows]


@pytest.mark.parametrize("around", ["{}", "a{}b", "],[{}", "\x1f{}"])
async def test_every_character_arrives_as_it_is(pool: Pool, around: str) -> None:
    """
    Whichever way the rows are rendered, and whatever stands beside a character.
    """
    texts = [around.format(character) for character in CHARACTERS]

    assert texts == await echo(pool, [*texts])


async def test_every_character_arrives_alone(pool: Pool) -> None:
    """
    No row takes another's way of being rendered for its own.
    """
    for text in (*CHARACTERS[:0x100], *WORDS):
        assert [text] == await echo(pool, [text])


async def test_texts_that_look_like_sql_or_json_arrive_as_they_are(pool: Pool) -> None:
    """
    Also beside NULL, which is no text.
    """
    texts = [*WORDS, None, *WORDS]

    assert texts == await echo(pool, texts)


async def test_long_rows_arrive_in_several_statements(pool: Pool) -> None:
    """
    Nine megabytes of rows are more than one statement takes; none is lost or moved.
    """
    texts: list[str | None] = [f"{number}" + "月" * 30_000 for number in range(100)]

    assert texts == await echo(pool, texts)


@pytest.mark.parametrize("ms", [0, 1, 59_999, 60_000, 1_700_000_000_123, 253_402_300_799_999])
async def test_a_time_is_read_to_the_millisecond(pool: Pool, ms: int) -> None:
    """
    From 1970 to the last millisecond of the year 9999.
    """
    async with reading(pool) as cursor:
        await cursor.execute(
            "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', CAST(%s AS DATETIME(3)))"
            " / 1000 AS SIGNED)",
            (datetime_text(ms),),
        )
        ((found,),) = await cursor.fetchall()

    assert ms == found
