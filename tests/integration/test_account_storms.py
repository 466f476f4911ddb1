"""
Two hundred at the same moment: as many succeed as the rules allow, and the tables agree.

Each storm has the same end with locks in Redis, without any, and while transactions are ended
by deadlocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pytest
from structlog.testing import capture_logs

from ops.audit import audit
from shared.accounts import card_keys, points, users
from shared.accounts import ledger as ledger_module
from shared.accounts import locks as locks_module
from shared.accounts.card_keys import CardKey
from shared.accounts.invitations import Invitation
from shared.errors import Contended
from shared.mysql import Pool, transaction
from shared.settings import Settings
from shared.times import DAY_MS, ms_of
from tests.account_site import ADMIN, NOW_MS, AccountSite, account_site, at_once
from tests.plays import rows
from tests.sessions import until_somebody_waits

CROWD = 200
WEEK_MS = 7 * DAY_MS
#: Tables of which some inserts end in a deadlock that the test makes.
_SIGNALLING = ("operations", "users", "user_card_keys", "points_records", "invitations")

Logs = list[MutableMapping[str, Any]]
T = TypeVar("T")


class Storm(Protocol):
    """All calls at the same moment: (results, texts of refusals)."""

    async def __call__(self, calls: Iterable[Awaitable[T]]) -> tuple[list[T], list[str]]: ...


@pytest.fixture(name="logs")
def _logs() -> Iterator[Logs]:
    with capture_logs() as logs:
        yield logs


@pytest.fixture(name="weather", params=["locks", "no locks", "deadlocks"])
def _weather(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="site")
async def _site(
    migrated: Settings, weather: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AccountSite]:
    # The last of a crowd may wait for long on a slow machine: that is not what is shown here.
    monkeypatch.setattr(locks_module, "WAIT_S", 120)
    monkeypatch.setattr(ledger_module, "TIMEOUT_S", 120)
    locks, named = weather == "locks", weather == "deadlocks"
    async with account_site(migrated, locks=locks, named=named) as site:
        yield site
        assert [] == await audit(site.pool, ADMIN)


@pytest.fixture(name="storm")
def _storm(site: AccountSite, weather: str, logs: Logs) -> Storm:
    """`at_once` in that weather."""

    async def storm(calls: Iterable[Awaitable[T]]) -> tuple[list[T], list[str]]:
        if weather != "deadlocks":
            return await at_once(calls)
        before = deadlocks(logs)
        async with signalling(site.pool):
            told = await at_once(calls)
        assert deadlocks(logs) > before
        return told

    return storm


def deadlocks(logs: Logs) -> int:
    """How many transactions of operations were ended by a deadlock."""
    tried = [log for log in logs if log["event"] == "transaction_tried_again"]
    return sum("1213" in log["error"] for log in tried)


@asynccontextmanager
async def signalling(pool: Pool) -> AsyncIterator[None]:
    """One insert in ten fails as a deadlock's victim does."""
    async with transaction(pool) as cursor:
        for table in _SIGNALLING:
            # By chance: a counter that outlives a rollback is locked by table, and whoever waits
            # for a row while holding it makes a deadlock that no server sees.
            await cursor.execute(
                f"CREATE TRIGGER signal_{table} BEFORE INSERT ON {table} FOR EACH ROW"
                " IF RAND() < 0.1 THEN"
                " SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock';"
                " END IF"
            )
    try:
        yield
    finally:
        async with transaction(pool) as cursor:
            for table in _SIGNALLING:
                await cursor.execute(f"DROP TRIGGER signal_{table}")


def names(count: int = CROWD) -> list[str]:
    return [f"user{number:03}" for number in range(count)]


async def count(site: AccountSite, what: str, *values: Any) -> int:
    [(number,)] = await rows(site.pool, f"SELECT COUNT(*) FROM {what}", *values)
    return int(number)


# --- storms --------------------------------------------------------------------------


async def test_of_all_who_bind_one_key_one_succeeds(site: AccountSite, storm: Storm) -> None:
    """
    All others are told that it is used, and have no membership.
    """
    await site.make_users(names())
    [key] = await site.make_keys(1)

    bound, refusals = await storm(site.bind(name, key.key) for name in names())

    assert (1, [card_keys.USED] * (CROWD - 1)) == (len(bound), refusals)
    [(winner,)] = await rows(site.pool, "SELECT bound_to FROM card_keys")
    memberships = await rows(site.pool, "SELECT username, key_hash FROM memberships")
    held = await rows(site.pool, "SELECT username, key_hash, status FROM user_card_keys")
    assert [(winner, key.key_hash)] == memberships
    assert [(winner, key.key_hash, "used")] == held


