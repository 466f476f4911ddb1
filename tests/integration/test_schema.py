"""Databases made by the schema's runner, on a real server."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ops.mysql_server import MysqlServer
from ops.servers import free_port
from schema import check, database, expected_version, files, ledger, migrate, runner
from shared.errors import SchemaError
from shared.mysql import Cursor, Pool, open_mysql, reading
from shared.settings import Settings
from tests.databases import admin
from tests.integration.expected_schema import TABLES
from tests.integration.live_schema import describe
from tests.servers import to_environ

pytestmark = pytest.mark.integration

NAMES = [file.name for file in files.load()]


@pytest.fixture(name="empty")
async def _empty(settings: Settings) -> AsyncIterator[Pool]:
    """A pool on the database of `settings`, which holds nothing."""
    async with open_mysql(settings) as pool:
        yield pool


@pytest.fixture(name="cursor")
async def _cursor(empty: Pool) -> AsyncIterator[Cursor]:
    """A cursor in the database of `settings`, which holds nothing."""
    async with reading(empty) as cursor:
        yield cursor


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Path:
    """A copy of the real SQL files, free to be changed."""
    for name in NAMES:
        shutil.copy(files.SQL_DIRECTORY / name, tmp_path)
    return tmp_path


def silent(_line: str) -> None:
    """Report to nobody."""


async def rows_of(cursor: Cursor, query: str) -> list[tuple[object, ...]]:
    await cursor.execute(query)
    return list(await cursor.fetchall())


async def wait_for_session(cursor: Cursor, statement: str) -> int:
    """The id of the session that is at work on *statement*, as soon as there is one."""
    async with asyncio.timeout(20):
        while True:
            await cursor.execute("SHOW FULL PROCESSLIST")
            for session in await cursor.fetchall():
                if str(session[7]).startswith(statement):
                    return int(session[0])


async def test_all_files_together_make_the_expected_tables(
    settings: Settings, cursor: Cursor
) -> None:
    """Every table, column, type, default, key and check is what the program relies on."""
    assert NAMES == await migrate(settings, silent)

    assert TABLES == await describe(cursor)


async def test_no_statement_leaves_a_warning(cursor: Cursor) -> None:
    """The files are clean SQL for this server: nothing deprecated, nothing cut."""
    warnings = []
    for file in files.load():
        for statement in file.statements:
            await cursor.execute(statement)
            warnings += await rows_of(cursor, "SHOW WARNINGS")

    assert [] == warnings


async def test_the_runner_itself_leaves_no_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a first nor a second run makes the driver log a server warning."""
    await migrate(settings, silent)
    await migrate(settings, silent)

    assert [] == [record.getMessage() for record in caplog.records]


async def test_both_configurations_are_there_once(settings: Settings, cursor: Cursor) -> None:
    """The rows a front end expects to find exist from the start."""
    await migrate(settings, silent)

    assert [(1, "main_config", "{}")] == await rows_of(
        cursor, "SELECT id, config_key, config_value FROM admin_configs"
    )
    assert [(1, 1, 100, 300, "week")] == await rows_of(
        cursor,
        "SELECT id, enabled, reward_points, redeem_threshold, card_key_type"
        " FROM invitation_configs",
    )


async def test_names_that_differ_by_case_are_different(settings: Settings, cursor: Cursor) -> None:
    """The server keeps apart what the program keeps apart."""
    await migrate(settings, silent)

    for name in ("ann", "Ann", "änn"):
        await cursor.execute(
            "INSERT INTO users (username, password_hash) VALUES (%s, '!')", (name,)
        )

    assert [("ann",)] == await rows_of(cursor, "SELECT username FROM users WHERE username = 'ann'")


async def test_a_second_run_has_nothing_to_do(settings: Settings, cursor: Cursor) -> None:
    """It says so, and leaves alone what was changed meanwhile."""
    await migrate(settings, silent)
    await cursor.execute("UPDATE invitation_configs SET reward_points = 7")
    told: list[str] = []

    assert [] == await migrate(settings, told.append)

    version = expected_version()
    assert [f"database {settings.mysql_database} is at version {version}: nothing to do"] == told
    assert [(7,)] == await rows_of(cursor, "SELECT reward_points FROM invitation_configs")


