"""
Who asks: by LunaTV's signed cookie, or by a session of ours in a cookie or as a bearer token.

A signature is checked once per cookie and remembered; a session is looked up in Redis and
remembered for `SESSION_TRUST_S`. Users who are banned or deleted are refused at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from api.errors import Denied, Unauthorized
from shared.accounts import users
from shared.accounts.bars import Bars
from shared.accounts.sessions import Sessions
from shared.cookies import value_of, verify
from shared.events import USER_MAX, check_name
from shared.keys import Keys, UserKeys, shard_of
from shared.settings import Settings

SESSION_COOKIE = b"moonwake_session"
#: For how long an ended session may still be taken for one: a ban or log-out takes effect in 5 s.
SESSION_TRUST_S = 2.0
#: Bounds of what is remembered: about 10 MB at most.
_REMEMBERED_MAX, _REMEMBERED_BYTES_MAX = 8_192, 1_024
_FOR_EVER = float("inf")
_BARRED = {"banned": users.BANNED, "deleted": users.UNKNOWN}

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Visitor:
    """A user who is logged in, the shard of their events and the keys of their records."""

    username: str
    shard: int
    keys: UserKeys


class Gate:
    """Tells visitors from strangers."""

    def __init__(self, settings: Settings, bars: Bars, sessions: Sessions) -> None:
        self._password = settings.password
        self._takes_signed = settings.accept_lunatv_cookie
        self._shards = settings.shards
        self._keys = Keys(settings.key_prefix)
        self._bars = bars
        self._sessions = sessions
        #: What a request carried -> (who it is, until when that is believed).
        self._known: dict[bytes, tuple[Visitor, float]] = {}

    async def visitor(self, headers: Headers) -> Visitor:
        """The visitor whose login is in a request's *headers*.

        A bearer token counts alone. Of the cookies LunaTV's is asked first, where it is taken
        at all: it is the one that the page a user looks at goes by.

        Raises `Unauthorized`, `Denied` for a barred user, `InvalidField` for a name no entry
        could carry, `StoreDown` where a session cannot be looked up.
        """
        carried = _carried(headers)
        known = self._known.get(carried)
        if known is None or known[1] < monotonic():
            known = await self._look_up(carried)
        visitor = known[0]
        self.check(visitor.username)
        return visitor

    def check(self, username: str) -> None:
        """Raise `Denied` if *username* is barred, as far as this front knows."""
        if (reason := self._bars.names.get(username)) is not None:
            raise Denied(_BARRED[reason])

    async def visitor_now(self, headers: Headers) -> Visitor:
        """The same, and a session counts only if it is there at this moment."""
        self.forget(headers)
        return await self.visitor(headers)

    def visitor_named(self, username: str) -> Visitor:
        """The visitor of this name, whoever asks. Raises `InvalidField`."""
        check_name(username, "username", USER_MAX, "Invalid user name")
        shard = shard_of(username, self._shards)
        return Visitor(username, shard, self._keys.play_records(shard, username))

    def forget(self, headers: Headers) -> None:
        """Believe nothing of these *headers* any more: their session may have ended."""
        self._known.pop(_carried(headers), None)

    def forget_user(self, username: str) -> None:
        """The same of all sessions of *username*; what their cookie of LunaTV's says goes on."""
        for carried, (visitor, until_s) in list(self._known.items()):
            if visitor.username == username and until_s != _FOR_EVER:
                del self._known[carried]

    def token_in(self, headers: Headers) -> str | None:
        """The session token in *headers*, whether or not its session lasts."""
        cookie, _, bearer = _carried(headers).partition(b"\0")
        token = bearer or value_of(cookie, SESSION_COOKIE)
        return token.decode("latin-1") if token else None

    async def _look_up(self, carried: bytes) -> tuple[Visitor, float]:
        cookie, _, bearer = carried.partition(b"\0")
        if not bearer and self._takes_signed:
            username = verify(cookie, self._password)
            if username is not None:
                return self._remember(carried, self.visitor_named(username), _FOR_EVER)
        token = self.token_in([(b"cookie", cookie), (b"authorization", b"Bearer " + bearer)])
        username = None if token is None else await self._sessions.username_of(token)
        if username is None:
            raise Unauthorized
        until_s = monotonic() + SESSION_TRUST_S
        return self._remember(carried, self.visitor_named(username), until_s)

    def _remember(self, carried: bytes, visitor: Visitor, until_s: float) -> tuple[Visitor, float]:
        known = (visitor, until_s)
        if len(carried) <= _REMEMBERED_BYTES_MAX:
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            self._known[carried] = known
        return known


def _carried(headers: Headers) -> bytes:
    """The cookies, and after a zero byte the bearer token."""
    cookie = bearer = b""
    for name, value in headers:
        if name == b"cookie":  # proxies may split it into several (HTTP/2)
            cookie = cookie + b"; " + value if cookie else value
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return cookie + b"\0" + bearer if bearer else cookie
