"""
The rules of accounts in plain Python: what every call answers, and what is stored afterwards.

What the program draws at random has a label here: a key is called after the call that made it,
an invitation code after its user. Two models are equal when everything stored is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.accounts import card_keys, points, users
from shared.accounts.invitations import REASON
from shared.accounts.ledger import KEY_REUSED
from shared.times import DAY_MS

DAYS = {"week": 7, "month": 30, "quarter": 90, "year": 365}
REDEEMED = {"week": "兑换周卡", "month": "兑换月卡", "quarter": "兑换季卡", "year": "兑换年卡"}
#: Addresses and what each counts as.
ADDRESSES = {
    "192.0.2.1": "192.0.2.1",
    "192.0.2.2": "192.0.2.2",
    "2001:db8::1": "2001:db8::/64",
    "2001:db8::2": "2001:db8::/64",
}
BOUND = "已使用的卡密不能删除"


class No(Exception):
    """A call is refused: the kind of error and its text."""


def refused(text: str) -> No:
    return No("Refused", text)


# --- what can be called -------------------------------------------------------------------


@dataclass(frozen=True)
class Register:
    name: str
    key: str = ""
    promotion: str = ""
    inviter: str = ""
    address: str = ""


@dataclass(frozen=True)
class Bind:
    name: str
    key: str


@dataclass(frozen=True)
class Redeem:
    name: str


@dataclass(frozen=True)
class Adjust:
    name: str
    amount: int


@dataclass(frozen=True)
class Earn:
    name: str
    amount: int


@dataclass(frozen=True)
class Ban:
    name: str
    banned: bool


@dataclass(frozen=True)
class DeleteUser:
    name: str


@dataclass(frozen=True)
class MakeKey:
    key: str
    type: str


@dataclass(frozen=True)
class DeleteKey:
    key: str


@dataclass(frozen=True)
class Expire:
    pass


@dataclass(frozen=True)
class CleanUp:
    pass


@dataclass(frozen=True)
class Configure:
    enabled: bool
    reward: int
    threshold: int
    type: str


Step = (
    Register
    | Bind
    | Redeem
    | Adjust
    | Earn
    | Ban
    | DeleteUser
    | MakeKey
    | DeleteKey
    | Expire
    | CleanUp
    | Configure
)


@dataclass(frozen=True)
class Call:
    """*step* as the operation *number* at *now_ms*; *body* stands for the request's text."""

    number: int
    step: Step
    now_ms: int
    body: str = ""
    #: The label of the code that was sent, for a registration.
    code: str = ""
    #: The label of the key that is bound, deleted or made.
    key: str = ""

    @property
    def makes(self) -> str:
        """The label of a key that this call draws."""
        return f"key of #{self.number}"


#: What a call answers: ("ok", what of it is not drawn at random) or (kind of error, text).
Answer = tuple[Any, ...]


# --- what is stored -----------------------------------------------------------------------


@dataclass
class Model:
    """Every table as label -> values; only tables that a user's deletion spares name others."""

    users: dict[str, tuple[str, bool]] = field(default_factory=dict)
    barred: dict[str, str] = field(default_factory=dict)
    #: name -> [code, balance, earned, redeemed]
    accounts: dict[str, list[Any]] = field(default_factory=dict)
    #: name -> (type, amount, reason, related user, key, admin, ms), in any order
    records: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    #: key -> [type, status, source, created, expires, bound to, bound at]
    keys: dict[str, list[Any]] = field(default_factory=dict)
    #: (name, key) -> [type, status, source, created, expires, used at, used by]
    held: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    #: name -> (key, bound at, expires)
    memberships: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    #: invitee -> (inviter, code, address, reward time or None, ms)
    invitations: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    #: what counts as one address -> (inviter, invitee, ms)
    addresses: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    config: tuple[bool, int, int, str] = (True, 100, 300, "week")
    #: number of a call that was made -> (body, answer)
    operations: dict[int, tuple[str, Answer]] = field(default_factory=dict)
    #: Codes given so far.
    codes: int = 0

    def copy(self) -> Model:
        """One that can be changed apart: values in lists are changed in place."""
        return Model(
            users=dict(self.users),
            barred=dict(self.barred),
            accounts={name: list(values) for name, values in self.accounts.items()},
            records={name: list(values) for name, values in self.records.items()},
            keys={key: list(values) for key, values in self.keys.items()},
            held={whose: list(values) for whose, values in self.held.items()},
            memberships=dict(self.memberships),
            invitations=dict(self.invitations),
            addresses=dict(self.addresses),
            config=self.config,
            operations=dict(self.operations),
            codes=self.codes,
        )

    def after(self, call: Call) -> tuple[Answer, Model]:
        """(what *call* answers, the model after it): once made, it is only answered again."""
        if call.number in self.operations:
            body, answer = self.operations[call.number]
            return (answer if body == call.body else ("Conflict", KEY_REUSED)), self
        model = self.copy()
        try:
            answer = ("ok", *_RULES[type(call.step)](model, call.step, call))
        except No as no:
            return no.args, self
        model.operations[call.number] = (call.body, answer)
        return answer, model