async def test_points_for_three_keys_become_three(site: AccountSite, storm: Storm) -> None:
    """
    However often they are redeemed at once, and no point more is taken.
    """
    await site.make_users(["ann"])
    await site.adjust("ann", 950)

    redeemed, refusals = await storm(site.redeem("ann") for _ in range(CROWD))

    assert [points.TOO_FEW] * (CROWD - 3) == refusals
    assert 3 == len({key.key_hash for key in redeemed})
    account = await rows(site.pool, "SELECT balance, total_earned, total_redeemed FROM user_points")
    assert [(50, 0, 900)] == account
    assert (3, 3) == (await count(site, "card_keys"), await count(site, "user_card_keys"))
    assert 3 == await count(site, "points_records WHERE type = 'redeem'")


async def test_an_address_is_rewarded_once(site: AccountSite, storm: Storm) -> None:
    """
    Everybody who registers from it is in, and counts as invited.
    """
    await site.make_users(["ann"])
    invitation = await site.invitation("ann", "192.0.2.1")

    made, refusals = await storm(site.register(name, invitation=invitation) for name in names())

    assert (CROWD, []) == (len(made), refusals)
    assert CROWD + 1 == await count(site, "users")
    assert CROWD == await count(site, "invitations")
    assert 1 == await count(site, "invitations WHERE rewarded")
    assert 1 == await count(site, "ip_reward_records")
    assert [(100, 100)] == await rows(
        site.pool, "SELECT balance, total_earned FROM user_points WHERE username = 'ann'"
    )


async def test_a_name_is_registered_once(site: AccountSite, storm: Storm) -> None:
    """
    Names that differ by case alone are one name; who comes late takes nothing along.
    """
    variants = ["nemo", "Nemo", "NEMO", "neMo"]
    keys = await site.make_keys(CROWD)

    made, refusals = await storm(
        site.register(variants[at % len(variants)], card_key=key.key) for at, key in enumerate(keys)
    )

    assert (1, [users.TAKEN] * (CROWD - 1)) == (len(made), refusals)
    assert [(made[0].username,)] == await rows(site.pool, "SELECT username FROM users")
    assert 1 == await count(site, "card_keys WHERE status = 'used'")


async def test_a_membership_is_the_sum_of_all_keys_bound_at_once(
    site: AccountSite, storm: Storm
) -> None:
    """
    No key's days get lost, and every answer is another moment of the same sum.
    """
    await site.make_users(["ann"])
    keys = await site.make_keys(CROWD)

    bound, refusals = await storm(site.bind("ann", key.key) for key in keys)

    ends = [NOW_MS + number * WEEK_MS for number in range(1, CROWD + 1)]
    assert (ends, []) == (sorted(each.expires_at for each in bound), refusals)
    async with transaction(site.pool) as cursor:
        held = await card_keys.held_by(cursor, "ann")
    assert CROWD == len(held)
    # Each shows the end that it brought or, if another one followed, that one's.
    assert ends[-1] == max(key.expires_at for key in held)
    assert {"used"} == {key.status for key in held}


