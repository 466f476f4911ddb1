"""
How many logins may fail, and how often accounts and passwords may be made from one place.

A guess is counted before it is checked, so many at once gain nothing.

Counted are the failures of a user from one address (LOGIN_ATTEMPTS_PER_USER), of a user from
all addresses (ten times that) and from an address (LOGIN_ATTEMPTS_PER_ADDRESS), each in a window
of 15 minutes that begins with its first failure and ends by itself.

The trade-off: were a user's failures counted regardless of the address, any stranger could lock
anybody out with ten requests. As it is, a stranger locks out only their own address. Guesses
from ever new addresses still meet an end, at ten times the limit; who commands that many can keep
a user from logging in, for as long as they go on and 15 minutes longer. Whoever is logged in
stays so, and a login that succeeds takes the user's failures away.

All logins from an address have a limit as well, ten times that of those which fail.
Registrations (REGISTRATIONS_PER_ADDRESS) and a user's new passwords are counted in the same
window whether or not they succeed: each costs a hash, and a registration rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.accounts.addresses import reward_unit
from shared.errors import StoreDown, TooManyAttempts, Unavailable
from shared.keys import Keys
from shared.scripts import run_script
from shared.settings import Settings

WINDOW_MS = 15 * 60 * 1_000
#: New passwords that a user may choose.
PASSWORD_CHANGES_MAX = 10
#: Logins from an address, whether or not they fail, in those that may fail: each costs a hash.
_LOGINS = 10
#: Failures of a user from all addresses together, in those that one address may make.
_ALL_ADDRESSES = 10


@dataclass(frozen=True, slots=True)
class Attempts:
    """Limits common to all processes of the site."""

    redis: Redis
    keys: Keys
    settings: Settings

    @asynccontextmanager
    async def login(self, username: str, address: str | None) -> AsyncIterator[None]:
        """Count a login as failed, before its password is checked in the body.

        *username* is what the client sent, *address* what `client_address` found; clients
        without one share their failures of a user, but have no limit of the address. Raises
        `TooManyAttempts`, having counted nothing, where a limit is reached, or `StoreDown`. If
        the body finds that a store cannot serve now, it was no attempt.
        """
        limits = self._limits(username, address)
        if address is not None:
            logins = self.keys.login_attempts("logins", reward_unit(address))
            limits[logins] = self.settings.login_attempts_per_address * _LOGINS
        async with self._counted(limits):
            yield

    async def succeeded(self, username: str, address: str | None) -> None:
        """The login that `login` counted did not fail, and the user's failures are forgiven.

        Those of the address are not, but this one: else its guesses at others would be, by a
        login to an account of the guesser's own. Raises `StoreDown`.
        """
        await run_script(self.redis, "end_login", list(self._limits(username, address)))

    @asynccontextmanager
    async def registration(self, address: str | None) -> AsyncIterator[None]:
        """Count one, before anything is done for it; clients without an address have no limit.

        Raises as `login` does.
        """
        limits = {}
        if address is not None:
            counter = self.keys.login_attempts("registration", reward_unit(address))
            limits[counter] = self.settings.registrations_per_address
        async with self._counted(limits):
            yield

    @asynccontextmanager
    async def new_password(self, username: str) -> AsyncIterator[None]:
        """The same of a user who chooses another password."""
        counter = self.keys.login_attempts("password", _digest(username))
        async with self._counted({counter: PASSWORD_CHANGES_MAX}):
            yield

    @asynccontextmanager
    async def _counted(self, limits: dict[str, int]) -> AsyncIterator[None]:
        """Count one in all of *limits*, and take it back if a store cannot serve the body."""
        arguments = [WINDOW_MS, *limits.values()]
        wait_ms = await run_script(self.redis, "begin_attempt", list(limits), arguments)
        if wait_ms:
            raise TooManyAttempts(-(-wait_ms // 1_000))
        try:
            yield
        except Unavailable:
            with suppress(StoreDown):
                await run_script(self.redis, "undo_attempt", list(limits))
            raise

    def _limits(self, username: str, address: str | None) -> dict[str, int]:
        """The counters: of the user there, of the user, of the address if there is one."""
        user = _digest(username)
        place = "" if address is None else reward_unit(address)
        per_user = self.settings.login_attempts_per_user
        limits = {
            self.keys.login_attempts("user", f"{user}@{place}"): per_user,
            self.keys.login_attempts("user", user): per_user * _ALL_ADDRESSES,
        }
        if place:
            counter = self.keys.login_attempts("address", place)
            limits[counter] = self.settings.login_attempts_per_address
        return limits


def _digest(username: str) -> str:
    """A short name for whatever was sent as *username*, the same for all that find one user.

    Case is folded as at registration. Trailing spaces go because the columns' collation
    ignores them: every "ann  " would find ann, with a counter of its own.
    """
    name = username.rstrip(" ").casefold()
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
