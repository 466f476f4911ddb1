"""LunaTV sites with accounts, made by chance: whatever may contradict itself there does."""

from __future__ import annotations

import hashlib
import random
from datetime import datetime, timedelta
from typing import Any, cast

import orjson
from redis.asyncio import Redis

AT = 1_700_000_000_000
DAY = 86_400_000
OWNER = "admin"
TYPES = {"week": 7, "month": 30, "quarter": 90, "year": 365}


def moment(ms: int) -> datetime:
    """What a DATETIME(3) is read as."""
    return datetime(1970, 1, 1) + timedelta(milliseconds=ms)  # noqa: DTZ001 -- as the driver does


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def scrypt(password: str, salt: str = "0123456789abcdef" * 2) -> str:
    key = hashlib.scrypt(password.encode(), salt=salt.encode(), n=16_384, r=8, p=1, dklen=64)
    return f"{salt}:{key.hex()}"


async def put(site: Redis, key: str, value: Any) -> None:
    """*value* as JSON, or as it is where it is bytes."""
    await site.set(key, value if isinstance(value, bytes) else orjson.dumps(value))


async def put_fields(site: Redis, key: str, **fields: str) -> None:
    """A hash of texts."""
    await cast("Any", site.hset(key, mapping=cast("Any", fields)))


async def put_users(site: Redis, *entries: dict[str, Any], **parts: Any) -> None:
    """The configuration document with *entries* as its users."""
    await put(site, "admin:config", {"UserConfig": {"Users": list(entries)}, **parts})


def card_key(plain: str, kind: str = "week", **fields: Any) -> dict[str, Any]:
    """A key as LunaTV stores it, unused unless *fields* say otherwise."""
    return {
        "key": plain,
        "keyHash": sha256(plain),
        "keyType": kind,
        "status": "unused",
        "createdAt": AT,
        "expiresAt": AT + TYPES[kind] * DAY,
        "source": "admin_created",
        **fields,
    }


async def put_key(site: Redis, plain: str, **fields: Any) -> str:
    """Store a key; its hash."""
    key = card_key(plain, **fields)
    await put(site, f"cardkey:hash:{key['keyHash']}", key)
    return str(key["keyHash"])


def held_key(user: str, key_hash: str, id_: str, **fields: Any) -> dict[str, Any]:
    """A user's row of a key, unused unless *fields* say otherwise."""
    return {
        "id": id_,
        "keyHash": key_hash,
        "username": user,
        "type": "week",
        "status": "unused",
        "source": "redeem",
        "createdAt": AT,
        "expiresAt": AT + 7 * DAY,
        **fields,
    }


async def put_held(site: Redis, user: str, key_hash: str, id_: str, **fields: Any) -> None:
    await put(site, f"user:cardkey:{user}:{id_}", held_key(user, key_hash, id_, **fields))


def bound(key_hash: str, at: int = AT + DAY, until: int = AT + 40 * DAY) -> dict[str, Any]:
    """A membership."""
    return {"boundKey": key_hash, "boundAt": at, "expiresAt": until}


async def put_points(
    site: Redis, user: str, balance: int, earned: int, redeemed: int, **fields: Any
) -> None:
    account = {"username": user, "balance": balance, "totalEarned": earned, "updatedAt": AT}
    await put(site, f"user:points:{user}", {**account, "totalRedeemed": redeemed, **fields})


def points(id_: str, kind: str, amount: int, **fields: Any) -> dict[str, Any]:
    """A record of points."""
    return {
        "id": id_,
        "type": kind,
        "amount": amount,
        "reason": "邀请好友注册",
        "createdAt": AT,
        **fields,
    }


async def put_history(site: Redis, user: str, *records: dict[str, Any] | bytes) -> None:
    """Newest first, as they are given."""
    raw = [each if isinstance(each, bytes) else orjson.dumps(each) for each in records]
    await cast("Any", site.rpush(f"user:points:history:{user}", *raw))


async def put_invitation(
    site: Redis, inviter: str, invitee: str, ip: str = "192.0.2.1", **fields: Any
) -> None:
    """An invitation, stored twice as LunaTV does."""
    id_ = f"inv-{sha256(inviter + invitee)[:8]}"
    invitation = {
        "id": id_,
        "inviter": inviter,
        "invitee": invitee,
        "invitationCode": "C" * 16,
        "ipAddress": ip,
        "rewarded": False,
        "createdAt": AT,
        **fields,
    }
    await put(site, f"invitation:invitee:{invitee}", invitation)
    await put(site, f"invitation:inviter:{inviter}:{id_}", invitation)


async def put_reward(site: Redis, ip: str, inviter: str, invitee: str) -> None:
    reward = {"ipAddress": ip, "inviter": inviter, "invitee": invitee, "rewardTime": AT + 5}
    await put(site, f"ip:reward:{ip}", {"id": f"ip-{sha256(ip)[:8]}", **reward})


# --- by chance --------------------------------------------------------------------


