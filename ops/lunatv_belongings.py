"""What a LunaTV's Redis holds for each of its users: points, their records, logins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from ops.accounts_books import Books
from ops.lunatv_accounts import Site
from ops.lunatv_source import each, shown
from ops.lunatv_values import INVALID_VALUE, LoginStats, PointsAccount, PointsRecord, decoded
from shared.errors import InvalidField


@dataclass(slots=True)
class Belongings:
    """A user's points and logins; records in no order."""

    points: PointsAccount | None = None
    records: dict[str, PointsRecord] = field(default_factory=dict)
    logins: LoginStats | None = None


async def read_belongings(
    redis: Redis, site: Site, names: Sequence[str], books: Books
) -> dict[str, Belongings]:
    """What is read later of the users *names*. Raises `StoreDown` when the server fails."""
    found = {name: Belongings() for name in names}
    for name, key, raw in await _values(redis, b"user:points:", names, site.points):
        with books.refusing("points_accounts", key):
            found[name].points = decoded(PointsAccount, raw)
            books.found("points_accounts")
    for name, key, raw in await _values(redis, b"user_login_stats:", names, site.logins):
        with books.refusing("login_stats", key):
            found[name].logins = decoded(LoginStats, raw)
            books.found("login_stats")
    holders = [name for name in names if name in site.history]
    keys = [b"user:points:history:" + name.encode() for name in holders]
    histories = await each(redis, "LRANGE", keys, 0, -1)
    for name, list_key, history in zip(holders, keys, histories, strict=True):
        for raw in history:
            with books.refusing("points_records", shown(list_key)):
                _take_record(found[name].records, decoded(PointsRecord, raw))
                books.found("points_records")
    return found


async def _values(
    redis: Redis, prefix: bytes, names: Sequence[str], having: set[str]
) -> list[tuple[str, str, bytes]]:
    """(name, key, value) of those of *names* that are *having* any."""
    holders = [name for name in names if name in having]
    keys = [prefix + name.encode() for name in holders]
    values = await each(redis, "GET", keys)
    found = zip(holders, keys, values, strict=True)
    return [(name, shown(key), value) for name, key, value in found if value is not None]


def _take_record(records: dict[str, PointsRecord], record: PointsRecord) -> None:
    if record.id in records:
        raise InvalidField("Duplicate id", "id", "one record of an id")
    if record.type == "earn" and record.amount < 0:
        raise InvalidField(INVALID_VALUE, "amount", "what is earned is not below 0")
    records[record.id] = record


async def count_records(redis: Redis, names: Sequence[str]) -> list[int]:
    """How long the histories of *names* are."""
    return await each(redis, "LLEN", [b"user:points:history:" + name.encode() for name in names])
