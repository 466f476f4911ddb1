"""Bans and deletions reach every front: through MySQL, through Redis, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from api.site import Site
from shared.accounts import barred, bars, passwords, users
from shared.accounts.barred import Reason
from shared.accounts.bars import LOOK_INTERVAL_S, Bars
from shared.errors import StoreDown
from shared.mysql import transaction
from shared.redis import open_redis
from shared.settings import Settings
from tests.callers import PASSWORD, Caller, People, enrol, error_of, people, signed
from tests.fronts import Front, front
from tests.plays import record
from tests.servers import OwnServers
from tests.waiting import until

BANNED, DELETED = (401, "用户已被封禁"), (401, "用户不存在")
PATH = "/api/admin/user"


@pytest.fixture(name="site")
async def _site(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[People]:
    """The front where bans are made; nobody looks unless a test says so."""
    monkeypatch.setattr(bars, "LOOK_INTERVAL_S", 3_600)
    async with people(migrated) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        yield site


async def bar(site: People, action: str, name: str) -> None:
    answer = await site.owner.post(PATH, {"action": action, "targetUsername": name})
    assert (200, {"ok": True}) == answer


async def save(site: Front, name: str) -> Any:
    """What ingest, which asks no database, tells *name*."""
    answer = await site.save(name, "s+1", record())
    return answer.status_code, answer.json().get("error", "")


async def copied(site: Site) -> set[bytes]:
    """The copy in Redis."""
    return {
        name
        for reason in ("banned", "deleted")
        for name in await site.redis.smembers(site.keys.barred(reason))  # type: ignore[misc]
    }


async def test_another_front_learns_of_it_at_its_next_look(site: People) -> None:
    """By cookie and by session; until then routes that ask the database refuse already."""
    async with front(site.front.settings) as far:
        _, body = await Caller(far).log_in("cat", bearer=True)
        session = Caller(far, authorization=f"Bearer {body['token']}")
        cookie = signed(far, "cat")
        assert await session.is_in()
        await bar(site, "ban", "cat")
        assert BANNED == error_of(await cookie.get("/api/points/balance"))
        await far.site.bars.look()
        assert BANNED == await save(far, "cat")
        assert BANNED == error_of(await session.get("/api/user/cardkey"))
        await bar(site, "unban", "cat")
        await far.site.bars.look()
        assert 200 == (await save(far, "cat"))[0]
        await bar(site, "deleteUser", "cat")
        await far.site.bars.look()
        assert DELETED == await save(far, "cat")
        assert await far.site.redis.keys("*session:*") == []


async def test_fronts_look_by_themselves(
    migrated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, also after a look that failed."""
    monkeypatch.setattr(bars, "LOOK_INTERVAL_S", 0.01)
    looks = 0
    look = Bars.look

    async def sometimes(self: Bars) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise StoreDown("Redis: away")
        await look(self)

    monkeypatch.setattr(Bars, "look", sometimes)
    async with people(migrated) as site:
        async with transaction(site.pool) as cursor:
            await users.set_banned(cursor, "bob", banned=True)
        await until(lambda: site.front.site.bars.names == {"bob": "banned"}, "the ban is seen")
        assert BANNED == await save(site.front, "bob")


async def test_a_ban_made_in_the_database_alone_is_seen_and_copied(site: People) -> None:
    """As a process leaves it that dies right after its commit, or a command without Redis."""
    async with transaction(site.pool) as cursor:
        await users.set_banned(cursor, "bob", banned=True)
    await site.front.site.bars.look()

    assert BANNED == await save(site.front, "bob")
    assert {b"bob"} == await copied(site.front.site)
    async with transaction(site.pool) as cursor:  # one for another: the list is as long as before
        await users.set_banned(cursor, "bob", banned=False)
        await users.set_banned(cursor, "ann", banned=True)
    await site.front.site.bars.look()
    assert {b"ann"} == await copied(site.front.site)


async def test_a_late_word_of_an_unban_undoes_no_ban(site: People) -> None:
    """Another front banned the user again, and this one has seen that already."""
    await bar(site, "ban", "bob")
    await site.front.site.bars.look()
    await site.front.site.bars.lift("bob")
    await site.front.site.bars.look()

    assert BANNED == await save(site.front, "bob")
    assert {b"bob"} == await copied(site.front.site)


async def test_a_flushed_redis_is_filled_again_from_mysql(site: People, redis: Redis) -> None:
    """And nobody gets in while it is empty."""
    await bar(site, "ban", "bob")
    await bar(site, "deleteUser", "cat")
    await redis.flushall()
    assert BANNED == await save(site.front, "bob")
    await site.front.site.bars.look()

    assert {b"bob", b"cat"} == await copied(site.front.site)
    assert (BANNED, DELETED) == (await save(site.front, "bob"), await save(site.front, "cat"))


