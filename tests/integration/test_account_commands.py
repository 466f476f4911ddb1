"""`moonwake users`, `cardkeys` and `points`, as an operator types them."""

from __future__ import annotations

import asyncio
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from ops.audit import audit
from shared import events
from shared.accounts import card_keys, memberships, passwords, points, users
from shared.accounts.sessions import Sessions
from shared.instance import fix_shard_count
from shared.keys import Keys, shard_of
from shared.mysql import Pool, reading, transaction
from shared.redis import open_redis
from shared.settings import Settings
from shared.times import DAY_MS, now_ms
from tests.commands import moonwake
from tests.plays import add_foreign, deps_of, drain_all, rows, save
from tests.servers import to_environ

OWNER = "admin"
STRANGE = "李小龍 \x1b[31mred"


async def _add(settings: Settings, name: str, *options: str) -> None:
    done = await moonwake(
        settings, "users", "add", name, "--password-stdin", *options, given=b"correct horse\n"
    )
    assert 0 == done.exit_code, done.output


async def _json(settings: Settings, *arguments: str) -> Any:
    done = await moonwake(settings, *arguments, "--json")
    assert 0 == done.exit_code, done.output
    return orjson.loads(done.stdout)


async def _play_only(pool: Pool, name: str) -> None:
    async with transaction(pool) as cursor:
        await cursor.execute(
            "INSERT INTO users (username, password_hash) VALUES (%s, '!')", (name,)
        )


async def _verdict(pool: Pool, name: str, password: str) -> bool:
    async with reading(pool) as cursor:
        user = await users.find(cursor, name)
    assert user is not None
    return (await passwords.verify(password, user.password_hash)).right


def _sessions(settings: Settings, redis: Redis) -> Sessions:
    return Sessions.of(redis, settings)


@pytest.fixture(name="clean", autouse=True)
async def _clean(pool: Pool) -> Any:
    """Whatever a command did, the tables agree with each other."""
    yield
    assert [] == await audit(pool, OWNER)


# --- users ----------------------------------------------------------------------


async def test_the_first_admin_is_one_command(migrated: Settings, pool: Pool) -> None:
    """The password is typed twice and never shown; the account is whole."""
    done = await moonwake(
        migrated, "users", "add", "ann", "--role", "admin", given=b"correct horse\ncorrect horse\n"
    )

    assert 0 == done.exit_code
    assert done.output.endswith("ann is there now, as admin\n")
    assert "correct horse" not in done.output
    assert [("ann", "admin", 0)] == await rows(
        pool, "SELECT username, role, balance FROM users JOIN user_points USING (username)"
    )
    assert await _verdict(pool, "ann", "correct horse")


async def test_a_password_may_come_from_standard_input(migrated: Settings, pool: Pool) -> None:
    """One line of it, without what ends the line; more than a line is a mistake."""
    for name, given in (("ann", b"one\r\n"), ("ben", b"one"), ("cas", b" one \n")):
        done = await moonwake(migrated, "users", "add", name, "--password-stdin", given=given)
        assert 0 == done.exit_code
    assert await _verdict(pool, "ann", "one")
    assert await _verdict(pool, "ben", "one")
    assert await _verdict(pool, "cas", " one ")

    for wrong in (b"", b"\n", b"one\ntwo\n", b"\xff\n"):
        done = await moonwake(migrated, "users", "add", "dee", "--password-stdin", given=wrong)
        assert (2, True) == (done.exit_code, "one line of UTF-8" in done.output)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ANN", "differs by case only"),
        ("ann", "differs by case only"),
        ("x", "username: allowed is 3 to 20"),
        (OWNER.upper(), "the site's owner"),
    ],
)
async def test_a_name_that_cannot_be_is_refused(migrated: Settings, name: str, told: str) -> None:
    """The reason is told in words, and nothing was made."""
    await _add(migrated, "ann")

    done = await moonwake(migrated, "users", "add", name, "--password-stdin", given=b"secret\n")

    assert 1 == done.exit_code
    assert told in done.stderr.replace("\n", " ")
    assert ["ann"] == [
        user["username"] for user in (await _json(migrated, "users", "list"))["users"]
    ]