class OddSite:
    """A site of *seed*: few users and keys, so that they meet in every way."""

    def __init__(self, site: Redis, seed: int, users: int = 12) -> None:
        self._site = site
        self._chance = random.Random(seed)
        self.names = [f"user{n}" for n in range(users)] + ["User1", OWNER, "a:b"]
        #: Whom the site does not know, or no more.
        self._anybody = [*self.names, "gone", "gone:too"]
        self._hashes: list[str] = []

    def _sometimes(self, probability: float) -> bool:
        return self._chance.random() < probability

    def _maybe(self, *fields: tuple[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields if self._sometimes(0.6)}

    def _time(self) -> int:
        return AT + self._chance.randrange(-50, 50) * DAY + self._chance.randrange(DAY)

    async def build(self) -> None:
        for n in range(14):
            await self._put_key(f"key{n}")
        self._hashes += [sha256("lost"), "no hash", sha256("lost too")]
        entries = [entry for name in self.names if (entry := await self._put_user(name))]
        await put_users(self._site, *entries, SiteConfig={"SiteName": "月"})
        for name in self._anybody:
            await self._put_belongings(name)
        await self._put_invitations()
        if self._sometimes(0.5):
            config = {"enabled": True, "rewardPoints": 7, "redeemThreshold": 9}
            await put(self._site, "config:invitation", {**config, "cardKeyType": "month"})

    async def _put_key(self, plain: str) -> None:
        chance, status = self._chance, self._chance.choice(["unused", "used", "used", "expired"])
        binding = self._maybe(("boundTo", chance.choice(self._anybody)), ("boundAt", self._time()))
        fields = binding if status == "used" or self._sometimes(0.2) else {}
        if self._sometimes(0.1):
            fields["key"] = "another text"
        if self._sometimes(0.05):
            fields["keyType"] = "century"
        key = card_key(plain, chance.choice([*TYPES]), status=status, **fields)
        self._hashes.append(key["keyHash"])
        await put(self._site, f"cardkey:hash:{key['keyHash']}", key)

    async def _put_user(self, name: str) -> dict[str, Any] | None:
        """What the keys say of *name*; returns what the document says, if anything."""
        chance = self._chance
        membership = {**bound(chance.choice(self._hashes), self._time(), self._time())}
        if self._sometimes(0.2):
            del membership["boundAt"]
        if self._sometimes(0.5):
            fields = {
                "role": chance.choice(["user", "admin", "owner"]),
                "banned": chance.choice(["true", "false"]),
                "password": sha256("secret"),
                "created_at": str(self._time()),
                "tags": chance.choice(['["vip"]', "vip, new", "vip", ""]),
                **self._maybe(("cardKey", orjson.dumps(membership).decode())),
            }
            await put_fields(self._site, f"{chance.choice(['u', 'user'])}:{name}:info", **fields)
        if self._sometimes(0.3):
            password = chance.choice([b"secret", scrypt("secret").encode(), b""])
            await self._site.set(f"u:{name}:pwd", password)
        if self._sometimes(0.3):
            await cast("Any", self._site.zadd("users:list", {name: self._time()}))
        if self._sometimes(0.2):
            return None
        return {
            "username": name,
            "role": chance.choice(["user", "admin", "owner"]),
            **self._maybe(
                ("banned", self._sometimes(0.5)),
                ("tags", ["a"]),
                ("oidcSub", chance.choice(["sub1", "sub2", f"sub-{name}"])),
                ("cardKey", {**membership, "boundKey": chance.choice(self._hashes)}),
            ),
        }

    async def _put_belongings(self, name: str) -> None:
        chance = self._chance
        ids: list[str] = []
        for key_hash in chance.sample(self._hashes, 3):
            id_ = f"{name}-{len(ids)}-{key_hash[:6]}"
            used = self._maybe(("usedBy", chance.choice(self._anybody)), ("usedAt", self._time()))
            status = chance.choice(["unused", "used", "expired"])
            more = used if status == "used" else {}
            kind = chance.choice([*TYPES])
            await put_held(self._site, name, key_hash, id_, status=status, type=kind, **more)
            ids.append(id_)
        if self._sometimes(0.7):
            code = chance.choice(["SAME", f"CODE{name}"])
            figures = [chance.choice([0, 100, 250, -3]) for _ in range(3)]
            await put_points(self._site, name, *figures, invitationCode=code)
        if self._sometimes(0.7):
            await put_history(self._site, name, *(self._record(name, ids, n) for n in range(6)))
        if self._sometimes(0.5):
            stats = {"loginCount": 3, "firstLoginTime": None, "lastLoginTime": self._time()}
            await put(self._site, f"user_login_stats:{name}", stats)

    def _record(self, name: str, ids: list[str], n: int) -> dict[str, Any] | bytes:
        chance, id_ = self._chance, f"{name}-{n}"
        if self._sometimes(0.05):
            return b"{broken"
        kind = chance.choice(["earn", "redeem", "admin_adjust", "earn"])
        if kind == "earn":
            more = {"relatedUser": f"friend-of-{name}-{n}"} if self._sometimes(0.5) else {}
            return points(id_, kind, chance.randrange(200), createdAt=self._time(), **more)
        amount = chance.randrange(-90, 90 if self._sometimes(0.3) else 0)
        more = {"cardKeyId": chance.choice([*ids, "gone"])} if kind == "redeem" else {}
        return points(id_, kind, amount, createdAt=self._time(), **more)

    async def _put_invitations(self) -> None:
        addresses = [
            *("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "192.0.2.3", "unknown", "some text"),
            *("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"),
        ]
        # Each pair once: the same reward given twice is what an audit is there to find.
        pairs = [(a, b) for a in self._anybody for b in self._anybody if a != b]
        for ip, (inviter, invitee) in zip(
            addresses, self._chance.sample(pairs, len(addresses)), strict=True
        ):
            if self._sometimes(0.8):
                await put_invitation(self._site, inviter, invitee, ip)
            if self._sometimes(0.8):
                await put_reward(self._site, ip, inviter, invitee)
            if self._sometimes(0.8):
                record = points(f"r-{sha256(ip)[:6]}", "earn", 100, relatedUser=invitee)
                await put_history(self._site, inviter, record)
