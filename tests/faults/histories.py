"""
What one user wrote and was told, and hence what a read may show (promises 4 and 5).

A read must show, per record, the effect of the last write acknowledged before it began,
or of one that may have taken effect after that: a later one, or an earlier one whose
outcome nobody was told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

#: What a read shows of a key: the nonce of its record, None for no record.
Shown = str | None


class Outcome(Enum):
    """What its writer knows of a write."""

    IN_FLIGHT = "in flight"
    ACKNOWLEDGED = "acknowledged"
    #: Answered, and not by a 2xx: it took effect before the answer, or never will.
    REFUSED = "refused"
    #: No answer: it may take effect at any later time.
    UNANSWERED = "unanswered"
    NOT_SENT = "not sent"


@dataclass(eq=False, slots=True)
class Write:
    """One write of a user. *identity* finds its entry in a stream; *key* None: a clear."""

    identity: str
    key: str | None
    #: What a read shows of the key once this took effect.
    effect: Shown
    sent_at_s: float
    #: The shard's epoch when it was sent (site.epochs).
    epoch: int
    outcome: Outcome = Outcome.IN_FLIGHT
    answered_at_s: float = float("inf")

    def settle(self, outcome: Outcome, now_s: float) -> None:
        self.outcome, self.answered_at_s = outcome, now_s

    @property
    def lands_until_s(self) -> float:
        """From then on it either took effect or never will."""
        answered = self.outcome in {Outcome.ACKNOWLEDGED, Outcome.REFUSED}
        return self.answered_at_s if answered else float("inf")

    def is_told_by(self, moment_s: float) -> bool:
        """Whether its writer had been told by *moment_s* that it took effect."""
        return self.outcome is Outcome.ACKNOWLEDGED and self.answered_at_s <= moment_s

    def concerns(self, key: str) -> bool:
        return self.key is None or self.key == key


@dataclass(slots=True)
class History:
    """The writes of one user, in the order they were sent; there is one writer."""

    user: str
    shard: int
    #: The shard's epoch when the user first appeared: until it ends, all is known of them.
    born: int
    writes: list[Write] = field(default_factory=list)

    def judge(
        self, shown: Mapping[str, str], epoch: int, began_at_s: float, ended_at_s: float
    ) -> list[str]:
        """What is wrong with a read that showed *shown* (key -> nonce); empty for nothing.

        Keys not written and acknowledged in the present *epoch* are in doubt and not judged.
        """
        keys = {write.key for write in self.writes if write.key is not None} | set(shown)
        wrong: list[str] = []
        for key in sorted(keys):
            allowed = self._allowed(key, epoch, began_at_s, ended_at_s)
            if allowed is not None and shown.get(key) not in allowed:
                wrong.append(f"{key} shows {shown.get(key)}, allowed {sorted(map(str, allowed))}")
        return wrong

    def _allowed(
        self, key: str, epoch: int, began_at_s: float, ended_at_s: float
    ) -> set[Shown] | None:
        """What *key* may show; None where that is not known."""
        concerned = [write for write in self.writes if write.concerns(key)]
        told = next(
            (write for write in reversed(concerned) if write.is_told_by(began_at_s)),
            None,
        )
        if epoch != (self.born if told is None else told.epoch):
            return None
        since_s = float("-inf") if told is None else told.sent_at_s
        may_have_come_after = {
            write.effect
            for write in concerned
            if write.outcome is not Outcome.NOT_SENT
            and write.sent_at_s <= ended_at_s
            and (write.sent_at_s > since_s or write.lands_until_s > since_s)
        }
        return may_have_come_after | {None if told is None else told.effect}