async def test_list_shows_whom_no_terminal_should_obey(migrated: Settings, pool: Pool) -> None:
    """Names of older sites hold anything; pages hold fifty."""
    await _play_only(pool, STRANGE)
    await _add(migrated, "ann", "--role", "admin")
    await moonwake(migrated, "users", "ban", "ann")
    listed = await moonwake(migrated, "users", "list")
    assert 0 == listed.exit_code
    assert "\x1b" not in listed.output
    for part in (r"李小龍 \x1b[31mred", "ann", "admin", "banned", "2 of 2 users"):
        assert part in listed.output

    async with transaction(pool) as cursor:
        await cursor.executemany(
            "INSERT INTO users (username, password_hash) VALUES (%s, '!')",
            [(f"user{n:02d}",) for n in range(60)],
        )
    second = await moonwake(migrated, "users", "list", "--page", "2")
    assert "12 of 62 users, page 2 of 2" in second.output
    beyond = await moonwake(migrated, "users", "list", "--page", "3")
    assert "nothing on page 3, there are 62" in beyond.output


async def test_show_tells_what_is_known_and_no_secret(migrated: Settings, pool: Pool) -> None:
    """Role, points, membership and keys; never a hash or a token."""
    await _add(migrated, "ann")
    [key] = await _json(migrated, "cardkeys", "generate", "--type", "week")
    async with transaction(pool) as cursor:
        await memberships.bind(cursor, "ann", key["key"], now_ms())
        await users.set_tvbox_token(cursor, "ann", "tok-en")
    await moonwake(migrated, "users", "link-oidc", "ann", "sub-1")

    shown = await moonwake(migrated, "users", "show", "ann")

    assert 0 == shown.exit_code
    for part in ("role:       user", "password, login provider (sub-1)", "points:     0", "1 used"):
        assert part in shown.output
    found = await _json(migrated, "users", "show", "ann")
    assert (True, True, key["expires_at"], [key["key"]]) == (
        found["has_password"],
        found["has_tvbox_token"],
        found["membership"]["expires_at"],
        [held["key"] for held in found["card_keys"]],
    )
    for output in (shown.output, str(found)):
        assert "argon2" not in output
        assert "tok-en" not in output
    missing = await moonwake(migrated, "users", "show", "nobody")
    assert (1, "moonwake: there is no such user\n") == (missing.exit_code, missing.stderr)


async def test_a_new_password_ends_all_sessions(
    migrated: Settings, pool: Pool, redis: Redis
) -> None:
    """Whoever knew the old one is out; somebody who never had one gets an account too."""
    await _play_only(pool, "ann")
    sessions = _sessions(migrated, redis)
    tokens = [await sessions.begin("ann"), await sessions.begin("ann"), await sessions.begin("ben")]

    done = await moonwake(
        migrated, "users", "reset-password", "ann", "--password-stdin", given=b"new one\n"
    )

    assert (0, True) == (done.exit_code, "all their sessions ended" in done.output)
    assert [None, None, "ben"] == [await sessions.username_of(token) for token in tokens]
    assert await _verdict(pool, "ann", "new one")
    assert [("ann",)] == await rows(pool, "SELECT username FROM user_points")


