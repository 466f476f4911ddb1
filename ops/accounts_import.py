"""
From what a LunaTV's Redis holds to rows: user by user, each with all that is theirs in one
transaction, in an order that leaves every agreement between the tables true at each commit.

Card keys that nobody bound and rewarded addresses come first, for users' rows are about them;
invitations come after both of their users. What is stored here stays, so it may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from redis.asyncio import Redis

from ops.accounts_books import Books, Kind, Note
from ops.accounts_cards import bring_keys, bring_loose_keys, read_holdings
from ops.accounts_invitations import (
    bring_document,
    bring_invitation_config,
    bring_invitations,
    bring_rewards,
)
from ops.accounts_page import Page, Task
from ops.accounts_points import bring_points
from ops.accounts_users import bring_logins, bring_user
from ops.card_plan import PlannedKey, by_owner, plan_keys
from ops.importing import Refusal, by_halves, patiently, refusal_of
from ops.lunatv_accounts import DOCUMENT, INVITATION_CONFIG, Site, read_site
from ops.lunatv_belongings import Belongings, count_records, read_belongings
from ops.lunatv_people import Person
from ops.lunatv_source import Progress, shown
from ops.lunatv_values import INVALID_VALUE
from shared.accounts import passwords
from shared.accounts.users import NO_PASSWORD
from shared.errors import DataRefused, InvalidField, Taken
from shared.mysql import reading, transaction
from shared.times import now_ms
from worker.deps import Deps
from worker.sinks.folding import days_in

T = TypeVar("T")

#: Users whose points are read, and whose passwords are hashed, at a time.
_USERS_MAX = 50
_BATCH_MAX = 200
_REFUSED = "refused_by_mysql"
_HASH_MAX = 255
#: With a plaintext password, until it is hashed; and all that a dry run needs to know.
_SOME_PASSWORD = "*"  # noqa: S105
_DELETED = "SELECT username FROM barred_users WHERE reason = 'deleted'"
_SETTLED = "SELECT username FROM users WHERE password_hash <> '!' AND username IN"


class AccountsImport:
    """One import; a dry one writes nothing, and counts all the same."""

    def __init__(
        self,
        deps: Deps,
        *,
        dry: bool,
        restore: bool,
        note: Callable[[Note], None],
        tick: Callable[[Progress, Books], None],
    ) -> None:
        self._deps = deps
        self._dry = dry
        self._restore = restore
        self._note = note
        self._tick = tick
        self.books = Books()
        self.progress = Progress()

    async def run(self, source: Redis) -> Books:
        """Take everything from *source*.

        Raises `StoreDown` or `Transient` when a store fails; what was written stays, and
        running it again goes on.
        """
        self._show()
        site = await read_site(source, self._deps.settings.username, self.books, self.progress)
        await self._leave_deleted(source, site)
        keys = plan_keys(site.card_keys, site.people, site.held)
        task = Task(
            site=site,
            keys=keys,
            owned=by_owner(keys.values()),
            owner=self._deps.settings.username,
            now_ms=now_ms(),
            day_of=days_in(self._deps.settings.stats_timezone),
            dry=self._dry,
            restore=self._restore,
        )
        await self._bring_unowned(task)
        await self._bring_people(source, task)
        await self._in_batches(task, site.invitations, bring_invitations, "invitations")
        await self._bring_configuration(task, bring_document, DOCUMENT)
        await self._bring_configuration(task, bring_invitation_config, INVITATION_CONFIG)
        self._show()
        return self.books

    # --- what is refused as a whole ---------------------------------------------

    async def _leave_deleted(self, source: Redis, site: Site) -> None:
        """Refuse users who were deleted here, and whatever is of users whom the site lacks."""
        deleted = set() if self._restore else await self._names(_DELETED)
        gone = [person for person in site.people if person.name in deleted]
        site.people = [person for person in site.people if person.name not in deleted]
        for person in gone:
            self._refuse_user(person.name, "deleted_here", {"users": 1, **_memberships(person)})
        names = {person.name for person in site.people}
        others = (site.points | site.history | site.logins | site.held.keys()) - names
        with_history = sorted(others & site.history)
        lengths = dict(zip(with_history, await count_records(source, with_history), strict=True))
        for name in sorted(others):
            counts: dict[Kind, int] = {
                "points_accounts": int(name in site.points),
                "points_records": lengths.get(name, 0),
                "login_stats": int(name in site.logins),
            }
            for kind, count in counts.items():
                self.books.found(kind, count)
            counts["user_card_keys"] = len(site.held.get(name, ()))
            reason = "deleted_here" if name in deleted else "no_such_user"
            self._refuse_user(name, reason, counts)
        self._show()

    async def _names(self, query: str, values: Sequence[str] = ()) -> set[str]:
        """The names that *query* finds for *values*."""

        async def attempt() -> set[str]:
            async with reading(self._deps.pool) as cursor:
                await cursor.execute(query, values)
                return {name for [name] in await cursor.fetchall()}

        return await patiently(attempt)

    def _refuse_user(
        self, name: str, reason: str, counts: Mapping[Kind, int], detail: str = ""
    ) -> None:
        for kind, count in counts.items():
            if count:
                refusal = Refusal(
                    f"user {name}", reason, detail or f"{count} {kind.replace('_', ' ')}"
                )
                self.books.refuse(kind, refusal, count)

    # --- transactions -----------------------------------------------------------

    async def _bring_unowned(self, task: Task) -> None:
        """What has no user, and must be here before the users are."""
        await self._in_batches(task, task.owned.get(None, []), bring_loose_keys, "card_keys")
        await self._in_batches(task, task.site.ip_rewards, bring_rewards, "ip_rewards")

    async def _in_batches(
        self,
        task: Task,
        items: Sequence[T],
        bring: Callable[[Page, Sequence[T]], Awaitable[None]],
        kind: Kind,
    ) -> None:
        def refuse(item: T, error: DataRefused) -> None:
            self.books.refuse(kind, Refusal(_label(item), _REFUSED, str(error)))

        async def write(batch: Sequence[T]) -> None:
            await self._commit(task, lambda page: bring(page, batch))

        for start in range(0, len(items), _BATCH_MAX):
            await by_halves(items[start : start + _BATCH_MAX], write, refuse)
            self._show()

    async def _bring_people(self, source: Redis, task: Task) -> None:
        people = task.site.people
        self.progress.keys, self.progress.seen = len(people), 0
        for start in range(0, len(people), _USERS_MAX):
            some = people[start : start + _USERS_MAX]
            names = [person.name for person in some]
            belongings = await read_belongings(source, task.site, names, self.books)
            hashes = await self._password_hashes(some)
            for person in some:
                await self._bring_person(task, person, belongings[person.name], hashes[person.name])
            self.progress.seen += len(some)
            self._show()

    async def _bring_person(
        self, task: Task, person: Person, belongings: Belongings, password_hash: str
    ) -> None:
        async def work(page: Page) -> None:
            may_log_in = await bring_user(page, person, password_hash)
            holdings = await read_holdings(page, person)
            held_ids = holdings.usable(task.site.held.get(person.name, ()))
            await bring_points(page, person.name, belongings, held_ids, may_log_in=may_log_in)
            await bring_logins(page, person.name, belongings.logins)
            await bring_keys(page, person, holdings)

        try:
            await self._commit(task, work)
        except DataRefused as error:
            counts = {"users": 1, **_memberships(person), **_counts(task, person.name, belongings)}
            self._refuse_user(person.name, _REFUSED, counts, str(error))

    async def _bring_configuration(
        self, task: Task, work: Callable[[Page], Awaitable[None]], key: bytes
    ) -> None:
        try:
            await self._commit(task, work)
        except InvalidField as error:
            self.books.refuse("configurations", refusal_of(shown(key), error))
        except DataRefused as error:
            self.books.refuse("configurations", Refusal(shown(key), _REFUSED, str(error)))

    async def _commit(self, task: Task, work: Callable[[Page], Awaitable[None]]) -> None:
        """Do *work* in a transaction; what it counted counts once that is committed."""

        async def attempt() -> Books:
            books = Books()
            async with transaction(self._deps.pool) as cursor:
                await work(Page(task, cursor, books))
            return books

        try:
            done = await patiently(attempt)
        except Taken:  # a play or a login was first: now its row is seen
            done = await patiently(attempt)
        self.books.merge(done)

    # --- passwords --------------------------------------------------------------

    async def _password_hashes(self, people: Sequence[Person]) -> dict[str, str]:
        """What to store for each; several are hashed at once, and none that is not wanted."""
        names = [person.name for person in people]
        places = ", ".join(["%s"] * len(names))
        settled = await self._names(f"{_SETTLED} ({places})", names)
        wanted = [person for person in people if person.name not in settled]
        hashes = await asyncio.gather(*(self._password_hash(person) for person in wanted))
        return dict.fromkeys(names, NO_PASSWORD) | dict(
            zip((person.name for person in wanted), hashes, strict=True)
        )

    async def _password_hash(self, person: Person) -> str:
        text = person.password
        if not text:
            return NO_PASSWORD
        try:
            if passwords.looks_hashed(text):
                _check_length(text)
                return text  # until its user logs in
            passwords.check(text)
        except InvalidField as error:
            person.repairs["password_unusable"] = f"allowed is {error.allowed}"
            return NO_PASSWORD
        return _SOME_PASSWORD if self._dry else await passwords.hashed(text)

    # --- telling ----------------------------------------------------------------

    def _show(self) -> None:
        for note in self.books.drain_notes():
            self._note(note)
        self._tick(self.progress, self.books)


def _check_length(password_hash: str) -> None:
    if len(password_hash) > _HASH_MAX:
        raise InvalidField(INVALID_VALUE, "password", f"a hash of at most {_HASH_MAX} characters")


def _label(item: object) -> str:
    """What *item* is, without what is in it."""
    return item.key.key_hash if isinstance(item, PlannedKey) else str(getattr(item, "id", ""))


def _memberships(person: Person) -> dict[Kind, int]:
    return {"memberships": int(person.membership is not None)}


def _counts(task: Task, name: str, belongings: Belongings) -> dict[Kind, int]:
    """How much was found that is of the user *name*."""
    own = [key for key in task.owned.get(name, ()) if key.found]
    return {
        "points_accounts": int(belongings.points is not None),
        "points_records": len(belongings.records),
        "login_stats": int(belongings.logins is not None),
        "user_card_keys": len(task.site.held.get(name, ())),
        "card_keys": len(own),
    }
