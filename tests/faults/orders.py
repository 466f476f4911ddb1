"""The order of one user's writes: who was answered before the next was sent comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.faults.histories import History, Write
from tests.faults.tap import Entry


def out_of_order(histories: Iterable[History], applied: Iterable[Sequence[Entry]]) -> list[str]:
    """Writes that a stream held before one that was over when they were sent (promise 5).

    A refused one may be there or not, but never after a later one: its answer said so.
    """
    places = {entry.identity: place for entries in applied for place, entry in enumerate(entries)}
    return [
        f"{history.user}: {earlier.identity} ({earlier.outcome.value}) is after {later.identity}"
        for history in histories
        for earlier, later in _neighbours(history, places)
        if places[earlier.identity] > places[later.identity]
    ]


def _neighbours(history: History, places: dict[str, int]) -> Iterable[tuple[Write, Write]]:
    """Pairs of writes that are in the stream, the first over before the second was sent."""
    over: Write | None = None
    for write in history.writes:
        if write.identity not in places:
            continue
        if over is not None:
            yield over, write
        if over is None or places[write.identity] > places[over.identity]:
            # The one that is furthest in the stream is the one that a later must be behind.
            over = write if write.lands_until_s < float("inf") else over