# --- the rules ----------------------------------------------------------------------------


def _account(model: Model, name: str) -> list[Any]:
    """Made if there is none yet."""
    if name not in model.users:
        raise No("NotFound", users.UNKNOWN)
    if name not in model.accounts:
        model.codes += 1
        model.accounts[name] = [f"code {model.codes}", 0, 0, 0]
    return model.accounts[name]


def _record(model: Model, name: str, *values: Any) -> None:
    model.records.setdefault(name, []).append(values)


def _register(model: Model, step: Register, call: Call) -> Answer:
    if step.name.lower() in {name.lower() for name in model.users}:
        raise refused(users.TAKEN)
    model.users[step.name] = ("user", False)
    model.barred.pop(step.name, None)
    _account(model, step.name)
    _invite(model, step, call)
    key = call.key
    if not key and step.promotion:
        key = call.makes
        _draw_key(model, key, step.promotion, "promotion_register", call.now_ms)
    if not key:
        return (step.name, None)
    return (step.name, _use(model, step.name, key, call.now_ms))


def _invite(model: Model, step: Register, call: Call) -> None:
    codes = {values[0]: name for name, values in model.accounts.items()}
    inviter = codes.get(call.code)
    if inviter is None or inviter == step.name:
        return
    enabled, reward, _, _ = model.config
    unit = ADDRESSES.get(step.address)
    pays = enabled and unit is not None and unit not in model.addresses
    paid_ms = call.now_ms if pays else None
    given = (inviter, call.code, step.address, paid_ms, call.now_ms)
    model.invitations[step.name] = given
    if pays and unit is not None:
        model.addresses[unit] = (inviter, step.name, call.now_ms)
        _earn_points(model, inviter, reward)
        _record(model, inviter, "earn", reward, REASON, step.name, None, None, call.now_ms)


def _earn_points(model: Model, name: str, amount: int) -> None:
    account = model.accounts[name]
    account[1] += amount
    account[2] += amount


def _bind(model: Model, step: Bind, call: Call) -> Answer:
    _account(model, step.name)
    return _use(model, step.name, call.key, call.now_ms)


def _use(model: Model, name: str, label: str, now_ms: int) -> Answer:
    """Bind the key *label* to *name*."""
    if label not in model.keys:
        raise refused(card_keys.UNKNOWN)
    key_type, status, source, created_ms, key_expires_ms, _, _ = model.keys[label]
    if status == "used":
        raise refused(card_keys.USED)
    if status == "expired" or key_expires_ms < now_ms:
        raise refused(card_keys.EXPIRED)
    before = model.memberships.get(name)
    expires_ms = key_expires_ms
    if before is not None:
        expires_ms = max(now_ms, before[2]) + DAYS[key_type] * DAY_MS
        if before[2] >= now_ms:
            model.held[name, before[0]][4] = expires_ms
    model.keys[label][1] = "used"
    model.keys[label][5:] = [name, now_ms]
    for (_, key), values in model.held.items():
        if key == label:
            values[1] = "used"
            values[5:] = [now_ms, name]
    hold = "promotion_register" if source == "promotion_register" else "manual"
    fresh = [key_type, "used", hold, created_ms, expires_ms, now_ms, name]
    model.held.setdefault((name, label), fresh)[4] = expires_ms
    model.memberships[name] = (label, now_ms, expires_ms)
    return (label, now_ms, expires_ms)


def _draw_key(model: Model, label: str, key_type: str, source: str, now_ms: int) -> None:
    expires_ms = now_ms + DAYS[key_type] * DAY_MS
    model.keys[label] = [key_type, "unused", source, now_ms, expires_ms, None, None]


