"""The ledger: a change is made exactly once, whatever becomes of connections and servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.accounts import ledger as ledger_module
from shared.accounts import points, users
from shared.accounts.card_keys import USED
from shared.accounts.ledger import KEY_REUSED, Operation
from shared.errors import Conflict, DataRefused, Refused, StoreDown, Transient
from shared.mysql import Cursor, transaction
from shared.settings import Settings
from tests.account_site import NOW_MS, AccountSite, account_site, at_once, outcome
from tests.faults.mysql_wire import CommitKiller, CommitLoss, packets
from tests.faults.tcp_proxy import Link, running_proxy
from tests.plays import rows
from tests.servers import OwnServers
from tests.sessions import until_somebody_waits
from tests.waiting import until

Logs = list[MutableMapping[str, Any]]
SECRET = "secret"


@pytest.fixture(name="logs")
def _logs() -> Iterator[Logs]:
    with capture_logs() as logs:
        yield logs


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[AccountSite]:
    async with account_site(migrated, locks=False) as site:
        await site.make_users(["ann"])
        yield site


def named(key: str = "key", request: bytes = b"request") -> Operation:
    """As a client names it."""
    return Operation.of("ann", key, request, SECRET)


#: With an Idempotency-Key, and without.
OPERATIONS: dict[str, Callable[[], Operation]] = {"named": named, "unnamed": Operation.new}


@pytest.fixture(name="operation", params=OPERATIONS)
def _operation(request: pytest.FixtureRequest) -> Operation:
    return OPERATIONS[request.param]()


async def balance(site: AccountSite) -> int:
    [(found,)] = await rows(site.pool, "SELECT balance FROM user_points")
    return int(found)


async def operations(site: AccountSite) -> int:
    """How many are noted as done."""
    [(count,)] = await rows(site.pool, "SELECT COUNT(*) FROM operations")
    return int(count)


# --- names -----------------------------------------------------------------------------


def test_an_operations_name_tells_scopes_keys_and_requests_apart() -> None:
    """
    Another user's same key is another operation; another secret, another fingerprint.
    """
    one = Operation.of("ann", "key", b"request", SECRET)

    assert one == named()
    assert one.id != Operation.of("bob", "key", b"request", SECRET).id
    assert one.id != Operation.of("ann", "kez", b"request", SECRET).id
    other = Operation.of("ann", "key", b"another", SECRET)
    assert (one.id, False) == (other.id, one.fingerprint == other.fingerprint)
    assert one.fingerprint != Operation.of("ann", "key", b"request", "other").fingerprint
    assert Operation.new() != Operation.new()


# --- the same operation again ------------------------------------------------------------


async def test_fifty_of_one_key_at_once_are_done_once(site: AccountSite) -> None:
    """
    All get the result of the one that was.
    """
    runs: list[int] = []

    async def work(cursor: Cursor) -> int:
        await points.adjust(cursor, "ann", 7, points.Cause("gift"), NOW_MS)
        runs.append(1)
        return len(runs)

    results, refusals = await at_once(
        site.ledger.perform(named(), [], work, int) for _ in range(50)
    )

    assert ([1] * 50, []) == (results, refusals)
    assert (1, 7, 1) == (len(runs), await balance(site), await operations(site))


async def test_one_key_at_once_for_two_requests_serves_one_of_them(site: AccountSite) -> None:
    """
    Whichever was first, all others of its kind get its result, and the rest conflict.
    """
    calls = [
        site.adjust("ann", amount, operation=named(request=str(amount).encode()))
        for amount in (7, 11) * 10
    ]
    told = await asyncio.gather(*map(outcome, calls))

    winner = await balance(site)
    assert winner in {7, 11}
    won, lost = (told[0::2], told[1::2]) if winner == 7 else (told[1::2], told[0::2])
    assert not any(isinstance(each, Refused) for each in won)
    assert [(Conflict, KEY_REUSED)] * 10 == [(type(each), str(each)) for each in lost]


async def test_a_key_is_not_another_users(site: AccountSite) -> None:
    """
    Scopes keep what two users call alike apart.
    """
    await site.make_users(["bob"])
    for name in ("ann", "bob"):
        operation = Operation.of(name, "key", b"request", SECRET)
        await site.adjust(name, 5, operation=operation)

    found = await rows(site.pool, "SELECT balance FROM user_points")
    assert [(5,), (5,)] == found


async def test_a_repeated_bind_answers_as_the_first_one_did(site: AccountSite) -> None:
    """
    The key is used by then, and time has passed; the answer is of the time it was made.
    """
    [key] = await site.make_keys(1)
    first = await site.bind("ann", key.key, operation=named())
    again = await site.bind("ann", key.key, NOW_MS + 999_999_999, operation=named())

    assert first == again
    with pytest.raises(Refused, match=USED):
        await site.bind("ann", key.key)


async def test_a_refusal_leaves_no_trace_and_may_be_tried_again(
    site: AccountSite, operation: Operation
) -> None:
    """
    Even with another request: nothing was done by that name.
    """
    with pytest.raises(Refused, match=points.TOO_FEW):
        await site.redeem("ann", operation=operation)
    assert 0 == await operations(site)
    await site.adjust("ann", 300)
    await site.redeem("ann", operation=operation)

    assert (0, 2) == (await balance(site), await operations(site))


async def test_a_fault_of_ours_leaves_no_trace_either(
    site: AccountSite, operation: Operation
) -> None:
    """
    What was written before it is undone, and the error passes unchanged.
    """

    async def work(cursor: Cursor) -> None:
        await points.adjust(cursor, "ann", 5, points.Cause("gift"), NOW_MS)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await site.run(work, operation)

    assert (0, 0) == (await balance(site), await operations(site))


async def test_what_the_database_refuses_is_not_tried_again(
    site: AccountSite, logs: Logs, operation: Operation
) -> None:
    """
    It would be refused for ever.
    """
    with pytest.raises(DataRefused):
        await site.run(lambda cursor: users.set_tvbox_token(cursor, "ann", "x" * 256), operation)

    assert (0, 0, []) == (await balance(site), await operations(site), tried_again(logs))


def tried_again(logs: Logs) -> list[str]:
    return [log["error"] for log in logs if log["event"] == "transaction_tried_again"]


# --- connections --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", list(CommitLoss))
async def test_a_commit_of_unknown_outcome_is_made_once(
    migrated: Settings, site: AccountSite, operation: Operation, loss: CommitLoss
) -> None:
    """
    The connection is lost inside COMMIT, before or after the server did it.
    """
    async with running_proxy(migrated.mysql_port, packets) as proxy:
        beyond = replace(migrated, mysql_port=proxy.port)
        async with account_site(beyond, locks=False) as remote:
            proxy.watch = killer = CommitKiller(loss)
            await remote.adjust("ann", 7, operation=operation)

    assert (1, 7, 1) == (killer.lost, await balance(site), await operations(site))


async def test_a_key_that_was_redeemed_in_a_commit_nobody_heard_of_is_the_one_told(
    migrated: Settings, site: AccountSite, operation: Operation
) -> None:
    """
    The second attempt draws no other key: it reads what the first one stored.
    """
    await site.adjust("ann", 300)
    async with running_proxy(migrated.mysql_port, packets) as proxy:
        beyond = replace(migrated, mysql_port=proxy.port)
        async with account_site(beyond, locks=False) as remote:
            proxy.watch = CommitKiller(CommitLoss.AFTER)
            key = await remote.redeem("ann", operation=operation)

    assert [(key.key,)] == await rows(site.pool, "SELECT plain_key FROM card_keys")
    assert 0 == await balance(site)


class Killer:
    """Loses the connection when the *n*th packet after BEGIN passes, once."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._seen = -1
        self.lost = 0

    async def __call__(self, link: Link, packet: bytes) -> bool:
        if packet[5:].startswith(b"BEGIN"):
            self._seen = 0
        elif self._seen >= 0:
            self._seen += 1
        if self.lost or self._seen != self._at:
            return False
        self.lost = 1
        link.drop()
        return True