@pytest.mark.parametrize(
    "arguments",
    [
        ("reset-password", OWNER, "--password-stdin"),
        ("ban", OWNER),
        ("delete", OWNER, "--yes"),
        ("role", OWNER, "user"),
        ("reset-password", "nobody", "--password-stdin"),
        ("ban", "nobody"),
        ("unban", "nobody"),
        ("delete", "nobody", "--yes"),
        ("role", "nobody", "admin"),
        ("link-oidc", "nobody", "sub-1"),
        ("unlink-oidc", "nobody"),
    ],
)
async def test_the_owner_and_nobody_are_left_alone(
    migrated: Settings, pool: Pool, arguments: tuple[str, ...]
) -> None:
    """What the environment says of the owner no command changes."""
    async with reading(pool) as cursor:
        await users.ensure_owner(cursor, OWNER)

    done = await moonwake(migrated, "users", *arguments, given=b"secret\n")

    assert 1 == done.exit_code
    assert done.stderr.startswith("moonwake: ")
    assert [(OWNER, "!", "owner", 0)] == await rows(
        pool, "SELECT username, password_hash, role, banned FROM users"
    )
    assert [] == await rows(pool, "SELECT * FROM barred_users")


async def test_a_ban_reaches_both_stores_and_is_lifted(
    migrated: Settings, pool: Pool, redis: Redis
) -> None:
    """MySQL decides, Redis tells every front at once; the sessions are over."""
    await _add(migrated, "ann")
    sessions, keys = _sessions(migrated, redis), Keys(migrated.key_prefix)
    token = await sessions.begin("ann")

    assert 0 == (await moonwake(migrated, "users", "ban", "ann")).exit_code
    assert [("ann", "banned")] == await rows(pool, "SELECT username, reason FROM barred_users")
    assert {b"ann"} == await redis.smembers(keys.barred("banned"))  # type: ignore[misc]
    assert None is await sessions.username_of(token)
    assert [] == await audit(pool, OWNER)

    assert 0 == (await moonwake(migrated, "users", "unban", "ann")).exit_code
    assert [] == await rows(pool, "SELECT * FROM barred_users")
    assert set() == await redis.smembers(keys.barred("banned"))  # type: ignore[misc]


async def test_a_ban_counts_without_redis(migrated: Settings, pool: Pool) -> None:
    """The fronts see it in MySQL; whoever typed it is told that Redis was not."""
    await _add(migrated, "ann")
    alone = replace(migrated, redis_url="redis://127.0.0.1:1/0", arq_redis_url="")

    for command, barred in (
        (("ban", "ann"), [("ann", "banned")]),
        (("delete", "ann", "--yes"), [("ann", "deleted")]),
    ):
        done = await moonwake(alone, "users", *command)
        assert (0, True) == (done.exit_code, "Redis was not told" in done.stderr)
        assert barred == await rows(pool, "SELECT username, reason FROM barred_users")


async def test_standard_output_is_the_answer_alone(migrated: Settings, pool: Pool) -> None:
    """As a program of its own: warnings and logs go where a script does not read."""
    await _add(migrated, "ann")
    alone = replace(migrated, redis_url="redis://127.0.0.1:1/0", arq_redis_url="")
    program = "from ops.cli import app; app()"

    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "users", "ban", "ann"),
        env=to_environ(alone),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, warned = await done.communicate()

    assert (0, b"ann is banned\n") == (done.returncode, told)
    assert b"Redis was not told" in warned


@pytest.mark.parametrize(
    "command", [("reset-password", "ann", "--password-stdin"), ("unban", "ann"), ("logout", "ann")]
)
async def test_what_must_end_sessions_changes_nothing_without_redis(
    migrated: Settings, pool: Pool, command: tuple[str, ...]
) -> None:
    """Exit code 2: an old session would outlive the old password, or be back after the ban."""
    await _add(migrated, "ann")
    await moonwake(migrated, "users", "ban", "ann")
    alone = replace(migrated, redis_url="redis://127.0.0.1:1/0", arq_redis_url="")

    done = await moonwake(alone, "users", *command, given=b"new one\n")

    assert (2, True) == (done.exit_code, "Redis" in done.stderr)
    assert not await _verdict(pool, "ann", "new one")
    assert [("ann", "banned")] == await rows(pool, "SELECT username, reason FROM barred_users")


async def test_an_unban_ends_what_a_ban_without_redis_left(
    migrated: Settings, redis: Redis
) -> None:
    """They log in anew."""
    await _add(migrated, "ann")
    await moonwake(migrated, "users", "ban", "ann")
    token = await _sessions(migrated, redis).begin("ann")

    assert 0 == (await moonwake(migrated, "users", "unban", "ann")).exit_code
    assert None is await _sessions(migrated, redis).username_of(token)


