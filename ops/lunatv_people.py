"""Who the users of a LunaTV site are: its several places for one user, made into one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from ops.accounts_books import Books
from ops.lunatv_values import (
    INVALID_VALUE,
    Membership,
    Profile,
    check_user,
    names_in,
    parsed,
    value_of,
)
from shared.errors import InvalidField
from shared.events import TIME_MS_MAX

#: Records of the flat layout are strings of any name: u:ann:pr:src+1:pwd is no password.
_RECORD_PARTS = (":pr:", ":fav:", ":skip:", ":episodeskip:")


@dataclass(slots=True)
class Person:
    """A user of the site. *password* is as the site stores it; None: there is none."""

    name: str
    profile: Profile
    password: str | None = field(repr=False)
    membership: Membership | None = None
    #: What had to be changed about this user: reason -> detail.
    repairs: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Places:
    """What the site says of users, by their names, place by place."""

    passwords: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Of the configuration document.
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: With the time (ms) of the list, where it tells one.
    listed: dict[str, float | None] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Everybody who is mentioned."""
        places = (self.passwords, self.hashes, self.entries, self.listed)
        return {name for place in places for name in place}


def people_of(places: Places, owner: str, others: Collection[str], books: Books) -> list[Person]:
    """Everybody in *places* by name, and *others*; who cannot be a user is refused.

    The password of the *owner* is the environment's, so his is left where it is.
    """
    people = []
    for name in sorted(places.names.union(others)):
        try:
            person = _person(places, name)
        except InvalidField as error:
            books.refuse_value("users", f"user {name}", error)
            continue
        books.found("users")
        if name == owner:
            person.password = None
        person.membership = _membership(places, name, books)
        people.append(person)
    return people


def _person(places: Places, name: str) -> Person:
    check_user(name)
    entry, fields = places.entries.get(name), places.hashes.get(name)
    if entry is None and fields is None and name not in places.listed and _may_be_record(name):
        raise InvalidField("Ambiguous key", "key", "a name that is no play record's")
    live, stale = _profile(entry or {}), _profile(fields or {})
    if entry is not None:  # whose last group or API is taken away has none in the entry
        stale = structs.replace(stale, tags=None, enabled_apis=None)
    profile = Profile(
        **{
            each: told if (told := getattr(live, each)) is not None else getattr(stale, each)
            for each in Profile.__struct_fields__
        }
    )
    created_at = profile.created_at or _time_in(places.listed.get(name))
    # Changing a password writes the first of these places alone.
    password = places.passwords.get(name) or stale.password or live.password
    return Person(name, structs.replace(profile, created_at=created_at), password)


def _may_be_record(name: str) -> bool:
    return any("+" in name.partition(part)[2] for part in _RECORD_PARTS)


def _profile(fields: Mapping[str, Any]) -> Profile:
    profile = value_of(Profile, {"createdAt": fields.get("created_at"), **fields})
    return structs.replace(
        profile,
        tags=None if profile.tags is None else names_in(profile.tags, "tags"),
        enabled_apis=(
            None if profile.enabled_apis is None else names_in(profile.enabled_apis, "enabledApis")
        ),
    )


def _time_in(score: float | None) -> int | None:
    return int(score) if score is not None and 0 < score <= TIME_MS_MAX else None


def _membership(places: Places, name: str, books: Books) -> Membership | None:
    live = places.entries.get(name, {}).get("cardKey")
    raw = live or places.hashes.get(name, {}).get("cardKey")
    if not raw:
        return None
    try:
        fields = parsed(raw.encode()) if isinstance(raw, str) else raw
        if fields is None:
            return None
        membership = value_of(Membership, fields)
    except InvalidField as error:
        books.refuse_value("memberships", f"user {name} cardKey", error)
        return None
    books.found("memberships")
    return membership


def name_in(entry: object) -> str:
    """Whom an entry of the configuration document is about. Raises `InvalidField`."""
    name = entry.get("username") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise InvalidField(INVALID_VALUE, "username", "text")
    return name
