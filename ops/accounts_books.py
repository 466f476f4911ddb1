"""The books of an import of accounts: what became of everything that was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ops.importing import Refusal, refusal_of
from shared.errors import InvalidField

Kind = Literal[
    "users",
    "card_keys",
    "user_card_keys",
    "memberships",
    "points_accounts",
    "points_records",
    "invitations",
    "ip_rewards",
    "login_stats",
    "configurations",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: What can become of something, unless it is refused.
Fate = Literal["created", "filled", "kept"]


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the report: something was refused, or mended on the way in."""

    what: Literal["refused", "repaired"]
    kind: Kind
    where: str
    reason: str
    detail: str


@dataclass(slots=True)
class Tally:
    """found = created + filled + kept + refused; *repaired* may be any of them, or new rows."""

    found: int = 0
    created: int = 0
    filled: int = 0
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.found += other.found
        self.created += other.created
        self.filled += other.filled
        self.kept += other.kept
        self.refused.update(other.refused)
        self.repaired.update(other.repaired)

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "found": self.found,
            "created": self.created,
            "filled": self.filled,
            "kept": self.kept,
            "refused": self.refused.total(),
            "refused_by_reason": dict(sorted(self.refused.items())),
            "repaired": self.repaired.total(),
            "repaired_by_reason": dict(sorted(self.repaired.items())),
        }


class Books:
    """A tally of each kind, and the notes behind them.

    A transaction keeps books of its own, and they count once it is committed.
    """

    def __init__(self) -> None:
        self.tallies: dict[Kind, Tally] = {}
        self.notes: list[Note] = []

    def __getitem__(self, kind: Kind) -> Tally:
        return self.tallies.setdefault(kind, Tally())

    @property
    def refused(self) -> int:
        """How much was not taken, of whatever kind."""
        return sum(tally.refused.total() for tally in self.tallies.values())

    def found(self, kind: Kind, count: int = 1) -> None:
        self[kind].found += count

    def settle(self, kind: Kind, fate: Fate, count: int = 1) -> None:
        """Something that was found came along, or was here before."""
        tally = self[kind]
        setattr(tally, fate, getattr(tally, fate) + count)

    def refuse(self, kind: Kind, refusal: Refusal, count: int = 1) -> None:
        """Something that was found is not taken; *count* of them for one reason."""
        self[kind].refused[refusal.reason] += count
        self.notes.append(Note("refused", kind, refusal.where, refusal.reason, refusal.detail))

    def refuse_value(self, kind: Kind, where: str, error: InvalidField) -> None:
        """Something was found that is not what it should be."""
        self.found(kind)
        self.refuse(kind, refusal_of(where, error))

    @contextmanager
    def refusing(self, kind: Kind, where: str) -> Iterator[None]:
        """Let what is inside refuse the value at *where* by an `InvalidField`."""
        try:
            yield
        except InvalidField as error:
            self.refuse_value(kind, where, error)

    def repair(self, kind: Kind, where: str, reason: str, detail: str) -> None:
        """Something does not come along as it was found."""
        self[kind].repaired[reason] += 1
        self.notes.append(Note("repaired", kind, where, reason, detail))

    def merge(self, other: Books) -> None:
        """What *other* counted counts here."""
        for kind, tally in other.tallies.items():
            self[kind].add(tally)
        self.notes.extend(other.notes)

    def drain_notes(self) -> Iterable[Note]:
        """The notes so far, each told once."""
        notes, self.notes = self.notes, []
        return notes