async def test_a_deleted_users_name_is_given_again_only_if_told_so(
    migrated: Settings, pool: Pool
) -> None:
    """Where LunaTV's cookie is no login it is safe as it is."""
    await _add(migrated, "ann")
    delete = ("users", "delete", "ann", "--yes")
    await moonwake(migrated, *delete)
    add = ("users", "add", "ann", "--password-stdin")

    refused = await moonwake(migrated, *add, given=b"another\n")
    assert (1, True) == (refused.exit_code, "--reuse-name" in refused.stderr)
    assert [] == await rows(pool, "SELECT username FROM users")
    await _add(migrated, "ann", "--reuse-name")
    await moonwake(migrated, *delete)
    await _add(replace(migrated, accept_lunatv_cookie=False), "ann")
    assert [] == await rows(pool, "SELECT username FROM barred_users")


async def test_an_owner_whose_name_was_deleted_once_is_let_in_by_hand(
    migrated: Settings, pool: Pool
) -> None:
    """And told what that means for the former user's cookie."""
    await _add(migrated, "ann")
    await moonwake(migrated, "users", "delete", "ann", "--yes")
    owned = replace(migrated, username="ann")

    done = await moonwake(owned, "users", "unban", "ann")

    assert (0, True) == (done.exit_code, "PASSWORD is changed" in done.stderr)
    assert [("ann", "owner")] == await rows(pool, "SELECT username, role FROM users")
    assert [] == await audit(pool, "ann")
    await moonwake(migrated, "users", "role", "ann", "user")  # USERNAME is as it was again


async def test_delete_asks_and_takes_everything(
    migrated: Settings, pool: Pool, redis: Redis
) -> None:
    """Also what is played and not yet in MySQL: a new user of the name finds none of it."""
    await _add(migrated, "ann")
    deps = deps_of(replace(migrated, flush_interval_ms=0), redis, pool)
    await add_foreign(migrated, redis, [("1700000000000-0", save("ann"))])
    await drain_all(deps)
    kept = await moonwake(migrated, "users", "delete", "ann", given=b"n\n")
    assert 1 == kept.exit_code
    assert [("ann",)] == await rows(pool, "SELECT username FROM play_records")

    done = await moonwake(migrated, "users", "delete", "ann", "--yes")

    assert (0, "ann is deleted\n") == (done.exit_code, done.output)
    for table in ("users", "user_points", "play_records"):
        assert [] == await rows(pool, f"SELECT username FROM {table}")
    assert {b"ann"} == await redis.smembers(Keys(migrated.key_prefix).barred("deleted"))  # type: ignore[misc]
    await drain_all(deps)
    assert [] == await audit(pool, OWNER)

    await _add(migrated, "ann", "--reuse-name")
    assert set() == await redis.smembers(Keys(migrated.key_prefix).barred("deleted"))  # type: ignore[misc]
    assert [] == await rows(pool, "SELECT * FROM barred_users")


async def test_what_a_deleted_user_played_is_cleared_behind_them(
    migrated: Settings, redis: Redis
) -> None:
    """Once when they go, once more before somebody gets the name: entries may come in between."""
    stream = Keys(migrated.key_prefix).stream("plays", shard_of("ann", migrated.shards))
    clear = events.encode_clear("ann")

    async def cleared() -> int:
        return sum(clear in fields for _, fields in await redis.xrange(stream))

    await _add(migrated, "ann")
    assert 0 == await cleared()
    await moonwake(migrated, "users", "delete", "ann", "--yes")
    assert 1 == await cleared()
    left_behind = await _sessions(migrated, redis).begin("ann")
    await _add(migrated, "ann", "--reuse-name")
    assert 2 == await cleared()
    assert None is await _sessions(migrated, redis).username_of(left_behind)


