"""
Accounts against a model: whatever is called in whatever order, also at the same moment.

`pytest --hypothesis-profile=thorough` looks many times as long.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ops.audit import audit
from shared.accounts import card_keys, invitations, points, users
from shared.accounts.card_keys import CardKey, hash_of
from shared.accounts.invitations import Invitation, InvitationConfig
from shared.accounts.ledger import Operation
from shared.accounts.memberships import Membership
from shared.accounts.points import Cause
from shared.errors import Refused
from shared.mysql import Cursor, transaction
from shared.times import DAY_MS
from tests.account_site import ADMIN, NOW_MS, AccountSite, account_site
from tests.databases import SchemaDatabase
from tests.integration.accounts_model import (
    ADDRESSES,
    DAYS,
    Adjust,
    Answer,
    Ban,
    Bind,
    Call,
    CleanUp,
    Configure,
    DeleteKey,
    DeleteUser,
    Earn,
    Expire,
    MakeKey,
    Model,
    Redeem,
    Register,
    Step,
)
from tests.integration.accounts_stored import (
    Labels,
    Rows,
    Tables,
    codes_in,
    rows_in,
    tables_in,
    tables_of,
)

#: Two differ by case alone; "met" is stored at the start, but has no account.
NAMES = st.sampled_from(["ann", "bob", "met", "Ann"])
MADE = [f"k{number}" for number in range(1, 5)]
#: Also the newest key that somebody redeemed, whoever uses it.
KEYS = st.sampled_from([*MADE, "of ann", "of bob", "of met"])
TYPES = st.sampled_from(["week", "month", "quarter", "year"])
ADDRESS = st.sampled_from(["", *ADDRESSES])

REGISTERED = st.builds(
    Register,
    NAMES,
    key=st.just("") | KEYS,
    promotion=st.just("") | TYPES,
    inviter=st.just("") | NAMES,
    address=ADDRESS,
)
BOUND = st.builds(Bind, NAMES, KEYS)
REDEEMED = st.builds(Redeem, NAMES)
STEPS: st.SearchStrategy[Step] = st.one_of(
    REGISTERED,
    BOUND,
    REDEEMED,
    st.builds(Adjust, NAMES, st.sampled_from([300, 1, -1, -300])),
    st.builds(Earn, NAMES, st.sampled_from([300, 1])),
    st.builds(Ban, NAMES, st.booleans()),
    st.builds(DeleteUser, NAMES),
    st.builds(DeleteKey, KEYS),
    st.just(Expire()),
    st.just(CleanUp()),
    st.builds(Configure, st.booleans(), st.sampled_from([100, 300]), st.just(300), TYPES),
)
BODIES = st.sampled_from(["a body", "another body"])


def differing(tables: Tables, others: Tables) -> Tables:
    """What *tables* hold that *others* do not, or otherwise."""
    found = {
        table: {
            label: values
            for label, values in rows.items()
            if label not in others[table] or others[table][label] != values
        }
        for table, rows in tables.items()
    }
    return {table: rows for table, rows in found.items() if rows}


class AccountMachine(RuleBasedStateMachine):
    """A front and its database, and the model that says what they have to do."""

    def __init__(self, database: SchemaDatabase) -> None:
        super().__init__()
        self.model = Model(users={"met": ("user", False)})
        self.now_ms = NOW_MS
        self.calls: list[Call] = []
        #: Of what was drawn its label, and the way back.
        self.labels: dict[str, str] = {}
        self.drawn: dict[str, str] = {}
        self.operations: dict[str, int] = {}
        self.agrees = True
        self.loop = asyncio.Runner()
        self.opened = AsyncExitStack()
        self.site = self.loop.run(self.open(database))

    async def open(self, database: SchemaDatabase) -> AccountSite:
        settings = await database.restore()
        # Without locks: nothing but the database keeps rivals apart.
        site = await self.opened.enter_async_context(account_site(settings, locks=False))
        async with transaction(site.pool) as cursor:
            await cursor.execute("INSERT INTO users (username, password_hash) VALUES ('met', '!')")
        return site

    def teardown(self) -> None:
        try:
            if self.agrees:
                assert [] == self.loop.run(audit(self.site.pool, ADMIN))
        finally:
            self.loop.run(self.opened.aclose())
            self.loop.close()

    # --- what happens ---------------------------------------------------------------------

    @rule(key=st.sampled_from(MADE), key_type=TYPES)
    def make(self, key: str, key_type: str) -> None:
        """An admin makes a key, unless it is there."""
        if key not in self.model.keys:
            self.see([self.call(MakeKey(key, key_type))])

    @rule(step=REGISTERED)
    def register(self, step: Register) -> None:
        self.see([self.call(step)])

    @rule(step=STEPS)
    def do(self, step: Step) -> None:
        self.see([self.call(step)])

    @rule(steps=st.lists(STEPS, min_size=2, max_size=4))
    def do_at_once(self, steps: list[Step]) -> None:
        self.see([self.call(step) for step in steps])

    @rule(step=STEPS, times=st.integers(2, 4))
    def do_each_at_once(self, step: Step, times: int) -> None:
        """Several clients want the same."""
        self.see([self.call(step) for _ in range(times)])

    @rule(key=KEYS, names=st.lists(NAMES, min_size=2, max_size=4))
    def bind_at_once(self, key: str, names: list[str]) -> None:
        self.see([self.call(Bind(name, key)) for name in names])

    @rule(step=STEPS, bodies=st.lists(BODIES, min_size=2, max_size=3))
    def send_again_at_once(self, step: Step, bodies: list[str]) -> None:
        """One operation, sent again before there was an answer."""
        call = self.call(step)
        self.see([replace(call, body=body) for body in bodies])

    @precondition(lambda self: self.calls)
    @rule(back=st.integers(0, 20), body=BODIES)
    def send_again(self, back: int, body: str) -> None:
        """An earlier operation, long after its answer."""
        self.see([replace(self.calls[-1 - back % len(self.calls)], body=body)])

    @rule(days=st.sampled_from([1, 6, 7, 30, 400]), ms=st.sampled_from([0, 1, -1]))
    def wait(self, days: int, ms: int) -> None:
        self.now_ms += days * DAY_MS + ms

    def call(self, step: Step) -> Call:
        """*step* as it is sent now, by whoever knows codes and keys up to now."""
        key = getattr(step, "key", "")
        if key.startswith("of "):
            mine = [label for name, label in self.model.held if name == key.removeprefix("of ")]
            key = mine[-1] if mine else key
        account = self.model.accounts.get(getattr(step, "inviter", ""))
        number = len(self.calls) + 1
        code = account[0] if account else ""
        call = Call(number, step, self.now_ms + number, "a body", code, key)
        self.calls.append(call)
        return call

    # --- what it comes to -----------------------------------------------------------------

    def see(self, calls: Sequence[Call]) -> None:
        """Make *calls* at one moment: it comes to what some order of them comes to."""
        self.agrees = False
        answers = self.loop.run(self.answers_to(calls))
        rows = self.loop.run(rows_in(self.site.pool))
        nearest = []
        for order in itertools.permutations(range(len(calls))):
            model, told = self.model, dict(enumerate(answers))
            for at in order:
                told[at], model = model.after(calls[at])
            expected = {"answers": told, **tables_of(model)}
            found = {"answers": dict(enumerate(answers)), **self.tables(rows, model)}
            if expected == found:
                self.model, self.agrees = model, True
                self.learn(rows, model)
                return
            nearest.append((differing(expected, found), differing(found, expected)))
        expected, found = min(nearest, key=lambda pair: sum(map(len, (*pair[0].values(),))))
        assert expected == found, f"no order of these comes to that: {calls}"

    def tables(self, rows: Rows, model: Model) -> Tables:
        """What is stored, where whoever has a new code in *model* has drawn it."""
        known = {**self.new_codes(rows, model), **self.labels}
        return tables_in(rows, Labels(self.labels, known, self.operations))

    def learn(self, rows: Rows, model: Model) -> None:
        """Remember the codes that were drawn."""
        for code, label in self.new_codes(rows, model).items():
            self.labels[code], self.drawn[label] = label, code

    def new_codes(self, rows: Rows, model: Model) -> dict[str, str]:
        """Those of the users of *model* that have no label yet."""
        return {
            code: model.accounts[name][0]
            for name, code in codes_in(rows).items()
            if code not in self.labels and name in model.accounts
            if model.accounts[name][0] not in self.drawn
        }

    async def answers_to(self, calls: Sequence[Call]) -> list[Answer]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.answer(call)) for call in calls]
        return [task.result() for task in tasks]

    async def answer(self, call: Call) -> Answer:
        """What the program answers to *call*, in the model's words."""
        operation = Operation(f"{call.number:064}", call.body)
        self.operations[operation.id] = call.number
        try:
            return ("ok", *await self.made(call, operation))
        except Refused as error:
            return (type(error).__name__, str(error))

    async def made(self, call: Call, operation: Operation) -> Answer:
        site, now_ms, plain_key = self.site, call.now_ms, self.plain_key(call)
        match call.step:
            case Register(name, _, promotion, inviter, address):
                code = self.drawn.get(call.code, "no such code")
                created = await site.register(
                    name,
                    card_key=plain_key or None,
                    promotion=promotion or None,  # type: ignore[arg-type]
                    invitation=Invitation(code, address or None) if inviter else None,
                    now_ms=now_ms,
                    operation=operation,
                )
                return (created.username, self.shown(created.membership, call))
            case Bind(name, _):
                return self.shown(await site.bind(name, plain_key, now_ms, operation), call) or ()
            case Redeem(name):
                key = await site.redeem(name, now_ms, operation)
                return (self.label(key.key, call.makes), key.key_type, key.expires_at)
            case Adjust(name, amount):
                await site.adjust(name, amount, now_ms, operation)
                return ()
            case Expire() | CleanUp():
                work = card_keys.expire if call.step == Expire() else card_keys.clean_up
                count = await site.ledger.perform(
                    operation, [], lambda cursor: work(cursor, now_ms), int
                )
                return (count,)
        await site.run(lambda cursor: self.work(cursor, call), operation)
        return ()

    async def work(self, cursor: Cursor, call: Call) -> None:
        """What of *call* is one function of the program, and returns nothing."""
        match call.step:
            case Earn(name, amount):
                await points.lock_account(cursor, name)
                await points.earn(cursor, name, amount, Cause("gift"), call.now_ms)
            case Ban(name, banned):
                await users.set_banned(cursor, name, banned=banned)
            case DeleteUser(name):
                await users.delete(cursor, name)
            case DeleteKey(_):
                await card_keys.delete_unused(cursor, hash_of(self.plain_key(call)))
            case Configure(enabled, reward, threshold, kind):
                config = InvitationConfig(enabled, reward, threshold, kind)  # type: ignore[arg-type]
                await invitations.write_config(cursor, config)
            case MakeKey(_, kind):
                expires_ms = call.now_ms + DAYS[kind] * DAY_MS
                plain = self.plain_key(call)
                key = CardKey(
                    *(plain, hash_of(plain), kind, "unused", call.now_ms, expires_ms),  # type: ignore[arg-type]
                    source="admin_created",
                )
                await card_keys.insert(cursor, [key])

    def plain_key(self, call: Call) -> str:
        """The text of the key that *call* is about; a key that an admin made is its label."""
        if call.key in MADE:
            self.label(call.key, call.key)
        return self.drawn.get(call.key, call.key)

    def label(self, plain_key: str, label: str) -> str:
        self.labels[hash_of(plain_key)], self.drawn[label] = label, plain_key
        return label

    def shown(self, membership: Membership | None, call: Call) -> Any:
        if membership is None:
            return None
        if not call.key and membership.plain_key:
            self.label(membership.plain_key, call.makes)
        label = self.labels[membership.bound_key]
        return (label, membership.bound_at, membership.expires_at)


def test_accounts_do_what_the_model_does(schema_database: SchemaDatabase) -> None:
    """
    Every answer and every row, and calls of the same moment come to what some order of them
    comes to; the tables agree with each other at the end.
    """
    default = hypothesis.settings.default
    assert default is not None
    run_state_machine_as_test(
        lambda: AccountMachine(schema_database),  # type: ignore[arg-type]  # or what makes one
        settings=hypothesis.settings(
            default, max_examples=default.max_examples // 4, stateful_step_count=30
        ),
    )
