"""
Which entries Redis lost before they were applied, and whether moonwake counted them right.

An incident says behind which position a stream was lost; that names the lost entries one
by one, so that the oracle can leave out exactly these. If the position or the count is
wrong, either the bounds here are broken or MySQL is not what the oracle says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field

from tests.faults.rewinds import Forgotten, Incident, Rewind
from tests.faults.tap import Entry, Tape


@dataclass(slots=True)
class Losses:
    """*lost*: identities that must not be in MySQL; *differences*: what does not add up."""

    lost: set[str] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)
    #: Incidents whose count was judged, by whether it claims to be exact.
    exact: int = 0
    at_least: int = 0
    #: Losses of a shard that every front saw.
    witnessed: int = 0
    #: Entries of other producers that were passed over.
    passed_over: int = 0

    def take(self, case: _Case, where: str) -> None:
        """Settle which entries were lost, and compare their number with what was told."""
        self.lost |= case.missing | case.passed_over
        self.exact += sum(incident.is_exact for incident in case.told)
        self.at_least += sum(not incident.is_exact for incident in case.told)
        self.witnessed += case.is_steady
        self.passed_over += len(case.passed_over)
        is_vague = case.must_be_exact and not case.is_exact
        if is_vague or not case.fewest <= case.count <= len(case.missing) + case.forgotten:
            self.differences.append(f"{where}: {case}")


def losses_of(
    rewinds: Sequence[Rewind],
    incidents: Iterable[Incident],
    acknowledged: Set[str],
    were_steady: Callable[[Rewind, int], bool] = lambda rewind, until_ms: False,
    forgotten: Sequence[Forgotten] = (),
) -> Losses:
    """Judge every incident by what is gone, and everything that is gone by the incidents.

    *acknowledged* are the fronts' own. *were_steady*: did every front see all of this rewind,
    and nothing else, up to that moment? What a backup had *forgotten* is counted again.
    """
    found = Losses()
    left = {incident.id: incident for incident in incidents}
    again = _counted_again(list(left.values()), forgotten)
    for number, rewind in enumerate(rewinds, start=1):
        for shard in rewind.shards:
            told = [left.pop(each) for each in sorted(rewind.incidents[shard]) if each in left]
            case = _Case(rewind, shard, told, acknowledged, were_steady)
            case.forgotten = sum(again.get(incident.id, 0) for incident in case.told)
            if any(each.takes_away(case.told) for each in forgotten):
                case.is_steady = case.must_be_exact = False
            found.take(case, f"rewind {number}, shard {shard}")
    for incident in left.values():
        if incident.lost > again.get(incident.id, 0):
            found.differences.append(f"nothing was taken away, and yet there is {incident}")
    return found


class _Case:
    """What one shard lost in one rewind, and what moonwake says of it."""

    def __init__(
        self,
        rewind: Rewind,
        shard: int,
        told: Sequence[Incident],
        acknowledged: Set[str],
        were_steady: Callable[[Rewind, int], bool],
    ) -> None:
        gone, first = rewind.gone(shard), rewind.foreign_first(shard)
        self.told = rewind.counted_by(told)
        self.missing = {entry.identity for each in self.told for entry in each.lost_of(gone)}
        self.passed_over = {entry.identity for entry in rewind.passed_over(shard, told)}
        self.count = sum(incident.lost for incident in self.told)
        self.is_exact = all(incident.is_exact for incident in self.told)
        self.acknowledged = len(self.missing & acknowledged)
        #: Entries of earlier losses whose count a backup took away.
        self.forgotten = 0
        until_ms = max((incident.at_ms for incident in self.told), default=0)
        self.is_steady = bool(self.told) and were_steady(rewind, until_ms)
        self.must_be_exact = self.is_steady and not rewind.has_foreign(shard)
        #: Of those nobody can say whether the old stream had them: they may hide others.
        self.unclear = len(first)

    @property
    def fewest(self) -> int:
        """The least that the count may be; it may never be more than is missing."""
        if self.is_exact:
            return self.acknowledged
        return max(self.acknowledged - self.unclear, 0) if self.is_steady else 0

    def __str__(self) -> str:
        how = "exactly" if self.is_exact else "at least"
        seen = ", every front saw it" if self.is_steady else ""
        return (
            f"{how} {self.count} are said to be lost, and {len(self.missing)} are,"
            f" {self.acknowledged} of them acknowledged{seen}: {self.told}"
        )


def _counted_again(incidents: Sequence[Incident], forgotten: Sequence[Forgotten]) -> dict[int, int]:
    """Incident -> how many entries it counts a second time, because a backup forgot the first."""
    again: dict[int, int] = {}
    for each in forgotten:
        if (by := each.found_by(incidents)) is not None:
            again[by.id] = again.get(by.id, 0) + each.lost
    return again


def applied_in_order(tapes: Sequence[Tape], lost: Set[str]) -> list[Entry]:
    """What MySQL must have taken from one stream's *tapes*, in order, each entry once."""
    seen: set[str] = set()
    applied: list[Entry] = []
    for tape in tapes:
        for entry in tape.entries:
            if entry.identity not in seen and entry.identity not in lost:
                applied.append(entry)
            seen.add(entry.identity)
    return applied


def doubled(tapes: Sequence[Tape]) -> list[str]:
    """Identities that a stream held more than once, in one incarnation or in two."""
    ids: dict[str, set[object]] = {}
    for tape in tapes:
        for entry in tape.entries:
            ids.setdefault(entry.identity, set()).add(entry.id)
    return [identity for identity, at in ids.items() if len(at) > 1]
