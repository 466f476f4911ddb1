"""What happens to accounts, each through the ledger as the API does it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from shared.accounts import (
    card_keys,
    invitations,
    memberships,
    points,
    redemption,
    registration,
)
from shared.accounts.card_keys import CardKey, KeyType
from shared.accounts.invitations import Invitation, InvitationConfig
from shared.accounts.ledger import Ledger, Operation, card_lock, user_lock
from shared.accounts.locks import Locks
from shared.accounts.memberships import Membership
from shared.accounts.points import Cause
from shared.accounts.registration import Created
from shared.accounts.users import NewUser
from shared.errors import Refused
from shared.keys import Keys
from shared.mysql import Cursor, Pool, open_mysql, transaction
from shared.redis import open_redis
from shared.settings import Settings
from tests.plays import rows

NOW_MS = 1_700_000_000_123
#: Nobody logs in here, so hashing would only take time.
HASH = "0" * 64
ADMIN = "admin"

T = TypeVar("T")


class Done(msgspec.Struct):
    """The result of what has none."""


@dataclass(frozen=True, slots=True)
class AccountSite:
    """A front's ledger; every method is one operation, a new one unless *operation* is given."""

    ledger: Ledger
    #: Of tests that look into tables: one that no operation waits for.
    pool: Pool
    #: Do clients send an Idempotency-Key?
    named: bool = False

    def new_operation(self) -> Operation:
        if self.named:
            return Operation.of(ADMIN, secrets.token_hex(), b"a body", "secret")
        return Operation.new()

    async def register(
        self,
        name: str,
        *,
        card_key: str | None = None,
        promotion: KeyType | None = None,
        invitation: Invitation | None = None,
        now_ms: int = NOW_MS,
        operation: Operation | None = None,
    ) -> Created:
        locks = [user_lock(name)]
        if card_key is not None:
            locks.append(card_lock(card_keys.hash_of(card_key)))
        return await self.ledger.perform(
            operation or self.new_operation(),
            locks,
            lambda cursor: registration.create_user(
                cursor,
                # Nobody here has a cookie, or plays.
                NewUser(username=name, password_hash=HASH, after_former=True),
                now_ms,
                card_key=card_key,
                promotion=promotion,
                invitation=invitation,
            ),
            Created,
        )

    async def bind(
        self,
        name: str,
        plain_key: str,
        now_ms: int = NOW_MS,
        operation: Operation | None = None,
    ) -> Membership:
        return await self.ledger.perform(
            operation or self.new_operation(),
            [user_lock(name), card_lock(card_keys.hash_of(plain_key))],
            lambda cursor: memberships.bind(cursor, name, plain_key, now_ms),
            Membership,
        )

    async def redeem(
        self, name: str, now_ms: int = NOW_MS, operation: Operation | None = None
    ) -> CardKey:
        async def work(cursor: Cursor) -> CardKey:
            config = await invitations.read_config(cursor)
            return await redemption.redeem(cursor, name, config, now_ms)

        return await self.ledger.perform(
            operation or self.new_operation(), [user_lock(name)], work, CardKey
        )

    async def adjust(
        self,
        name: str,
        amount: int,
        now_ms: int = NOW_MS,
        operation: Operation | None = None,
    ) -> Done:
        cause = Cause("correction", admin_username=ADMIN)
        return await self.run(
            lambda cursor: points.adjust(cursor, name, amount, cause, now_ms),
            operation,
            user_lock(name),
        )

    async def run(
        self,
        work: Callable[[Cursor], Awaitable[object]],
        operation: Operation | None = None,
        *locks: str,
    ) -> Done:
        """Perform *work*, whatever it returns."""

        async def done(cursor: Cursor) -> Done:
            await work(cursor)
            return Done()

        return await self.ledger.perform(operation or self.new_operation(), locks, done, Done)

    # --- what tests begin with -----------------------------------------------------------

    async def make_keys(
        self, count: int, key_type: KeyType = "week", now_ms: int = NOW_MS
    ) -> list[CardKey]:
        """New keys of an admin."""
        keys = card_keys.new_keys(key_type, count, "admin_created", now_ms)
        async with transaction(self.pool) as cursor:
            await card_keys.insert(cursor, keys)
        return keys

    async def make_users(self, names: Iterable[str]) -> None:
        """Users with a points account, all at once."""
        async with transaction(self.pool) as cursor:
            for name in names:
                user = NewUser(username=name, password_hash=HASH)
                await registration.create_user(cursor, user, NOW_MS)

    async def configure(self, **changes: Any) -> None:
        """Change the configuration of invitations."""
        async with transaction(self.pool) as cursor:
            before = await invitations.read_config(cursor)
            config = InvitationConfig(**{**msgspec.structs.asdict(before), **changes})
            await invitations.write_config(cursor, config)

    async def invitation(self, inviter: str, address: str | None = None) -> Invitation:
        """An invitation by *inviter*, who has an account."""
        query = "SELECT invitation_code FROM user_points WHERE username = %s"
        [(code,)] = await rows(self.pool, query, inviter)
        return Invitation(code, address)


@asynccontextmanager
async def account_site(
    settings: Settings, *, locks: bool = True, named: bool = False
) -> AsyncIterator[AccountSite]:
    """A site; without *locks* the database alone decides what happens at the same moment."""
    async with (
        open_redis(settings.redis_url) as redis,
        open_mysql(settings) as pool,
        open_mysql(settings) as other,
    ):
        held = Locks(redis, Keys(settings.key_prefix), enabled=locks)
        yield AccountSite(Ledger(pool, held), other, named)


async def outcome(call: Awaitable[T]) -> T | Refused:
    """What *call* returns, or the refusal that it raises."""
    try:
        return await call
    except Refused as refusal:
        return refusal


async def at_once(calls: Iterable[Awaitable[T]]) -> tuple[list[T], list[str]]:
    """All *calls* at the same moment: (what those that succeeded return, the refusals' texts)."""
    told = await asyncio.gather(*map(outcome, calls))
    refusals = [str(each) for each in told if isinstance(each, Refused)]
    return [each for each in told if not isinstance(each, Refused)], refusals