async def test_adding_a_banned_users_name_again_harms_them_in_nothing(
    migrated: Settings, redis: Redis
) -> None:
    """It is refused, and what they played stays."""
    await _add(migrated, "ann")
    await moonwake(migrated, "users", "ban", "ann")
    refused = await moonwake(
        migrated, "users", "add", "ann", "--password-stdin", given=b"password\n"
    )

    assert 1 == refused.exit_code
    assert [] == await redis.keys(f"{migrated.key_prefix}*:plays")


async def test_the_role_is_the_operators_to_give(migrated: Settings, pool: Pool) -> None:
    """Admin and back; nothing else can be given."""
    await _add(migrated, "ann")
    assert (
        "ann is admin now\n" == (await moonwake(migrated, "users", "role", "ann", "admin")).output
    )
    assert [("admin",)] == await rows(pool, "SELECT role FROM users")
    assert 0 == (await moonwake(migrated, "users", "role", "ann", "user")).exit_code
    assert [("user",)] == await rows(pool, "SELECT role FROM users")
    assert 2 == (await moonwake(migrated, "users", "role", "ann", "owner")).exit_code


async def test_a_subject_belongs_to_one_user(migrated: Settings, pool: Pool) -> None:
    """A second user of the same one is refused, until the first lets go."""
    await _add(migrated, "ann")
    await _add(migrated, "ben")
    assert 0 == (await moonwake(migrated, "users", "link-oidc", "ann", "sub-1")).exit_code
    taken = await moonwake(migrated, "users", "link-oidc", "ben", "sub-1")
    assert (1, True) == (taken.exit_code, "linked to another user" in taken.stderr)
    assert 2 == (await moonwake(migrated, "users", "link-oidc", "ben", "x" * 256)).exit_code

    assert 0 == (await moonwake(migrated, "users", "unlink-oidc", "ann")).exit_code
    assert 0 == (await moonwake(migrated, "users", "link-oidc", "ben", "sub-1")).exit_code
    assert [("ann", None), ("ben", "sub-1")] == await rows(
        pool, "SELECT username, oidc_sub FROM users ORDER BY username"
    )


@pytest.mark.parametrize("name", ["", "x" * 51, "ann ", "a\nb", "\udcff"])
async def test_a_name_nobody_can_have_is_refused(migrated: Settings, name: str) -> None:
    """Before anything is asked."""
    assert 2 == (await moonwake(migrated, "users", "ban", name)).exit_code


# --- card keys ------------------------------------------------------------------


async def test_keys_are_printed_one_per_line(migrated: Settings, pool: Pool) -> None:
    """For a pipe: nothing else is on standard output."""
    done = await moonwake(migrated, "cardkeys", "generate", "--type", "month", "--count", "3")

    assert 0 == done.exit_code
    assert "3 keys, until 20" in done.stderr
    stored = await rows(
        pool, "SELECT plain_key, key_type, source, status FROM card_keys ORDER BY id"
    )
    assert [(key, "month", "admin_created", "unused") for key in done.stdout.splitlines()] == stored


async def test_keys_are_written_to_a_private_file(migrated: Settings, tmp_path: Path) -> None:
    """Only the operator reads it; one that is there is never replaced."""
    file = tmp_path / "keys.csv"
    command = ("cardkeys", "generate", "--type", "week", "--count", "2", "--csv")

    done = await moonwake(migrated, *command, str(file))

    assert (0, True) == (done.exit_code, "2 keys written to" in done.output)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    lines = file.read_text(encoding="ascii").splitlines()
    assert ["key,type,status,created,expires,bound to,bound,source", 3] == [lines[0], len(lines)]
    for wrong in (str(file), str(tmp_path / "no" / "keys.csv")):
        assert 2 == (await moonwake(migrated, *command, wrong)).exit_code
    assert 2 == (await _json(migrated, "cardkeys", "list"))["count"]

    piped = await moonwake(migrated, *command, "-")
    assert piped.stdout_bytes.startswith(b"key,")