def _redeem(model: Model, step: Redeem, call: Call) -> Answer:
    _, _, threshold, key_type = model.config
    if step.name not in model.users:
        raise No("NotFound", users.UNKNOWN)
    account = model.accounts.get(step.name)
    if account is None or account[1] < threshold:
        raise refused(points.TOO_FEW)
    account[1] -= threshold
    account[3] += threshold
    label, now_ms = call.makes, call.now_ms
    _draw_key(model, label, key_type, "points_redeem", now_ms)
    expires_ms = model.keys[label][4]
    model.held[step.name, label] = [key_type, "unused", "redeem", now_ms, expires_ms, None, None]
    reason = REDEEMED[key_type]
    _record(model, step.name, "redeem", -threshold, reason, None, label, None, now_ms)
    return (label, key_type, expires_ms)


def _adjust(model: Model, step: Adjust, call: Call) -> Answer:
    account = _account(model, step.name)
    if account[1] + step.amount < 0:
        raise refused(points.DEDUCT_TOO_MUCH)
    account[1] += step.amount
    cause = ("correction", None, None, "admin")
    _record(model, step.name, "admin_adjust", step.amount, *cause, call.now_ms)
    return ()


def _earn(model: Model, step: Earn, call: Call) -> Answer:
    _account(model, step.name)
    _earn_points(model, step.name, step.amount)
    _record(model, step.name, "earn", step.amount, "gift", None, None, None, call.now_ms)
    return ()


def _ban(model: Model, step: Ban, _call: Call) -> Answer:
    if step.name not in model.users:
        raise No("NotFound", users.UNKNOWN)
    role, _ = model.users[step.name]
    model.users[step.name] = (role, step.banned)
    if step.banned:
        model.barred[step.name] = "banned"
    else:
        model.barred.pop(step.name, None)
    return ()


def _delete_user(model: Model, step: DeleteUser, _call: Call) -> Answer:
    name = step.name
    if name not in model.users:
        raise No("NotFound", users.UNKNOWN)
    del model.users[name]
    model.accounts.pop(name, None)
    model.records.pop(name, None)
    model.memberships.pop(name, None)
    model.held = {whose: values for whose, values in model.held.items() if whose[0] != name}
    model.invitations = {
        invitee: values
        for invitee, values in model.invitations.items()
        if name not in (invitee, values[0])
    }
    for values in model.keys.values():
        if values[5] == name:
            values[5] = None
    model.barred[name] = "deleted"
    return ()


def _make_key(model: Model, step: MakeKey, call: Call) -> Answer:
    _draw_key(model, call.key, step.type, "admin_created", call.now_ms)
    return ()


def _delete_key(model: Model, _step: DeleteKey, call: Call) -> Answer:
    if call.key not in model.keys:
        raise No("NotFound", card_keys.UNKNOWN)
    if model.keys[call.key][1] == "used":
        raise refused(BOUND)
    del model.keys[call.key]
    _let_go(model, {call.key})
    return ()


def _let_go(model: Model, keys: set[str]) -> None:
    for (_, key), values in model.held.items():
        if key in keys and values[1] == "unused":
            values[1] = "expired"


def _expire(model: Model, _step: Expire | CleanUp, call: Call) -> Answer:
    over = {
        key
        for key, values in model.keys.items()
        if values[1] == "unused" and values[4] < call.now_ms
    }
    for key in over:
        model.keys[key][1] = "expired"
    _let_go(model, over)
    return (len(over),)


def _clean_up(model: Model, step: CleanUp, call: Call) -> Answer:
    _expire(model, step, call)
    expired = {key for key, values in model.keys.items() if values[1] == "expired"}
    for key in expired:
        del model.keys[key]
    return (len(expired),)


def _configure(model: Model, step: Configure, _call: Call) -> Answer:
    model.config = (step.enabled, step.reward, step.threshold, step.type)
    return ()


_RULES: dict[type[Any], Callable[[Model, Any, Call], Answer]] = {
    Register: _register,
    Bind: _bind,
    Redeem: _redeem,
    Adjust: _adjust,
    Earn: _earn,
    Ban: _ban,
    DeleteUser: _delete_user,
    MakeKey: _make_key,
    DeleteKey: _delete_key,
    Expire: _expire,
    CleanUp: _clean_up,
    Configure: _configure,
}
