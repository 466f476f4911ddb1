"""`moonwake dead-letters` and `moonwake stats`, as an operator types them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

from shared.mysql import Pool
from shared.settings import Settings
from tests.commands import moonwake
from tests.mysql_state import books
from tests.plays import add_foreign, deps_of, drain_all, rows, save
from worker.deps import Deps

ANN = 1
LETTERS = ["plays/1/1/1700000000000-1", "plays/1/1/1700000000000-2", "plays/1/1/1700000000000-3"]


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


@pytest.fixture(name="buried")
async def _buried(deps: Deps) -> Deps:
    """Three dead letters: a record that cannot be, no JSON at all, and no field d."""
    stream = deps.keys.stream("plays", ANN)
    bodies = [{"d": orjson.dumps(save("ann", index=0))}, {"d": b"{\x1b[31m"}, {"x": b"\xff"}]
    for entry_id, fields in zip(LETTERS, bodies, strict=True):
        await deps.redis.xadd(stream, fields, id=entry_id.split("/")[-1])  # type: ignore[arg-type]
    await drain_all(deps)
    return deps


async def test_list_names_each_letter_with_its_reason(buried: Deps) -> None:
    """The names can be copied into the other commands; nothing is left to markup or control."""
    listed = await moonwake(buried.settings, "dead-letters", "list")

    assert 0 == listed.exit_code
    for part in (*LETTERS, "ann", "invalid_record_data", "record.index: allowed is 1 to"):
        assert part in listed.output
    assert "3 of 3 letters" in listed.output

    few = await moonwake(buried.settings, "dead-letters", "list", "--limit", "1", "--json")
    found = orjson.loads(few.output)
    assert (3, 1) == (found["count"], len(found["letters"]))
    none = await moonwake(buried.settings, "dead-letters", "list", "--reason", "wrong_shard")
    assert "no such letters" in none.output


async def test_show_tells_everything_and_lets_no_terminal_be_driven(buried: Deps) -> None:
    """Fields are shown whole, bytes that a terminal would obey are spelled out."""
    shown = await moonwake(buried.settings, "dead-letters", "show", LETTERS[1])
    assert 0 == shown.exit_code
    assert r"{\x1b[31m" in shown.output
    assert "SHA-256:" in shown.output
    record = await moonwake(buried.settings, "dead-letters", "show", LETTERS[0])
    assert '    "index": 0,' in record.output
    raw = await moonwake(buried.settings, "dead-letters", "show", LETTERS[2], "--json")
    assert [["x", r"\xff"]] == orjson.loads(raw.output)["fields"]

    missing = await moonwake(buried.settings, "dead-letters", "show", "plays/1/1/5-0")
    assert (1, True) == (missing.exit_code, "there is no letter" in missing.output)
    wrong = await moonwake(buried.settings, "dead-letters", "show", "5-0")
    assert 2 == wrong.exit_code


async def test_a_letter_is_repaired_in_a_file_and_replayed(buried: Deps, tmp_path: Path) -> None:
    """`show --body`, an editor and `replay --body` bring the event in; a second time does not."""
    shown = await moonwake(buried.settings, "dead-letters", "show", LETTERS[0], "--body")
    file = tmp_path / "body.json"
    file.write_bytes(shown.stdout_bytes.replace(b'"index":0', b'"index":5'))
    command = ("dead-letters", "replay", LETTERS[0], "--body", str(file))

    first = await moonwake(buried.settings, *command)
    again = await moonwake(buried.settings, *command)

    assert (0, f"{LETTERS[0]}: replayed\n1 of 1 done\n") == (first.exit_code, first.output)
    assert (1, True) == (again.exit_code, "resolved before: it was replayed at" in again.output)
    assert [("ann", 5)] == await rows(
        buried.pool, "SELECT username, episode_index FROM play_records"
    )
    assert (3, 1, 2, 0) == await books(buried.pool)


async def test_a_body_may_come_from_standard_input(buried: Deps) -> None:
    """So that a script needs no file."""
    done = await moonwake(
        buried.settings,
        *("dead-letters", "replay", LETTERS[1], "--body", "-", "--json"),
        given=orjson.dumps(save("ann")),
    )

    told = {"letter": LETTERS[1], "done": True, "told": "replayed"}
    assert {"done": 1, "letters": [told]} == orjson.loads(done.stdout)


async def test_replaying_all_tells_what_is_still_refused(buried: Deps) -> None:
    """Exit code 1 says that some letters stayed dead, the lines say which and why."""
    done = await moonwake(buried.settings, "dead-letters", "replay", "--all")

    assert 1 == done.exit_code
    assert f"{LETTERS[0]}: still refused: Invalid record data: record.index" in done.output
    assert "0 of 3 done" in done.output


async def test_discarding_all_asks_first(buried: Deps) -> None:
    """Letters given up cannot be replayed any more, so a slip of the finger does nothing."""
    command = ("dead-letters", "discard", "--all", "--reason", "missing_field")
    refused = await moonwake(buried.settings, *command, given=b"n\n")
    assert 1 == refused.exit_code
    assert [("dead", 3)] == await rows(
        buried.pool, "SELECT state, COUNT(*) FROM dead_letters GROUP BY state"
    )

    done = await moonwake(buried.settings, *command, "--yes")

    assert (0, True) == (done.exit_code, "1 of 1 done" in done.output)
    assert [(LETTERS[2].split("/")[-1],)] == await rows(
        buried.pool, "SELECT entry_id FROM dead_letters WHERE state = 'discarded'"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", LETTERS[0], "--all"),
        ("replay", LETTERS[0], "--shard", "1"),
        ("replay", "--all", "--body", "-"),
        ("replay", LETTERS[0], LETTERS[1], "--body", "-"),
        ("discard",),
        ("list", "--state", "gone"),
    ],
)
async def test_an_unclear_choice_is_refused(migrated: Settings, arguments: tuple[str, ...]) -> None:
    """Nothing is guessed about which letters are meant."""
    assert 2 == (await moonwake(migrated, "dead-letters", *arguments)).exit_code


async def test_a_server_that_does_not_answer_ends_the_command_with_2(migrated: Settings) -> None:
    """A script can tell 'try again' from 'some stayed dead'."""
    nowhere = replace(migrated, mysql_port=1)

    done = await moonwake(nowhere, "dead-letters", "list")

    assert (2, True) == (done.exit_code, "MySQL" in done.output)


async def test_a_database_of_another_shard_count_is_refused(buried: Deps) -> None:
    """A replay under the wrong fence would race with the drain."""
    first = await moonwake(buried.settings, "dead-letters", "replay", LETTERS[0])
    assert 1 == first.exit_code

    other = replace(buried.settings, shards=3)
    done = await moonwake(other, "dead-letters", "replay", LETTERS[0])

    assert (2, True) == (done.exit_code, "SHARDS" in done.output)


async def test_stats_are_rebuilt_within_the_days_given(deps: Deps) -> None:
    """`stats rebuild` repairs its days and says how many there were."""
    await add_foreign(
        deps.settings,
        deps.redis,
        [(f"{1_700_000_000_000 + n * 86_400_000}-0", save("ann")) for n in range(4)],
    )
    await drain_all(deps)
    days = ("--from", "2023-11-16", "--to", "2023-11-17")

    done = await moonwake(deps.settings, "stats", "rebuild", *days)
    assert 0 == done.exit_code
    assert "days computed anew: 2 (2023-11-16 to 2023-11-17)" in done.output
    every = await moonwake(deps.settings, "stats", "rebuild", "--json")
    run = orjson.loads(every.stdout)
    assert (4, 4, "ok") == (run["days"], run["rows"], run["outcome"])
    assert [(4,)] == await rows(deps.pool, "SELECT COUNT(*) FROM play_stats_daily")
    none = await moonwake(deps.settings, "stats", "rebuild", "--to", "2001-01-01")
    assert (0, True) == (none.exit_code, "nothing to compute" in none.output)
    wrong = await moonwake(
        deps.settings, "stats", "rebuild", "--from", "2024-02-01", "--to", "2024-01-01"
    )
    assert 2 == wrong.exit_code