async def test_a_first_membership_is_the_sum_too(site: AccountSite, storm: Storm) -> None:
    """
    Who only ever played something has no account: no row keeps the first binds apart.
    """
    async with transaction(site.pool) as cursor:
        await cursor.execute("INSERT INTO users (username, password_hash) VALUES ('met', '!')")
    keys = await site.make_keys(CROWD // 2)  # so many that some of them meet a deadlock

    bound, refusals = await storm(site.bind("met", key.key) for key in keys)

    ends = [NOW_MS + number * WEEK_MS for number in range(1, len(keys) + 1)]
    assert (ends, []) == (sorted(each.expires_at for each in bound), refusals)


async def test_adjustments_add_up_and_never_go_below_zero(site: AccountSite, storm: Storm) -> None:
    """
    Up and down at once: the balance is their sum; of too many downs those succeed that can.
    """
    await site.make_users(["ann", "bob"])
    for name, amount in (("ann", 1000), ("bob", 50)):
        await site.adjust(name, amount)

    changed, refusals = await storm(site.adjust("ann", 3 if at % 2 else -2) for at in range(CROWD))
    taken, too_much = await storm(site.adjust("bob", -1) for _ in range(CROWD))

    assert (CROWD, []) == (len(changed), refusals)
    assert (50, [points.DEDUCT_TOO_MUCH] * (CROWD - 50)) == (len(taken), too_much)
    balances = await rows(site.pool, "SELECT username, balance FROM user_points")
    assert [("ann", 1000 + CROWD // 2), ("bob", 0)] == sorted(balances)


# --- real deadlocks --------------------------------------------------------------------

#: Rows of a rival's transaction, which make it the one that the server lets live.
HEAVY = "INSERT INTO barred_users (username, reason) VALUES " + ",".join(
    f"('{number}', 'deleted')" for number in range(300)
)


@pytest.fixture(name="unlocked")
async def _unlocked(migrated: Settings) -> AsyncIterator[AccountSite]:
    async with account_site(migrated, locks=False) as site:
        yield site
        assert [] == await audit(site.pool, ADMIN)


@dataclass(frozen=True, slots=True)
class Crossing:
    """An operation, and rows that it takes in an order that a rival turns round."""

    call: Callable[[AccountSite, CardKey, Invitation], Awaitable[object]]
    first: str
    then: str


_KEYS = "card_keys"
_ACCOUNT, _USER, _NEW = (
    "user_points WHERE username = 'ann'",
    "users WHERE username = 'ann'",
    "users WHERE username = 'new'",
)
CROSSINGS = {
    "bind": Crossing(lambda site, key, _: site.bind("ann", key.key), _KEYS, _ACCOUNT),
    "redeem": Crossing(lambda site, *_: site.redeem("ann"), _USER, _ACCOUNT),
    "adjust": Crossing(lambda site, *_: site.adjust("ann", -300), _USER, _ACCOUNT),
    "register": Crossing(
        lambda site, _, invitation: site.register("new", invitation=invitation), _ACCOUNT, _NEW
    ),
    "delete": Crossing(
        lambda site, *_: site.run(lambda cursor: users.delete(cursor, "ann")), _ACCOUNT, _USER
    ),
}


@pytest.mark.parametrize("what", CROSSINGS)
async def test_a_deadlocks_victim_is_done_all_the_same(
    unlocked: AccountSite, logs: Logs, what: str
) -> None:
    """
    A rival takes the same rows in the other order, and the server ends our transaction.
    """
    crossing = CROSSINGS[what]
    await unlocked.make_users(["ann"])
    await unlocked.adjust("ann", 300)
    [key] = await unlocked.make_keys(1)
    invitation = await unlocked.invitation("ann", "192.0.2.1")
    async with unlocked.pool.acquire() as connection, connection.cursor() as rival:
        await connection.begin()
        await rival.execute(HEAVY)
        await rival.execute(f"SELECT * FROM {crossing.first} FOR UPDATE")
        calling = asyncio.ensure_future(crossing.call(unlocked, key, invitation))
        await until_somebody_waits(rival)
        await rival.execute(f"SELECT * FROM {crossing.then} FOR UPDATE")
        await connection.rollback()
    await calling

    assert 1 == deadlocks(logs)


async def test_a_rival_that_keeps_crossing_delays_but_changes_nothing(
    unlocked: AccountSite, logs: Logs
) -> None:
    """
    Real deadlocks in the middle of storms of binds, until ten of ours were their victims.
    """
    rounds = 0
    over = asyncio.Event()
    await unlocked.make_users(["ann"])
    crossing = asyncio.create_task(cross(unlocked.pool, over))
    try:
        while deadlocks(logs) < 10 and not crossing.done():
            rounds += 1
            keys = await unlocked.make_keys(20)
            bound, refusals = await at_once(unlocked.bind("ann", key.key) for key in keys)
            assert (20, []) == (len(bound), refusals)
    finally:
        over.set()
        await crossing

    ends = await rows(unlocked.pool, "SELECT expires_at FROM memberships")
    assert [NOW_MS + rounds * 20 * WEEK_MS] == [ms_of(end) for (end,) in ends]


async def cross(pool: Pool, over: asyncio.Event) -> None:
    """Take keys first and accounts then, where operations do it the other way round."""
    while not over.is_set():
        with suppress(Contended):
            async with transaction(pool) as cursor:
                await cursor.execute(HEAVY)
                await cursor.execute("SELECT * FROM card_keys FOR UPDATE")
                await cursor.execute("SELECT * FROM user_points FOR UPDATE")
                await cursor.execute("ROLLBACK")
