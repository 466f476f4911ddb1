"""Failed logins are limited: exactly, however many guess at once, and for a while only."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from shared.accounts.attempts import PASSWORD_CHANGES_MAX, Attempts
from shared.errors import Busy, StoreDown, TooManyAttempts
from shared.keys import Keys
from shared.settings import Settings
from tests.servers import OwnServers
from tests.waiting import until

WINDOW_MS = 900_000
HOME, CAFE = "198.51.100.1", "203.0.113.2"
KEYS = Keys("moontv:")


@pytest.fixture(name="attempts")
def _attempts(redis: Redis, migrated: Settings) -> Attempts:
    limits = replace(migrated, login_attempts_per_user=10, login_attempts_per_address=25)
    return Attempts(redis, KEYS, limits)


async def begin(attempts: Attempts, username: str, address: str | None) -> None:
    """A login that fails."""
    async with attempts.login(username, address):
        pass


async def allowed(attempts: Attempts, username: str, address: str | None) -> bool:
    """May *username* try to log in from there? Counts as a failure if so."""
    try:
        await begin(attempts, username, address)
    except TooManyAttempts:
        return False
    return True


async def fail(attempts: Attempts, times: int, username: str, address: str | None) -> int:
    """How many of so many guesses, all at once, were allowed."""
    return sum(await asyncio.gather(*(allowed(attempts, username, address) for _ in range(times))))


async def counters(redis: Redis) -> dict[str, int]:
    """Every counter's name and what is left of its window (ms)."""
    names = sorted(await redis.keys(f"{KEYS.prefix}login_attempts:*"))
    return {name.decode(): await redis.pttl(name) for name in names}


@pytest.mark.parametrize("address", [HOME, "2001:db8::1", None])
async def test_of_many_guesses_at_once_exactly_the_limit_passes(
    attempts: Attempts, address: str | None
) -> None:
    """None slips through between check and count, with or without an address."""
    assert 10 == await fail(attempts, 50, "ann", address)
    assert not await allowed(attempts, "ann", address)


async def test_a_refusal_says_in_how_many_seconds_to_come_again(
    attempts: Attempts, redis: Redis
) -> None:
    """Rounded up, so that who waits as long is let in; the words are the user's."""
    await fail(attempts, 10, "ann", HOME)
    for name in await counters(redis):
        await redis.pexpire(name, 600_990)

    with pytest.raises(TooManyAttempts, match="尝试次数过多，请稍后再试") as refused:
        await begin(attempts, "ann", HOME)

    assert 601 == refused.value.retry_after_s


async def test_a_window_begins_with_its_first_failure_and_is_not_prolonged(
    attempts: Attempts, redis: Redis
) -> None:
    """Neither by another failure nor by a refusal: who goes on guessing is not kept out longer."""
    await begin(attempts, "ann", HOME)
    begun = await counters(redis)
    assert 4 == len(begun)
    assert all(WINDOW_MS - 60_000 < left <= WINDOW_MS for left in begun.values())

    for name in begun:
        await redis.pexpire(name, 100_000)
    assert 9 == await fail(attempts, 50, "ann", HOME)

    assert all(0 < left <= 100_000 for left in (await counters(redis)).values())


async def test_a_window_ends_by_itself(attempts: Attempts, redis: Redis) -> None:
    """Then there are as many attempts as at first, and another window."""
    await fail(attempts, 10, "ann", HOME)
    for name in await counters(redis):
        await redis.pexpire(name, 1)

    async def over() -> bool:
        return not await counters(redis)

    await until(over, "the window ended")
    assert 10 == await fail(attempts, 50, "ann", HOME)


async def test_a_refused_attempt_counts_nowhere(attempts: Attempts) -> None:
    """A locked-out client that goes on uses up nothing that others of its address need."""
    await fail(attempts, 50, "ann", HOME)

    assert 10 == await fail(attempts, 10, "bob", HOME)
    assert 5 == await fail(attempts, 10, "cid", HOME)


@pytest.mark.parametrize("address", [HOME, None])
async def test_a_login_that_succeeds_forgives_the_users_failures(
    attempts: Attempts, address: str | None
) -> None:
    """The user has all attempts again."""
    await fail(attempts, 9, "ann", address)
    await begin(attempts, "ann", address)
    await attempts.succeeded("ann", address)

    assert 10 == await fail(attempts, 50, "ann", address)


async def test_logins_that_succeed_use_up_nothing(attempts: Attempts, redis: Redis) -> None:
    """Any number of them that a person makes; only that they were is left behind."""
    for _ in range(40):
        await begin(attempts, "ann", HOME)
        await attempts.succeeded("ann", HOME)

    assert [f"{KEYS.prefix}login_attempts:logins:{HOME}"] == list(await counters(redis))


async def test_a_login_of_ones_own_does_not_forgive_guesses_at_others(attempts: Attempts) -> None:
    """Who has an account cannot use it to guess on from the same address."""
    await fail(attempts, 24, "bob", HOME)
    await fail(attempts, 24, "cid", HOME)
    guessed = 20

    for _ in range(30):
        await begin(attempts, "eve", HOME)
        await attempts.succeeded("eve", HOME)

    assert 25 - guessed == await fail(attempts, 25, "dan", HOME)


async def test_a_success_after_the_window_leaves_no_counter_without_an_end(
    attempts: Attempts, redis: Redis
) -> None:
    """A check can take longer than what is left of the window: nothing is left that never goes."""
    await attempts.succeeded("ann", HOME)

    assert {} == await counters(redis)

    await fail(attempts, 2, "bob", HOME)
    await attempts.succeeded("ann", HOME)
    assert all(left > 0 for left in (await counters(redis)).values())


