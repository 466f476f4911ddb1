"""
How the shards that wait are divided among workers: evenly, and moved no more than that takes.

Each worker decides for itself, by what the others last reported. A busy shard stays
where it is until a worker has two fewer than its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """What one worker knows of itself and of the others at one moment."""

    name: str
    #: Shards it drains and goes on draining.
    held: int
    #: Each other live worker's name -> the shards it drains.
    others: Mapping[str, int]
    #: Shards that have to be drained, by whomever.
    pending: int
    #: How many of these nobody drains yet.
    unheld: int = 0

    @property
    def share(self) -> int:
        """How many shards this worker may hold: never more than pending / workers, rounded up.

        What is over after an equal division goes to those who ask, once everybody has
        the equal part: two workers must not keep a third one without any.
        """
        equal, over = divmod(self.pending, len(self.others) + 1)
        all_have_theirs = all(held >= equal for held in self.others.values())
        return max(1, equal + bool(over and all_have_theirs))

    @property
    def surplus(self) -> int:
        """How many drains to end, so that a worker with fewer takes the shards over.

        Only the one with the most gives, and counts what is on its way already: all of
        them at once would give more than the newcomer may take.
        """
        others = {name: held for name, held in self.others.items() if name != self.name}
        if not others or (self.held, self.name) < max((n, name) for name, n in others.items()):
            return 0
        if self.held < min(others.values()) + self.unheld + 2:
            return 0
        return max(1, self.held - math.ceil(self.pending / (len(others) + 1)))

    @property
    def others_have_room(self) -> bool:
        """May another worker take one more shard?"""
        most = math.ceil(self.pending / (len(self.others) + 1))
        return any(held < most for held in self.others.values())