async def test_a_file_that_fails_after_all_loses_no_key(
    migrated: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are stored before they are written, and the message says where they are."""

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ops.cardkeys.write_private", full)

    done = await moonwake(
        migrated, "cardkeys", "generate", "--type", "week", "--csv", str(tmp_path / "keys.csv")
    )

    assert (1, True) == (done.exit_code, "moonwake cardkeys list" in done.stderr)
    assert 1 == (await _json(migrated, "cardkeys", "list"))["count"]


async def test_keys_are_listed_by_what_is_asked(migrated: Settings, pool: Pool) -> None:
    """By status, type and whom they are bound to."""
    await _add(migrated, "ann")
    [week] = await _json(migrated, "cardkeys", "generate", "--type", "week")
    [year] = await _json(migrated, "cardkeys", "generate", "--type", "year")
    async with transaction(pool) as cursor:
        await memberships.bind(cursor, "ann", week["key"], now_ms())

    async def keys(*options: str) -> list[str]:
        found = await _json(migrated, "cardkeys", "list", *options)
        return [each["key"] for each in found["keys"]]

    assert [year["key"], week["key"]] == await keys()
    assert [year["key"]] == await keys("--status", "unused")
    assert [year["key"]] == await keys("--type", "year")
    assert [week["key"]] == await keys("--bound-to", "ann")
    assert [] == await keys("--type", "month")
    listed = await moonwake(migrated, "cardkeys", "list")
    for part in (week["key"], year["key"], "used", "ann", "2 of 2 card keys"):
        assert part in listed.output
    await moonwake(migrated, "users", "delete", "ann", "--yes")
    assert "(deleted)" in (await moonwake(migrated, "cardkeys", "list")).output
    assert 2 == (await moonwake(migrated, "cardkeys", "list", "--status", "lost")).exit_code


async def test_only_unbound_keys_are_deleted(migrated: Settings, pool: Pool) -> None:
    """By the key or by its hash, after a question."""
    await _add(migrated, "ann")
    made = await _json(migrated, "cardkeys", "generate", "--type", "week", "--count", "3")
    async with transaction(pool) as cursor:
        await memberships.bind(cursor, "ann", made[0]["key"], now_ms())

    asked = await moonwake(migrated, "cardkeys", "delete", made[1]["key"], given=b"n\n")
    bound = await moonwake(migrated, "cardkeys", "delete", made[0]["key"], "--yes")
    by_key = await moonwake(migrated, "cardkeys", "delete", made[1]["key"], "--yes")
    by_hash = await moonwake(migrated, "cardkeys", "delete", made[2]["key_hash"], "--yes")
    gone = await moonwake(migrated, "cardkeys", "delete", made[1]["key"], "--yes")

    assert [1, 1, 0, 0, 1] == [each.exit_code for each in (asked, bound, by_key, by_hash, gone)]
    assert "it cannot be deleted" in bound.stderr
    assert "no such card key" in gone.stderr
    assert [(made[0]["key"],)] == await rows(pool, "SELECT plain_key FROM card_keys")


async def test_clean_up_removes_what_nobody_bound_in_time(migrated: Settings, pool: Pool) -> None:
    """Fresh keys stay."""
    await _json(migrated, "cardkeys", "generate", "--type", "week")
    async with transaction(pool) as cursor:
        old = card_keys.new_keys("week", 2, "admin_created", now_ms() - 8 * DAY_MS)
        await card_keys.insert(cursor, old)

    done = await moonwake(migrated, "cardkeys", "clean-up")

    assert (0, "expired card keys removed: 2\n") == (done.exit_code, done.output)
    assert {"removed": 0} == await _json(migrated, "cardkeys", "clean-up")
    assert 1 == (await _json(migrated, "cardkeys", "list"))["count"]


# --- points ---------------------------------------------------------------------


async def test_points_are_given_and_taken_with_a_reason(migrated: Settings) -> None:
    """The owner does it unless somebody else is named; the history has all of it."""
    await _add(migrated, "ann")
    await _add(migrated, "ben", "--role", "admin")

    given = await moonwake(migrated, "points", "adjust", "ann", "1500", "--reason", "生日快乐")
    taken = await moonwake(
        migrated, "points", "adjust", "ann", "-20", "--reason", "oops", "--as", "ben"
    )

    assert ["ann has 1,500 points now\n", "ann has 1,480 points now\n"] == [
        given.output,
        taken.output,
    ]
    shown = await moonwake(migrated, "points", "show", "ann")
    assert "ann has 1,480 points (earned 0, redeemed 0, adjusted +1,480)\n" == shown.output
    found = await _json(migrated, "points", "history", "ann")
    assert [(-20, "oops", "ben"), (1500, "生日快乐", OWNER)] == [
        (each["amount"], each["reason"], each["admin_username"]) for each in found["records"]
    ]
    listed = await moonwake(migrated, "points", "history", "ann")
    for part in ("+1,500", "生日快乐", "-20", "adjusted", "ben", "2 of 2 changes"):
        assert part in listed.output
    assert 1480 == (await _json(migrated, "points", "show", "ann"))["balance"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("ann", "-1", "--reason", "x"), 1),
        (("nobody", "5", "--reason", "x"), 1),
        (("ann", "5", "--reason", "x", "--as", "nobody"), 1),
        (("ann", "0", "--reason", "x"), 2),
        (("ann", "1.5", "--reason", "x"), 2),
        (("ann", "1000001", "--reason", "x"), 2),
        (("ann", "-1000001", "--reason", "x"), 2),
        (("ann", "5"), 2),
        (("ann", "5", "--reason", "  "), 2),
        (("ann", "5", "--reason", "x" * 201), 2),
        (("ann", "5", "--raeson", "x"), 2),
    ],
)
async def test_points_that_cannot_be_are_refused(
    migrated: Settings, pool: Pool, arguments: tuple[str, ...], status: int
) -> None:
    """And nothing was changed."""
    await _add(migrated, "ann")

    done = await moonwake(migrated, "points", "adjust", *arguments)

    assert (status, "") == (done.exit_code, done.stdout)
    assert [] == await rows(pool, "SELECT * FROM points_records")


async def test_a_user_without_an_account_is_told_of(migrated: Settings, pool: Pool) -> None:
    """Looking makes none; points do."""
    await _play_only(pool, "ann")
    shown = await moonwake(migrated, "points", "show", "ann")
    assert (0, "ann has no points account yet\n") == (shown.exit_code, shown.output)
    assert 1 == (await moonwake(migrated, "points", "show", "nobody")).exit_code
    assert 1 == (await moonwake(migrated, "points", "history", "nobody")).exit_code
    none = await moonwake(migrated, "points", "history", "ann")
    assert (0, "no such changes\n") == (none.exit_code, none.output)

    await moonwake(migrated, "points", "adjust", "ann", "5", "--reason", "x")

    async with reading(pool) as cursor:
        account = await points.read_account(cursor, "ann")
    assert account is not None
    assert (5, 16) == (account.balance, len(account.invitation_code))


async def test_an_owner_who_never_came_is_told_apart_from_nobody(migrated: Settings) -> None:
    """Their first login makes the user: until then nothing is wrong, and nothing is there."""
    gift = ("5", "--reason", "x")
    for area, verb, *rest in (
        ("users", "show"),
        ("points", "show"),
        ("points", "history"),
        ("points", "adjust", *gift),
    ):
        done = await moonwake(migrated, area, verb, OWNER, *rest)
        assert 1 == done.exit_code
        assert "the site's owner has not been here yet" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "list"),
        ("users", "ban", "ann"),
        ("cardkeys", "generate", "--type", "week"),
        ("points", "show", "ann"),
    ],
)
async def test_a_server_that_does_not_answer_ends_the_command_with_2(
    migrated: Settings, arguments: tuple[str, ...]
) -> None:
    """A script can tell 'try again' from 'refused'."""
    done = await moonwake(replace(migrated, mysql_port=1), *arguments)

    told = done.stderr.startswith("moonwake: MySQL error 2003: Can't connect")
    assert (2, "", True) == (done.exit_code, done.stdout, told)


async def test_who_only_played_is_not_added_but_given_a_password(
    migrated: Settings, pool: Pool
) -> None:
    """Whoever types it is told how."""
    await _play_only(pool, "ann")
    refused = await moonwake(
        migrated, "users", "add", "ann", "--password-stdin", given=b"password\n"
    )

    assert (1, True) == (refused.exit_code, "reset-password ann" in refused.stderr)


async def test_a_deleted_user_is_shown_as_one(migrated: Settings) -> None:
    """Their name cannot be added, so there is something to know of it."""
    await _add(migrated, "ann")
    await moonwake(migrated, "users", "delete", "ann", "--yes")
    shown = await moonwake(migrated, "users", "show", "ann")

    assert (1, True) == (shown.exit_code, "was deleted" in shown.stderr)


@pytest.mark.parametrize(
    "command",
    [("unban",), ("ban",), ("reset-password", "--password-stdin"), ("delete", "--yes")],
    ids=" ".join,
)
async def test_what_late_events_leave_of_a_deleted_user_is_nobody(
    migrated: Settings, pool: Pool, command: tuple[str, ...]
) -> None:
    """A row for some minutes: neither let in, nor banned, nor given a password."""
    await _add(migrated, "ann")
    assert 0 == (await moonwake(migrated, "users", "delete", "ann", "--yes")).exit_code
    await _play_only(pool, "ann")
    before = await rows(pool, "SELECT username, password_hash, banned FROM users")

    name, *options = command
    done = await moonwake(migrated, "users", name, "ann", *options, given=b"long enough\n")

    assert (1, "moonwake: there is no such user\n") == (done.exit_code, done.stderr)
    assert [("ann", "deleted")] == await rows(pool, "SELECT username, reason FROM barred_users")
    assert before == await rows(pool, "SELECT username, password_hash, banned FROM users")


async def test_a_log_out_of_nobody_is_no_success(migrated: Settings, redis: Redis) -> None:
    """A name that was mistyped at night; who has sessions or a row is somebody."""
    assert 1 == (await moonwake(migrated, "users", "logout", "nobody")).exit_code
    await _sessions(migrated, redis).begin("nobody")
    ended = await moonwake(migrated, "users", "logout", "nobody")
    assert (0, "sessions of nobody ended: 1\n") == (ended.exit_code, ended.output)

    await _add(migrated, "ann")
    assert 0 == (await moonwake(migrated, "users", "logout", "ann")).exit_code


async def test_points_given_in_the_name_of_nobody_are_refused_by_that_name(
    migrated: Settings, pool: Pool
) -> None:
    """Two names are in the command: the message says which is wrong."""
    await _add(migrated, "ann")
    command = ("points", "adjust", "ann", "5", "--reason", "x", "--as", "ghost")
    done = await moonwake(migrated, *command)
    assert (1, True) == (done.exit_code, "ghost (--as)" in done.stderr)
    assert [] == await rows(pool, "SELECT * FROM points_records")


async def test_a_deletion_with_a_wrong_shard_count_deletes_nobody(
    migrated: Settings, pool: Pool
) -> None:
    """What the user played would be looked for in the wrong streams."""
    await _add(migrated, "ann")
    async with open_redis(migrated.redis_url) as redis:
        await fix_shard_count(redis, Keys(migrated.key_prefix), migrated.shards)
    wrong = replace(migrated, shards=migrated.shards * 2)

    done = await moonwake(wrong, "users", "delete", "ann", "--yes")

    assert (2, True) == (done.exit_code, "SHARDS" in done.output)
    assert [("ann",)] == await rows(pool, "SELECT username FROM users")
    assert 0 == (await moonwake(migrated, "users", "delete", "ann", "--yes")).exit_code
