"""How much one shard's batches take on: smaller after trouble, full size again after success."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.errors import ShardStopped
from shared.settings import Settings

#: Refusals by MySQL from which on the fault must be ours (protocol 18).
REFUSED_MAX, REFUSED_SHARE_MAX = 50, 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch closes."""

    rows: int
    entries: int
    bytes: int
    linger_ms: int
    #: Close before a second event of one key, where folding could not be exact.
    unfolded: bool = False


class Pace:
    """The limits of one shard in this process, and the refusals that made them small."""

    def __init__(self, settings: Settings) -> None:
        self.limits = self._full = Limits(
            rows=settings.batch_max_rows,
            entries=settings.batch_max_entries,
            bytes=settings.batch_max_bytes,
            linger_ms=settings.flush_interval_ms,
        )
        #: Refused entries, among how many, and what is left of the batch they were met in.
        self._refused = self._suspect = self._left = 0
        #: Was the last batch lost with its connection?
        self._lost = False

    def lose(self) -> None:
        """The connection was lost in the middle of a batch.

        Once that is an outage, whose backlog wants full batches. Again, it may be the batch:
        one that the server takes too long for, or dies of.
        """
        if self._lost:
            self.slow_down()
        self._lost = True

    def slow_down(self) -> None:
        """After a lock wait or a time-out."""
        self.limits = replace(
            self.limits,
            rows=max(1, self.limits.rows // 2),
            entries=max(1, self.limits.entries // 2),
        )

    def unfold(self) -> None:
        """The next batch closes before a second event of one key."""
        self.limits = replace(self.limits, unfolded=True)

    def narrow(self, entries: int) -> None:
        """MySQL refused a batch of *entries*: take the first half of them alone."""
        if not self._left:
            self._suspect += entries
            self._left = entries
        self.limits = replace(self.limits, entries=max(1, entries // 2))

    def refuse(self) -> None:
        """MySQL refuses this one entry. Raises `ShardStopped` when too many are."""
        self._refused += 1
        if self._refused >= max(REFUSED_MAX, self._suspect * REFUSED_SHARE_MAX):
            raise ShardStopped(
                f"MySQL refused {self._refused} of {max(self._suspect, self._refused)} entries:"
                " the fault is ours"
            )

    def succeed(self, entries: int) -> None:
        """A batch of *entries* committed."""
        self._lost = False
        if self._left:
            self._left = max(0, self._left - entries)
        else:
            self._went_on(entries)
        self.limits = replace(
            self._full,
            rows=min(self._full.rows, self.limits.rows * 2),
            entries=min(self._full.entries, self.limits.entries * 2),
        )

    def _went_on(self, entries: int) -> None:
        """Beyond such a batch, what is taken counts against what is refused.

        In a quiet shard batches are small: their refusals must add up where nothing else
        comes, and must not add up for months where they are few.
        """
        self._suspect += entries
        if self._suspect * REFUSED_SHARE_MAX >= max(REFUSED_MAX, self._refused):
            self._refused = self._suspect = 0