async def test_an_address_has_a_limit_over_all_users(attempts: Attempts) -> None:
    """One guess at each of many users is found out too; other addresses do not suffer."""
    users = [f"user{number}" for number in range(40)]

    passed = [await allowed(attempts, user, HOME) for user in users]

    assert 25 == sum(passed)
    assert await allowed(attempts, "user39", CAFE)


async def test_a_household_is_one_address(attempts: Attempts) -> None:
    """Its 2^64 IPv6 addresses share the limits; those of another network do not."""
    spread = [await allowed(attempts, "ann", f"2001:db8::{number:x}") for number in range(30)]

    assert 10 == sum(spread)
    assert await allowed(attempts, "ann", "2001:db8:0:1::1")


async def test_a_stranger_does_not_lock_a_user_out(attempts: Attempts) -> None:
    """Failures from one address leave the user's own address alone."""
    await fail(attempts, 50, "ann", CAFE)

    assert 10 == await fail(attempts, 50, "ann", HOME)


async def test_guesses_from_ever_new_addresses_meet_an_end(attempts: Attempts) -> None:
    """At ten times the limit of one address, all together."""
    passed = [await fail(attempts, 10, "ann", f"192.0.2.{number}") for number in range(12)]

    assert [10] * 10 + [0] * 2 == passed
    assert await allowed(attempts, "bob", HOME)


async def test_clients_without_an_address_share_no_limit_of_it(attempts: Attempts) -> None:
    """Where nobody knows addresses, one guesser must not shut out all users."""
    for number in range(40):
        assert await allowed(attempts, f"user{number}", None)

    await fail(attempts, 10, "ann", None)
    assert not await allowed(attempts, "ann", None)


async def test_all_spellings_that_find_a_user_share_its_counters(attempts: Attempts) -> None:
    """Neither capitals nor trailing spaces, which columns ignore, buy more guesses."""
    spellings = ["ann", "Ann", "ANN", "ann ", "aNN   "]

    passed = [await fail(attempts, 4, spelling, HOME) for spelling in spellings]

    assert [4, 4, 2, 0, 0] == passed


@pytest.mark.parametrize("username", ["x" * 65_536, "\ud800", "", "a\0b", "{ann}", "ann@"])
async def test_any_text_may_be_sent_as_a_name(
    attempts: Attempts, redis: Redis, username: str
) -> None:
    """It takes no more memory than a name does, and fails nothing."""
    assert 10 == await fail(attempts, 12, username, HOME)

    assert all(len(name) < 200 for name in await counters(redis))


async def test_without_redis_nobody_guesses(own_servers: OwnServers) -> None:
    """The site says that it is down, instead of checking passwords without a count."""
    async with Redis.from_url(own_servers.redis.url) as redis:
        attempts = Attempts(redis, KEYS, own_servers.settings)
        await begin(attempts, "ann", HOME)
        own_servers.redis.kill()

        with pytest.raises(StoreDown):
            await begin(attempts, "ann", HOME)
        with pytest.raises(StoreDown):
            await attempts.succeeded("ann", HOME)


async def registration_of(attempts: Attempts, address: str | None) -> None:
    async with attempts.registration(address):
        pass


async def new_password_of(attempts: Attempts, username: str) -> None:
    async with attempts.new_password(username):
        pass


async def test_registrations_are_counted_by_address(attempts: Attempts, redis: Redis) -> None:
    """Whatever becomes of them; other addresses and logins go on, and none has no limit."""
    limited = replace(attempts, settings=replace(attempts.settings, registrations_per_address=3))
    for _ in range(3):
        await registration_of(limited, HOME)
    with pytest.raises(TooManyAttempts):
        await registration_of(limited, HOME)
    await registration_of(limited, "198.51.100.7")
    for _ in range(5):
        await registration_of(limited, None)
    assert await allowed(limited, "ann", HOME)
    assert all(0 < left_ms <= WINDOW_MS for left_ms in (await counters(redis)).values())


async def test_new_passwords_are_counted_by_user(attempts: Attempts) -> None:
    """However the name is written; logging in is not what they are kept from."""
    for name in ("ann", "ANN") * (PASSWORD_CHANGES_MAX // 2):
        await new_password_of(attempts, name)
    with pytest.raises(TooManyAttempts):
        await new_password_of(attempts, "ann")
    await new_password_of(attempts, "bob")
    assert await allowed(attempts, "ann", HOME)


async def test_an_attempt_that_no_store_could_serve_was_none(
    attempts: Attempts, redis: Redis
) -> None:
    """Users who try again and again in an outage are not kept out when it is over."""
    await begin(attempts, "ann", HOME)
    before = {name: await redis.get(name) for name in await counters(redis)}
    for _ in range(30):
        with pytest.raises(StoreDown):
            async with attempts.login("ann", HOME):
                raise StoreDown("MySQL: away")
        with pytest.raises(Busy):
            async with attempts.registration(CAFE), attempts.new_password("ann"):
                raise Busy("too many hashes")
    assert before == {name: await redis.get(name) for name in await counters(redis)}


async def test_logins_that_succeed_have_a_limit_too(attempts: Attempts) -> None:
    """Of an address: each costs a hash, and who has an account could keep others waiting."""
    for number in range(250):
        await begin(attempts, f"user{number}", HOME)
        await attempts.succeeded(f"user{number}", HOME)
    assert not await allowed(attempts, "ann", HOME)
    assert await allowed(attempts, "ann", CAFE)