async def test_each_applied_file_is_told_and_entered(settings: Settings, cursor: Cursor) -> None:
    """One line a file; the database remembers number, name and checksum."""
    told: list[str] = []

    await migrate(settings, told.append)

    assert NAMES == [line.split(" applied: ")[0] for line in told]
    assert [(file.version, file.name, file.checksum) for file in files.load()] == await rows_of(
        cursor, "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
    )


async def test_an_edited_file_is_refused_by_name(
    settings: Settings, cursor: Cursor, copy: Path
) -> None:
    """Nothing runs and nobody starts as long as a file is not what was applied."""
    await migrate(settings, silent, directory=copy)
    with (copy / NAMES[1]).open("a") as file:
        file.write("-- only a comment\n")

    with pytest.raises(SchemaError, match=f"{NAMES[1]} was edited"):
        await migrate(settings, silent, directory=copy)
    with pytest.raises(SchemaError, match=f"{NAMES[1]} was edited"):
        await check(cursor, copy)


async def test_a_new_file_is_applied_to_a_database_in_use(settings: Settings, copy: Path) -> None:
    """An upgrade runs what is new and nothing else."""
    await migrate(settings, silent, directory=copy)
    new = f"{len(NAMES) + 1:04}_more.sql"
    (copy / new).write_text("ALTER TABLE users ADD COLUMN nickname VARCHAR(50) NULL;")

    assert [new] == await migrate(settings, silent, directory=copy)


async def test_two_runners_at_once_apply_each_file_once(settings: Settings, cursor: Cursor) -> None:
    """Starting everything at the same moment is safe."""
    runs = await asyncio.gather(*(migrate(settings, silent) for _ in range(3)))

    assert NAMES == sorted(name for run in runs for name in run)
    assert TABLES == await describe(cursor)


async def test_a_runner_that_waited_in_vain_says_so(settings: Settings, cursor: Cursor) -> None:
    """A run that hangs is named instead of joined."""
    told: list[str] = []
    name = settings.mysql_database

    async with runner._sole_runner(cursor, name, silent, 0):
        with pytest.raises(SchemaError, match=f"another run still works on database {name}"):
            await migrate(settings, told.append, lock_timeout_s=0)

    assert ["another run"] == [line[:11] for line in told]


async def test_a_missing_database_is_made(settings: Settings) -> None:
    """A user who may make databases needs no preparation; it is utf8mb4."""
    told: list[str] = []
    fresh = replace(settings, mysql_database=f"t-{secrets.token_hex(6)}")

    assert NAMES == await migrate(fresh, told.append)

    assert f"database {fresh.mysql_database} created" == told[0]
    async with open_mysql(fresh) as pool, reading(pool) as cursor:
        assert [("utf8mb4",)] == await rows_of(cursor, "SELECT @@character_set_database")
        await cursor.execute(f"DROP DATABASE `{fresh.mysql_database}`")


async def test_a_database_that_somebody_else_makes_first_is_no_failure(settings: Settings) -> None:
    """Two first starts at the same moment do not trip over each other."""
    assert await database._create(settings) is False


async def test_a_user_without_rights_is_told_what_to_run(
    settings: Settings, mysql_server: MysqlServer
) -> None:
    """The administrator gets two statements to paste: they are enough, and not too much."""
    user = f"u_{secrets.token_hex(4)}"
    poor = replace(settings, mysql_user=user, mysql_password="pw", mysql_database=f"d_{user}")
    async with admin(mysql_server) as cursor:
        await cursor.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'")
        try:
            with pytest.raises(SchemaError, match="may not use") as refusal:
                await migrate(poor, silent)
            for line in str(refusal.value).splitlines()[1:]:
                await cursor.execute(line)

            assert NAMES == await migrate(poor, silent)
            with pytest.raises(SchemaError, match="may not use"):
                await migrate(replace(poor, mysql_database=f"d-{user}"), silent)
        finally:
            await cursor.execute(f"DROP USER '{user}'@'%'")
            await cursor.execute(f"DROP DATABASE IF EXISTS d_{user}")


