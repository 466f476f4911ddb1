"""When fronts began and ended and Redis' master changed: whose testimony there can be."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.rewinds import Rewind
    from tests.faults.site import Site

#: A front that ended is waited for until its last report is old, by Redis' clock, which
#: other faults shift by half a minute.
_FRONTS_BEFORE_MS = 60_000
#: Workers have gone on in the stream of a new master by then.
_MASTER_BEFORE_MS = 5_000
#: A front that was frozen meanwhile has testified by then.
_TESTIFIED_WITHIN_MS = 20_000
#: A look now and then sees a change so much later.
_SEEN_LATE_MS = 1_000


class Lifetimes:
    """Looks now and then which processes there are."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._fronts: set[int] = set()
        self._master: int | None = None
        #: When another front ran than before, and another master, by the machine's clock.
        self._front_changes_ms: list[int] = []
        self._master_changes_ms: list[int] = []

    async def look(self) -> None:
        """Note what changed since the last look."""
        now_ms = time.time_ns() // 1_000_000
        fronts = {front.pid for front in self._site.fronts if front.pid is not None}
        master = self._site.redis.master.server.pid
        if self._fronts and fronts != self._fronts:
            self._front_changes_ms.append(now_ms)
        if master is not None:
            if self._master not in {None, master}:
                self._master_changes_ms.append(now_ms)
            self._master = master
        self._fronts = fronts

    def were_steady(self, rewind: Rewind, until_ms: int) -> bool:
        """Whether every front lived from well before *rewind* to well after *until_ms*, when
        it was told, and saw no other master come than this rewind's: nothing keeps moonwake
        from counting exactly.
        """
        lost_ms = rewind.whole_at_ms
        over_ms = rewind.over_at_ms + _SEEN_LATE_MS
        fronts = any(
            lost_ms - _FRONTS_BEFORE_MS <= at <= until_ms + _TESTIFIED_WITHIN_MS
            for at in self._front_changes_ms
        )
        masters = any(
            lost_ms - _MASTER_BEFORE_MS <= at <= lost_ms or over_ms < at <= until_ms
            for at in self._master_changes_ms
        )
        return not fronts and not masters
