"""When which fault comes: a function of the seed, the duration and the kinds alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

#: Faults at the same time.
AT_ONCE_MAX = 8
#: Share of the arrivals that are whole volleys.
_VOLLEYS = 0.06
#: The first comes when there is something to harm; the last has time to heal.
_QUIET_S = 3.0


@dataclass(frozen=True, slots=True)
class Planned:
    """The fault *number* (from 1) of a run."""

    number: int
    at_s: float
    kind: str


def plan(seed: int, duration_s: float, kinds: Sequence[str], every_s: float) -> list[Planned]:
    """Faults of *kinds* every *every_s* on the average, each kind as often as the others."""
    dice = random.Random(f"{seed}:plan")
    planned: list[Planned] = []
    deck: list[str] = []
    at_s = _QUIET_S
    while at_s < duration_s - _QUIET_S:
        volley = min(AT_ONCE_MAX, len(kinds)) if dice.random() < _VOLLEYS else 1
        for _ in range(volley):
            if not deck:
                # Dealt like cards: in a short run too, no kind is left out by chance.
                deck = list(kinds)
                dice.shuffle(deck)
            planned.append(Planned(len(planned) + 1, at_s, deck.pop()))
        at_s += dice.expovariate(1 / every_s)
    return planned