async def test_a_refused_login_names_the_settings(settings: Settings) -> None:
    """A wrong password is not taken for a missing database."""
    with pytest.raises(SchemaError, match="MYSQL_USER, MYSQL_PASSWORD"):
        await migrate(replace(settings, mysql_password="wrong"), silent)


async def test_tables_of_another_program_are_never_taken_over(
    settings: Settings, cursor: Cursor
) -> None:
    """However often it is tried: a table of the same name is refused, not adopted."""
    await cursor.execute("CREATE TABLE users (id INT PRIMARY KEY)")

    for _ in range(2):
        with pytest.raises(SchemaError, match="give moonwake a database of its own"):
            await migrate(settings, silent)


async def test_a_failed_statement_is_shown_and_the_next_run_goes_on_with_it(
    settings: Settings, cursor: Cursor, tmp_path: Path
) -> None:
    """What ran before it in the same file is not run again, what comes after it is."""
    file = tmp_path / "0001_half.sql"
    begin = "CREATE TABLE counted (n INT);\nINSERT INTO counted VALUES (1);\n"
    file.write_text(begin + "INSERT INTO counted VALUES ('x');\nINSERT INTO counted VALUES (3);\n")
    with pytest.raises(SchemaError) as failure:
        await migrate(settings, silent, directory=tmp_path)
    message = str(failure.value)
    assert message.startswith("0001_half.sql, statement 3 of 4: ")
    assert "\nINSERT INTO counted VALUES ('x')\n" in message
    assert message.endswith("goes on with statement 3.")

    file.write_text(begin + "INSERT INTO counted VALUES (2);\nINSERT INTO counted VALUES (3);\n")
    told: list[str] = []
    await migrate(settings, told.append, directory=tmp_path)

    assert "0001_half.sql was begun earlier: going on with statement 3" == told[0]
    assert [(1,), (2,), (3,)] == await rows_of(cursor, "SELECT n FROM counted ORDER BY n")
    await check(cursor, tmp_path)


async def test_a_statement_that_has_run_cannot_be_changed_in_a_half_applied_file(
    settings: Settings, tmp_path: Path
) -> None:
    """A repaired file may differ only from the statement that failed."""
    file = tmp_path / "0001_half.sql"
    file.write_text("CREATE TABLE counted (n INT); BROKEN;")
    with pytest.raises(SchemaError, match="statement 2 of 2"):
        await migrate(settings, silent, directory=tmp_path)
    file.write_text("CREATE TABLE counted (n BIGINT); SELECT 1;")

    with pytest.raises(SchemaError, match="statement 1 of file 0001 has run in another wording"):
        await migrate(settings, silent, directory=tmp_path)


async def test_a_run_killed_inside_a_statement_is_repeated(
    settings: Settings, cursor: Cursor, tmp_path: Path
) -> None:
    """A lost connection leaves a mark; the next run finds the statement undone and does it."""
    await cursor.execute("CREATE TABLE blocker (n INT)")
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE a (n INT); ALTER TABLE blocker ADD m INT;")
    async with open_mysql(settings) as pool, reading(pool) as holder:
        await holder.execute("BEGIN")
        await holder.execute("SELECT * FROM blocker")
        run = asyncio.create_task(migrate(settings, silent, directory=tmp_path))
        await cursor.execute(f"KILL {await wait_for_session(cursor, 'ALTER TABLE blocker')}")
        with pytest.raises(SchemaError, match="it may have happened"):
            await run
        await holder.execute("COMMIT")

    with pytest.raises(SchemaError, match=r"lacks 0001_a\.sql"):
        await check(cursor, tmp_path)
    assert ["0001_a.sql"] == await migrate(settings, silent, directory=tmp_path)
    assert [] == await rows_of(cursor, "SELECT n, m FROM blocker")


async def test_a_run_killed_after_a_statement_does_not_repeat_it(
    settings: Settings, cursor: Cursor, tmp_path: Path
) -> None:
    """A statement begun and found to have happened counts as done, now or at a later run."""
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE a (n INT); ALTER TABLE a ADD m INT;")
    (file,) = files.load(tmp_path)
    await ledger.create(cursor)
    for number, statement in enumerate(file.statements, 1):
        await ledger.begin_statement(cursor, file, number)
        await cursor.execute(statement)
        if number == 1:
            await ledger.end_statement(cursor, file, number)
    await cursor.execute("RENAME TABLE a TO b")
    with pytest.raises(SchemaError, match="it may have happened"):
        await migrate(settings, silent, directory=tmp_path)
    await cursor.execute("RENAME TABLE b TO a")

    assert ["0001_a.sql"] == await migrate(settings, silent, directory=tmp_path)
    assert [] == await rows_of(cursor, "SELECT n, m FROM a")


