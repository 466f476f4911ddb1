"""
The accounts in a LunaTV's Redis, of whichever layout, read and never written.

Users are whoever has a password (`u:{user}:pwd`), a hash (`u:{user}:info`, MoonTVPlus:
`user:{user}:info`), a place in a list of users or in the configuration document. The
document says what a user may do; the hash counts where the document says nothing.

Names may contain ":", so a key says what it is by its type too: `user:points:{user}` is a
string, and the history `user:points:history:{user}` a list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs
from redis.asyncio import Redis

from ops.accounts_books import Books, Kind
from ops.importing import Refusal
from ops.lunatv_people import Person, Places, name_in, people_of
from ops.lunatv_source import (
    Progress,
    each,
    key_count,
    members_of,
    scan,
    shown,
    text_of,
    types_of,
)
from ops.lunatv_values import (
    INVALID_VALUE,
    CardKey,
    HeldKey,
    Invitation,
    InvitationSettings,
    IpReward,
    decoded,
    is_hash,
    parsed,
)
from shared.errors import InvalidField

DOCUMENT, INVITATION_CONFIG = b"admin:config", b"config:invitation"
_LISTS = (b"users:list", b"user:list", b"sys:users")
_SUBJECT = b"oidc:sub:"
_PREFIXES = (b"u", b"cardkey:hash:", b"invitation:", b"ip:reward:")


@dataclass(frozen=True, slots=True)
class _Shape:
    """A kind of key: what its name and its type are."""

    of: str
    kind: Kind
    type: bytes
    prefix: bytes
    suffix: bytes = b""

    def has_name(self, key: bytes) -> bool:
        return (
            key.startswith(self.prefix)
            and key.endswith(self.suffix)
            and len(key) > len(self.prefix) + len(self.suffix)
        )

    def name_in(self, key: bytes) -> str:
        """What stands between prefix and suffix. Raises `InvalidField` unless it is UTF-8."""
        return text_of(key[len(self.prefix) : len(key) - len(self.suffix)])


_SHAPES = (
    _Shape("password", "users", b"string", b"u:", b":pwd"),
    _Shape("hash", "users", b"hash", b"u:", b":info"),
    _Shape("plus_hash", "users", b"hash", b"user:", b":info"),
    _Shape("held", "user_card_keys", b"string", b"user:cardkey:"),
    _Shape("history", "points_records", b"list", b"user:points:history:"),
    _Shape("points", "points_accounts", b"string", b"user:points:"),
    _Shape("logins", "login_stats", b"string", b"user_login_stats:"),
    _Shape("card_key", "card_keys", b"string", b"cardkey:hash:"),
    _Shape("invitation", "invitations", b"string", b"invitation:invitee:"),
    _Shape("invitation", "invitations", b"string", b"invitation:inviter:"),
    _Shape("ip_reward", "ip_rewards", b"string", b"ip:reward:"),
)
_COMMANDS = {b"string": "GET", b"hash": "HGETALL"}
#: Read later, user by user.
_LATER = ("history", "points", "logins")


@dataclass(slots=True)
class Site:
    """All accounts; of what is read later, user by user, only who has any."""

    people: list[Person] = field(default_factory=list)
    card_keys: dict[str, CardKey] = field(default_factory=dict)
    held: dict[str, list[HeldKey]] = field(default_factory=lambda: defaultdict(list))
    invitations: list[Invitation] = field(default_factory=list)
    ip_rewards: list[IpReward] = field(default_factory=list)
    document: dict[str, Any] | None = None
    invitation_config: InvitationSettings | None = None
    history: set[str] = field(default_factory=set)
    points: set[str] = field(default_factory=set)
    logins: set[str] = field(default_factory=set)

    def mentions(self, name: str) -> bool:
        """Has anything to do with *name*, whoever that is?"""
        return (
            any(name in part for part in (self.history, self.points, self.logins, self.held))
            or any(key.bound_to == name for key in self.card_keys.values())
            or any(name in (each.inviter, each.invitee) for each in self.invitations)
        )


async def read_site(redis: Redis, owner: str, books: Books, progress: Progress) -> Site:
    """All accounts; what cannot be read goes to *books* as refused.

    The *owner* is a user if anything at all is about him: he needs no key of his own.
    Raises `StoreDown` when the server fails.
    """
    progress.keys = await key_count(redis) * len(_PREFIXES)
    reading = _Reading(books)
    for key, kind in (await types_of(redis, [DOCUMENT, INVITATION_CONFIG])).items():
        await reading.take_configuration(redis, key, kind)
    for key, kind in (await types_of(redis, _LISTS)).items():
        for member, score in await members_of(redis, key, kind):
            reading.take_listed(key, member, score)
    for prefix in _PREFIXES:
        async for keys in scan(redis, prefix, progress):
            await reading.take_keys(redis, keys)
    progress.seen = progress.keys
    site = reading.finished()
    others = {owner} if site.mentions(owner) else set()
    site.people = people_of(reading.places, owner, others, books)
    await _settle_subjects(redis, site.people)
    return site


class _Reading:
    """A site as far as it is read."""

    def __init__(self, books: Books) -> None:
        self.places = Places()
        self._books = books
        self._site = Site()
        self._invitations: dict[str, Invitation] = {}
        self._seen: set[bytes] = set()

    def finished(self) -> Site:
        site = self._site
        for held in site.held.values():
            held.sort(key=lambda key: (key.created_at, key.id))
        site.ip_rewards.sort(key=lambda each: (each.reward_time, each.ip_address))
        invited: set[str] = set()
        for invitation in sorted(self._invitations.values(), key=_age):
            self._books.found("invitations")
            if invitation.invitee in invited:
                where = f"invitation {invitation.id}"
                refusal = Refusal(where, "invited_twice", f"{invitation.invitee} was before")
                self._books.refuse("invitations", refusal)
                continue
            invited.add(invitation.invitee)
            site.invitations.append(invitation)
        return site

    async def take_configuration(self, redis: Redis, key: bytes, kind: bytes) -> None:
        if kind == b"none":
            return
        with self._books.refusing("configurations", shown(key)):
            _check_type(kind, b"string")
            [raw] = await each(redis, "GET", [key])
            if key == INVITATION_CONFIG:
                self._site.invitation_config = decoded(InvitationSettings, raw)
            else:
                self._take_document(parsed(raw))
            self._books.found("configurations")

    def _take_document(self, document: object) -> None:
        if not isinstance(document, dict):
            raise InvalidField(INVALID_VALUE, "value", "a JSON object")
        self._site.document = document
        part = document.get("UserConfig")
        entries = part.get("Users") if isinstance(part, dict) else None
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            try:
                self.places.entries.setdefault(name_in(entry), entry)
            except InvalidField as error:
                where = f"{shown(DOCUMENT)} UserConfig.Users[{number}]"
                self._books.refuse_value("users", where, error)

    def take_listed(self, key: bytes, member: bytes, score: float | None) -> None:
        try:
            name = text_of(member)
        except InvalidField as error:
            self._books.refuse_value("users", f"{shown(key)} {shown(member)}", error)
        else:
            self.places.listed[name] = self.places.listed.get(name) or score

    async def take_keys(self, redis: Redis, keys: Iterable[bytes]) -> None:
        named = [key for key in keys if key not in self._seen and _named(key)]
        self._seen.update(named)
        wanted: dict[bytes, list[tuple[_Shape, bytes]]] = defaultdict(list)
        for key, kind in (await types_of(redis, named)).items():
            shapes = _named(key)
            shape = next((each for each in shapes if each.type == kind), None)
            if shape is not None:
                wanted[b"" if shape.of in _LATER else kind].append((shape, key))
            elif kind != b"none" and not _is_record(key):
                with self._books.refusing(shapes[0].kind, shown(key)):
                    _check_type(kind, shapes[0].type)
        for kind, found in wanted.items():
            of_kind = [key for _, key in found]
            values = await each(redis, _COMMANDS[kind], of_kind) if kind else of_kind
            for (shape, key), value in zip(found, values, strict=True):
                if value is not None and value != {}:  # else it was deleted meanwhile
                    with self._books.refusing(shape.kind, shown(key)):
                        getattr(self, f"_take_{shape.of}")(shape.name_in(key), value)

    def _take_password(self, name: str, value: bytes) -> None:
        self.places.passwords[name] = text_of(value)

    def _take_hash(self, name: str, value: dict[bytes, bytes]) -> None:
        self.places.hashes[name] = {**self.places.hashes.get(name, {}), **_texts(value)}

    def _take_plus_hash(self, name: str, value: dict[bytes, bytes]) -> None:
        self.places.hashes[name] = {**_texts(value), **self.places.hashes.get(name, {})}

    def _take_history(self, name: str, _: bytes) -> None:
        self._site.history.add(name)

    def _take_points(self, name: str, _: bytes) -> None:
        self._site.points.add(name)

    def _take_logins(self, name: str, _: bytes) -> None:
        self._site.logins.add(name)

    def _take_held(self, name: str, value: bytes) -> None:
        held = decoded(HeldKey, value)
        if name != f"{held.username}:{held.id}":
            raise InvalidField("Ambiguous key", "key", "the user and the id that its value has")
        self._site.held[held.username].append(held)
        self._books.found("user_card_keys")

    def _take_card_key(self, name: str, value: bytes) -> None:
        if not is_hash(name):
            raise InvalidField("Invalid key", "key", "a SHA-256 in hex")
        self._site.card_keys[name] = structs.replace(decoded(CardKey, value), key_hash=name)
        self._books.found("card_keys")

    def _take_invitation(self, _: str, value: bytes) -> None:
        invitation = decoded(Invitation, value)  # each is stored twice
        self._invitations[invitation.id] = invitation

    def _take_ip_reward(self, name: str, value: bytes) -> None:
        self._site.ip_rewards.append(structs.replace(decoded(IpReward, value), ip_address=name))
        self._books.found("ip_rewards")


def _named(key: bytes) -> list[_Shape]:
    return [shape for shape in _SHAPES if shape.has_name(key)]


def _texts(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {text_of(name): text_of(value) for name, value in fields.items()}


def _check_type(kind: bytes, wanted: bytes) -> None:
    if kind != wanted:
        raise InvalidField("Wrong type", f"it is a {shown(kind)}", f"a {shown(wanted)}")


def _is_record(key: bytes) -> bool:
    """Has *key* the name of a play record, favorite or skip setting?"""
    return key.startswith(b"u:") and b"+" in key


def _age(invitation: Invitation) -> tuple[int, str]:
    return invitation.created_at, invitation.id


async def _settle_subjects(redis: Redis, people: Sequence[Person]) -> None:
    """Let one user alone have an identity of a login provider: whom the site logs in by it."""
    holders: dict[str, list[Person]] = defaultdict(list)
    for person in people:
        if person.profile.oidc_sub is not None:
            holders[person.profile.oidc_sub].append(person)
    for subject, persons in holders.items():
        if len(persons) == 1:
            continue
        [live] = await each(redis, "GET", [_SUBJECT + subject.encode()])
        name = shown(live or b"")
        holder = next((person for person in persons if person.name == name), persons[0])
        for person in persons:
            if person is not holder:
                person.profile = structs.replace(person.profile, oidc_sub=None)
                detail = f"the identity of a login provider is that of {holder.name}"
                person.repairs["identity_taken"] = detail