async def test_a_connection_lost_at_any_statement_changes_nothing(
    migrated: Settings, site: AccountSite, operation: Operation
) -> None:
    """
    Whichever statement of a bind was the last that the server saw.
    """
    at = lost = bound = 0
    async with running_proxy(migrated.mysql_port, packets) as proxy:
        beyond = replace(migrated, mysql_port=proxy.port)
        async with account_site(beyond, locks=False) as remote:
            while lost == at:
                at += 1
                [key] = await site.make_keys(1)
                proxy.watch = killer = Killer(at)
                this = replace(operation, id=f"{operation.id[:60]}{at:04}")
                await remote.bind("ann", key.key, operation=this)
                lost, bound = lost + killer.lost, bound + 1
                keys = await rows(site.pool, "SELECT 1 FROM card_keys WHERE status = 'used'")
                held = await rows(site.pool, "SELECT 1 FROM user_card_keys")
                assert (bound, bound) == (len(keys), len(held))

    assert lost > 3


async def test_a_server_that_restarts_in_the_middle_delays_the_change(
    own_servers: OwnServers, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What was done until then is gone with it, and done again when it is back.
    """
    begun = asyncio.Event()
    may_go_on = asyncio.Event()
    monkeypatch.setattr(ledger_module, "TIMEOUT_S", 120)
    async with account_site(own_servers.settings, locks=False) as site:
        await site.make_users(["ann"])

        async def work(cursor: Cursor) -> None:
            await points.adjust(cursor, "ann", 7, points.Cause("gift"), NOW_MS)
            begun.set()
            await may_go_on.wait()

        changing = asyncio.create_task(site.run(work, operation))
        await begun.wait()
        own_servers.mysql.restart()
        may_go_on.set()
        await changing

        assert (7, 1) == (await balance(site), await operations(site))


async def test_a_server_that_stays_away_is_told_in_time(
    own_servers: OwnServers, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The same request says later what became of it.
    """
    monkeypatch.setattr(ledger_module, "TIMEOUT_S", 0.5)
    async with account_site(own_servers.settings, locks=False) as site:
        await site.make_users(["ann"])
        own_servers.mysql.kill()
        with pytest.raises(StoreDown):
            await site.adjust("ann", 7, operation=operation)
        own_servers.mysql.start()
        monkeypatch.undo()
        await site.adjust("ann", 7, operation=operation)

        assert (7, 1) == (await balance(site), await operations(site))


# --- time-outs and cancellation -------------------------------------------------------------


#: Rows that somebody else holds, and a bind that waits for them: before it has done anything,
#: in the middle, and among the statements that go out together.
HELD_UP = (
    "user_points WHERE username = 'ann'",
    "card_keys",
    "user_card_keys",
    "memberships",
)


@pytest.fixture(name="held_up", params=HELD_UP)
def _held_up(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def bind_while(site: AccountSite, held_up: str, end: Callable[..., Awaitable[None]]) -> str:
    """Bind a second key while another session holds rows, until *end* of the task."""
    first, key = await site.make_keys(2)
    await site.bind("ann", first.key)
    async with transaction(site.pool) as cursor:
        await cursor.execute(f"SELECT * FROM {held_up} FOR UPDATE")
        task = asyncio.create_task(site.bind("ann", key.key, operation=named()))
        await until_somebody_waits(cursor)
        await end(task)
    return key.key


async def test_a_change_that_takes_too_long_is_given_up_whole(
    site: AccountSite, held_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nothing of it stays, whatever it waited for, and the same request does it later.
    """
    monkeypatch.setattr(ledger_module, "TIMEOUT_S", 2.0)

    async def end(task: asyncio.Task[Any]) -> None:
        with pytest.raises(StoreDown, match="not done in 2 s"):
            await task

    key = await bind_while(site, held_up, end)
    monkeypatch.undo()

    await assert_only_the_first_is_bound(site, key)


async def test_a_cancelled_change_is_undone_whole(site: AccountSite, held_up: str) -> None:
    """
    CancelledError stays what it is; the pool serves on.
    """

    async def end(task: asyncio.Task[Any]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    key = await bind_while(site, held_up, end)

    await assert_only_the_first_is_bound(site, key)


async def assert_only_the_first_is_bound(site: AccountSite, key: str) -> None:
    """*key* is not, nothing is noted of it, and the same request binds it now."""
    used = "SELECT COUNT(*) FROM card_keys WHERE status = 'used'"

    async def nobody_holds_anything() -> bool:
        return not await rows(site.pool, "SELECT 1 FROM information_schema.innodb_trx")

    # The server may not have noticed yet that its client is gone.
    await until(nobody_holds_anything, "what was given up is rolled back", poll_s=0.15)
    assert [(1,)] == await rows(site.pool, used)
    assert 1 == await operations(site)
    bound = [await site.bind("ann", key, operation=named()) for _ in range(3)]
    assert [bound[0]] * 3 == bound
    assert ([(2,)], 2) == (await rows(site.pool, used), await operations(site))


async def test_a_change_that_is_made_is_told_though_its_locks_are_given_back_too_late(
    site: AccountSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal then would make who has no key ask for it again, and have it twice."""

    class Slow:
        @asynccontextmanager
        async def hold(self, *_names: str) -> AsyncIterator[None]:
            yield
            await asyncio.Event().wait()

    monkeypatch.setattr(ledger_module, "TIMEOUT_S", 1.0)
    slow: Any = Slow()
    await replace(site, ledger=replace(site.ledger, locks=slow)).adjust("ann", 5)
    assert 5 == await balance(site)


async def test_a_time_out_that_an_attempt_swallows_ends_the_change_all_the_same(
    site: AccountSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As connecting may: the error of that moment comes, and the cancellation is forgotten."""
    monkeypatch.setattr(ledger_module, "TIMEOUT_S", 0.2)

    async def work(_cursor: Cursor) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Transient("refused") from None

    with pytest.raises(StoreDown):
        await asyncio.wait_for(site.run(work), 60)