class Crash(BaseException):
    """The process ends here, as if by SIGKILL."""


async def test_a_run_killed_between_rows_and_their_mark_leaves_neither(
    settings: Settings, cursor: Cursor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a statement that is repeated are there once: they commit with its mark."""
    await cursor.execute("CREATE TABLE counted (n INT)")
    (tmp_path / "0001_a.sql").write_text("INSERT INTO counted VALUES (1); SELECT 1;")

    async def crash(*_arguments: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "end_statement", crash)
        with pytest.raises(Crash):
            await migrate(settings, silent, directory=tmp_path)

    await migrate(settings, silent, directory=tmp_path)

    assert [(1,)] == await rows_of(cursor, "SELECT n FROM counted")


async def test_check_is_content_with_exactly_this_schema(
    settings: Settings, cursor: Cursor
) -> None:
    """A worker starts on a database that `python -m schema` has just left."""
    await migrate(settings, silent)

    await check(cursor)


async def test_check_names_what_is_missing(settings: Settings, cursor: Cursor, copy: Path) -> None:
    """A worker started before the upgrade says which files to apply, and how."""
    with pytest.raises(SchemaError, match=f"lacks {NAMES[0]}, .*run `python -m schema`"):
        await check(cursor)
    await migrate(settings, silent)
    (copy / f"{len(NAMES) + 1:04}_more.sql").write_text("SELECT 1;")

    with pytest.raises(SchemaError, match=r"lacks \d{4}_more.sql: run"):
        await check(cursor, copy)


async def test_check_refuses_a_newer_schema(settings: Settings, cursor: Cursor, copy: Path) -> None:
    """An old worker left running does not write into new tables, not even half made ones."""
    more = copy / f"{len(NAMES) + 1:04}_more.sql"
    more.write_text("CREATE TABLE more (n INT); BROKEN;")
    with pytest.raises(SchemaError, match=r"more\.sql, statement 2 of 2"):
        await migrate(settings, silent, directory=copy)
    with pytest.raises(SchemaError, match="in the middle of file"):
        await check(cursor)
    more.write_text("CREATE TABLE more (n INT);")
    await migrate(settings, silent, directory=copy)

    with pytest.raises(SchemaError, match=r"newer than this program: it has \d{4}_more.sql"):
        await check(cursor)


async def run_command(environ: dict[str, str]) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error of `python -m schema`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "schema"),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command_says_what_it_did(settings: Settings) -> None:
    """`python -m schema` prints a line per file, and ends with 0 the second time too."""
    code, out, err = await run_command(to_environ(settings))
    again = await run_command(to_environ(settings))

    assert (0, NAMES, "") == (code, [line.split()[0] for line in out.splitlines()], err)
    assert (0, True) == (again[0], again[1].endswith("nothing to do\n"))


async def test_the_command_fails_with_a_line_for_the_operator(settings: Settings) -> None:
    """Each kind of failure has its exit code, names what to change and shows no traceback."""
    good = to_environ(settings)
    failures = [
        await run_command({**good, "MYSQL_PORT": "x", "MYSQL_HOST": ""}),
        await run_command({**good, "MYSQL_PORT": str(free_port())}),
        await run_command({**good, "MYSQL_PASSWORD": "wrong"}),
    ]

    assert [2, 3, 1] == [code for code, _, _ in failures]
    assert ["", "", ""] == [out for _, out, _ in failures]
    messages = [err.splitlines() for _, _, err in failures]
    assert [1, 1, 1] == [len(lines) for lines in messages]
    assert "MYSQL_PORT must be" in messages[0][0]
    assert "MYSQL_HOST is required" in messages[0][0]
    assert "cannot be used now" in messages[1][0]
    assert "MYSQL_USER, MYSQL_PASSWORD" in messages[2][0]
    assert "wrong" not in messages[2][0]