async def test_a_fresh_front_knows_before_its_first_request(site: People, redis: Redis) -> None:
    """From MySQL, with an empty Redis too."""
    await bar(site, "ban", "bob")
    await redis.flushall()
    async with front(site.front.settings) as fresh:
        assert BANNED == await save(fresh, "bob")
        assert 200 == (await save(fresh, "ann"))[0]


async def test_what_redis_holds_too_much_goes(site: People, redis: Redis) -> None:
    """A name that MySQL does not bar is let in at the next look: MySQL decides."""
    await redis.sadd(site.front.site.keys.barred("banned"), "ann")  # type: ignore[misc]
    await site.front.site.bars.look()

    assert 200 == (await save(site.front, "ann"))[0]
    assert set() == await copied(site.front.site)


async def test_a_ban_during_a_look_is_not_undone(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look has read MySQL already, and would write what it read."""
    await bar(site, "ban", "bob")
    await site.front.site.redis.flushall()
    read = barred.read

    async def overtaken(cursor: Any) -> dict[str, Reason]:
        found = await read(cursor)
        await bar(site, "ban", "ann")
        return found

    monkeypatch.setattr(barred, "read", overtaken)
    await site.front.site.bars.look()

    assert BANNED == await save(site.front, "ann")
    assert {b"ann"} == await copied(site.front.site)
    monkeypatch.setattr(barred, "read", read)
    await site.front.site.bars.look()
    assert {b"ann", b"bob"} == await copied(site.front.site)


async def test_a_ban_during_a_look_that_finds_nothing_new_is_not_undone(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stores agreed a moment ago: what they said then is not what this front knows now."""
    await bar(site, "ban", "bob")
    read = barred.read

    async def overtaken(cursor: Any) -> dict[str, Reason]:
        found = await read(cursor)
        await bar(site, "ban", "ann")
        return found

    monkeypatch.setattr(barred, "read", overtaken)
    await site.front.site.bars.look()

    assert BANNED == await save(site.front, "ann")
    assert BANNED == await save(site.front, "bob")


async def test_a_look_reads_the_list_only_where_it_changed(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never gets shorter: the cookie of a deleted user never ends."""
    read, reads = barred.read, 0

    async def counted(cursor: Any) -> dict[str, Reason]:
        nonlocal reads
        reads += 1
        return await read(cursor)

    monkeypatch.setattr(barred, "read", counted)
    look = site.front.site.bars.look
    await look()
    assert 0 == reads
    await bar(site, "ban", "bob")
    for _ in range(3):
        await look()
    assert 1 == reads


async def test_what_was_changed_by_hand_is_seen_a_minute_later(
    site: People, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a change is noted nowhere, and one name for another changes no length."""
    banned = site.front.site.keys.barred("banned")
    await bar(site, "ban", "bob")
    look = site.front.site.bars.look
    await look()
    async with transaction(site.pool) as cursor:
        await cursor.execute("DELETE FROM barred_users")
        await cursor.execute("UPDATE users SET banned = FALSE")
    await look()
    assert BANNED == await save(site.front, "bob")
    monkeypatch.setattr(bars, "_WHOLE_INTERVAL_S", 0)
    monkeypatch.setattr(site.front.site.bars, "_whole_at_s", 0)
    await look()
    assert 200 == (await save(site.front, "bob"))[0]

    await bar(site, "ban", "ann")
    await look()
    await redis.srem(banned, "ann")  # type: ignore[misc]
    await redis.sadd(banned, "bob")  # type: ignore[misc]
    await look()
    assert {b"ann"} == await copied(site.front.site)
    await bar(site, "unban", "ann")


async def test_two_who_tell_redis_may_overtake_each_other(site: People, redis: Redis) -> None:
    """The ban came after the unban in MySQL, before it in Redis: the next look of any decides."""
    async with front(site.front.settings) as far:
        await bar(site, "ban", "bob")
        await far.site.bars.look()
        async with transaction(site.pool) as cursor:
            await users.set_banned(cursor, "bob", banned=False)
            await users.set_banned(cursor, "bob", banned=True)
        await far.site.bars.look()
        await far.site.bars._tell("bob", None)
        await far.site.bars._tell("ann", "banned")
        assert {b"ann"} == await copied(far.site)
        await site.front.site.bars.look()

    assert {b"bob"} == await copied(site.front.site)


async def test_a_long_list_is_copied_whole(site: People) -> None:
    """In commands of a size that Redis and this process can hold."""
    names = [f"gone{number}" for number in range(2_500)]
    async with transaction(site.pool) as cursor:
        for name in names:
            await barred.bar(cursor, name, "deleted")
    await site.front.site.bars.look()

    assert {name.encode() for name in names} == await copied(site.front.site)
    assert dict.fromkeys(names, "deleted") == site.front.site.bars.names


async def test_a_redis_that_hangs_keeps_no_front_from_what_mysql_says(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked first: the ban counts before Redis is given up."""
    monkeypatch.setattr(bars, "LOOK_INTERVAL_S", 3_600)
    async with front(own_servers.settings) as site:
        await enrol(site.site.pool, "bob")
        own_servers.redis.pause()
        try:
            async with transaction(site.site.pool) as cursor:
                await users.set_banned(cursor, "bob", banned=True)
            look = asyncio.create_task(site.site.bars.look())
            await until(lambda: "bob" in site.site.bars.names or look.done(), "it is known")
            assert BANNED == await save(site, "bob")
            assert not look.done()
            with pytest.raises(StoreDown):
                await look
        finally:
            own_servers.redis.resume()


async def test_a_look_is_over_before_a_ban_is_five_seconds_old(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever store keeps it waiting."""
    limits_s = (LOOK_INTERVAL_S, bars._MYSQL_TIMEOUT_S, bars._REDIS_TIMEOUT_S)
    assert sum(limits_s) <= 5
    monkeypatch.setattr(bars, "_REDIS_TIMEOUT_S", 0)
    with pytest.raises(StoreDown):
        await site.front.site.bars.look()


async def test_without_mysql_redis_and_memory_go_on(own_servers: OwnServers) -> None:
    """A front that starts then goes by Redis; one that runs forgets nothing if that is lost."""
    async with front(own_servers.settings) as near:
        await enrol(near.site.pool, "bob", "cat")
        owner = signed(near, "admin")
        for action, name in (("ban", "bob"), ("deleteUser", "cat")):
            await owner.post(PATH, {"action": action, "targetUsername": name})
        own_servers.mysql.kill()
        async with front(own_servers.settings) as fresh:
            for each in (near, fresh):
                await each.site.bars.look()
                assert BANNED == await save(each, "bob")
                assert DELETED == await save(each, "cat")
                assert 200 == (await save(each, "ann"))[0]
            await near.site.redis.flushall()
            await near.site.bars.look()
            assert BANNED == await save(near, "bob")


async def test_a_mysql_that_hangs_keeps_no_look_waiting(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, and Redis counts."""
    monkeypatch.setattr(bars, "_MYSQL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(bars, "LOOK_INTERVAL_S", 3_600)
    async with front(own_servers.settings) as site:
        async with open_redis(own_servers.redis.url) as redis:
            await redis.sadd(site.site.keys.barred("banned"), "bob")  # type: ignore[misc]
        own_servers.mysql.pause()
        try:
            await asyncio.wait_for(site.site.bars.look(), 30)
            assert BANNED == await save(site, "bob")
        finally:
            own_servers.mysql.resume()


async def test_without_redis_a_ban_still_counts_where_it_was_made(
    own_servers: OwnServers,
) -> None:
    """The look says that Redis is away; what was known goes on to count."""
    async with front(own_servers.settings) as site:
        await enrol(site.site.pool, "bob")
        own_servers.redis.kill()
        owner = signed(site, "admin")
        answer = await owner.post(PATH, {"action": "ban", "targetUsername": "bob"})
        assert (200, {"ok": True}) == answer
        with pytest.raises(StoreDown):
            await site.site.bars.look()
        assert BANNED == await save(site, "bob")


async def test_without_redis_the_other_fronts_go_by_mysql(
    own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a look undo what is decided meanwhile. Accounts are changed without Redis too."""
    monkeypatch.setattr(bars, "LOOK_INTERVAL_S", 3_600)
    async with front(own_servers.settings) as near, front(own_servers.settings) as far:
        await enrol(near.site.pool, "ann", "bob")
        own_servers.redis.kill()
        owner = signed(near, "admin")
        read = barred.read

        async def ban(name: str) -> None:
            answer = await owner.post(PATH, {"action": "ban", "targetUsername": name})
            assert (200, {"ok": True}) == answer

        async def overtaken(cursor: Any) -> dict[str, Reason]:
            found = await read(cursor)
            await ban("ann")
            return found

        await ban("bob")
        with pytest.raises(StoreDown):
            await far.site.bars.look()
        assert BANNED == error_of(await signed(far, "bob").post("/api/redeem/cardkey"))

        monkeypatch.setattr(barred, "read", overtaken)
        await near.site.bars.look()
        assert BANNED == await save(near, "ann")
