"""
One change, made once: a transaction that leaves its result where a retry finds it.

The first statement claims the operation's row, the last one stores the result in it. Who comes
again with the same Idempotency-Key, or does not know what became of a commit, meets that row:
while the first attempt is still open the claim waits for it, afterwards it reads its result.
Without a key the first attempt need not claim what nobody else can name.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog

from shared.accounts.locks import Locks
from shared.errors import Conflict, StoreDown, Transient
from shared.mysql import Cursor, Pool, transaction
from shared.pausing import pause

log = structlog.get_logger()

#: A change that takes longer is given up; whether it was made is then unknown to the client.
TIMEOUT_S = 15.0
#: Pauses before further attempts (s).
_PAUSES_S = (0.0, 0.01, 0.05, 0.1, 0.25)
KEY_REUSED = "Idempotency-Key 已用于另一个请求"

T = TypeVar("T")

_CLAIM = """
INSERT INTO operations (id, fingerprint) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE operations.id = operations.id
"""
_FIND = "SELECT fingerprint, result FROM operations WHERE id = %s"
_NOTE = "INSERT INTO operations (id, fingerprint, result) VALUES (%s, %s, %s)"
_KEEP = "UPDATE operations SET result = %s WHERE id = %s"


def user_lock(username: str) -> str:
    """The name of the lock around changes to one user's account."""
    return f"user:{username}"


def card_lock(key_hash: str) -> str:
    """The same of one card key; taken after that of a user."""
    return f"card:{key_hash}"


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done once: *id* says which, *fingerprint* with what request."""

    id: str
    fingerprint: str

    @property
    def is_named(self) -> bool:
        """Did a client name it, who may come again at any moment?"""
        return bool(self.fingerprint)

    @classmethod
    def new(cls) -> Operation:
        """One that no client can name; its row still tells what became of a commit."""
        return cls(secrets.token_hex(32), "")

    @classmethod
    def of(cls, scope: str, key: str, request: bytes, secret: str) -> Operation:
        """The one that *scope*, say a user, names *key* and sends as *request*.

        The fingerprint is keyed with the site's *secret*: requests hold passwords.
        """
        name = hashlib.sha256(f"{scope}\n{key}".encode()).hexdigest()
        return cls(name, hmac.new(secret.encode(), request, hashlib.sha256).hexdigest())


@dataclass(frozen=True, slots=True)
class Ledger:
    """Makes changes to accounts, each exactly once."""

    pool: Pool
    locks: Locks

    async def perform(
        self,
        operation: Operation,
        locks: Sequence[str],
        work: Callable[[Cursor], Awaitable[T]],
        result: type[T],
    ) -> T:
        """What *work* returns (of type *result*), or returned when it was done before.

        *locks* are names for `Locks.hold`. Whatever *work* raises undoes all it did. Deadlocks
        and lost connections are tried again. Raises `Conflict` if the operation's key was used
        for another request, `Busy`, or `StoreDown` when it is not known to be done in
        `TIMEOUT_S`: the same request with the same key tells.
        """
        done: list[T] = []
        try:
            async with asyncio.timeout(TIMEOUT_S), self.locks.hold(*locks):
                done.append(await self._persist(operation, work, result))
        except TimeoutError as error:
            if not done:  # else only giving the locks back took too long
                raise StoreDown(f"MySQL: not done in {TIMEOUT_S:g} s") from error
        return done[0]

    async def _persist(
        self, operation: Operation, work: Callable[[Cursor], Awaitable[T]], result: type[T]
    ) -> T:
        # Nobody else knows the name of an operation without a key: its row is only looked for
        # once an attempt was made whose outcome may be unknown.
        claim = operation.is_named
        attempt = 0
        while True:
            try:
                return await self._attempt(operation, work, result, claim=claim)
            except Transient as error:
                log.info("transaction_tried_again", error=str(error), attempt=attempt)
            await pause(_PAUSES_S, attempt)
            attempt += 1
            claim = True

    async def _attempt(
        self,
        operation: Operation,
        work: Callable[[Cursor], Awaitable[T]],
        result: type[T],
        *,
        claim: bool,
    ) -> T:
        async with transaction(self.pool) as cursor:
            if claim:
                await cursor.execute(_CLAIM, (operation.id, operation.fingerprint))
                if cursor.rowcount != 1:
                    return await _done_before(cursor, operation, result)
            done = await work(cursor)
            text = msgspec.json.encode(done).decode()
            if claim:
                await cursor.execute(_KEEP, (text, operation.id))
            else:
                await cursor.execute(_NOTE, (operation.id, operation.fingerprint, text))
        return done


async def was_made(cursor: Cursor, operation: Operation) -> bool:
    """Was this very request made already? Then `perform` answers it, whatever has changed."""
    await cursor.execute(_FIND, (operation.id,))
    found = await cursor.fetchone()
    return found is not None and hmac.compare_digest(found[0], operation.fingerprint)


async def _done_before(cursor: Cursor, operation: Operation, result: type[T]) -> T:
    await cursor.execute(_FIND, (operation.id,))
    fingerprint, text = await cursor.fetchone()
    if not hmac.compare_digest(fingerprint, operation.fingerprint):
        raise Conflict(KEY_REUSED)
    return msgspec.json.decode(text, type=result)
