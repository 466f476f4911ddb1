"""Who asks: the login cookie of a request, checked once per value and remembered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from api.errors import OwnerOnly, Unauthorized
from shared.cookies import verify
from shared.events import USER_MAX, check_name
from shared.keys import Keys, UserKeys, shard_of
from shared.settings import Settings

#: Bounds of what is remembered: about 10 MB at most.
_REMEMBERED_MAX, _REMEMBERED_BYTES_MAX = 8_192, 1_024


@dataclass(frozen=True, slots=True)
class Visitor:
    """A user with a valid cookie, the shard of their events and the keys of their records."""

    username: str
    shard: int
    keys: UserKeys


class Gate:
    """Tells visitors from strangers; a validly signed cookie is enough."""

    def __init__(self, settings: Settings) -> None:
        self._password = settings.password
        self._owner = settings.username
        self._shards = settings.shards
        self._keys = Keys(settings.key_prefix)
        self._known: dict[bytes, Visitor] = {}

    def visitor(self, headers: Iterable[tuple[bytes, bytes]]) -> Visitor:
        """The visitor whose cookie is in a request's *headers*.

        Raises `Unauthorized`, or `InvalidField` for a name no entry could carry.
        """
        cookie = b""
        for name, value in headers:
            if name == b"cookie":  # proxies may split it into several (HTTP/2)
                cookie = cookie + b"; " + value if cookie else value
        return self._known.get(cookie) or self._verified(cookie)

    def owner(self, headers: Iterable[tuple[bytes, bytes]]) -> Visitor:
        """The visitor, who is the site's owner. Raises `Unauthorized` or `OwnerOnly`."""
        visitor = self.visitor(headers)
        if visitor.username != self._owner:
            raise OwnerOnly
        return visitor

    def _verified(self, cookie: bytes) -> Visitor:
        username = verify(cookie, self._password)
        if username is None:
            raise Unauthorized
        check_name(username, "username", USER_MAX, "Invalid user name")
        shard = shard_of(username, self._shards)
        visitor = Visitor(username, shard, self._keys.play_records(shard, username))
        if len(cookie) <= _REMEMBERED_BYTES_MAX:
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            self._known[cookie] = visitor
        return visitor
