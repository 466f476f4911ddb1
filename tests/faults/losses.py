"""
Which entries Redis lost before they were applied, and whether moonwake counted them right.

An incident says behind which position a stream was lost; that names the lost entries one
by one, so that the oracle can leave out exactly these. If the position or the count is
wrong, either the bounds here are broken or MySQL is not what the oracle says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from tests.faults.rewinds import Incident, Rewind
from tests.faults.tap import Entry, Tape


@dataclass(slots=True)
class Losses:
    """*lost*: identities that must not be in MySQL; *differences*: what does not add up."""

    lost: set[str] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)
    #: Incidents whose count was judged, by whether it claims to be exact.
    exact: int = 0
    at_least: int = 0


def losses_of(
    rewinds: Sequence[Rewind], incidents: Iterable[Incident], acknowledged: Set[str]
) -> Losses:
    """Judge every incident by what is gone, and everything that is gone by the incidents."""
    found = Losses()
    left = {incident.id: incident for incident in incidents}
    for number, rewind in enumerate(rewinds, start=1):
        for shard in rewind.shards:
            told = [left.pop(each) for each in sorted(rewind.incidents[shard]) if each in left]
            where = f"rewind {number}, shard {shard}"
            _judge(found, where, rewind.gone(shard), rewind.counted_by(told), acknowledged)
    for incident in left.values():
        if incident.lost:
            found.differences.append(f"nothing was taken away, and yet there is {incident}")
    return found


def _judge(
    found: Losses,
    where: str,
    gone: Sequence[Entry],
    told: Sequence[Incident],
    acknowledged: Set[str],
) -> None:
    """Settle which of *gone* were lost, and compare their number with what was *told*."""
    missing = {entry.identity for incident in told for entry in incident.lost_of(gone)}
    found.lost |= missing
    count = sum(incident.lost for incident in told)
    is_exact = all(incident.is_exact for incident in told)
    found.exact += sum(incident.is_exact for incident in told)
    found.at_least += sum(not incident.is_exact for incident in told)
    fewest = len(missing & acknowledged) if is_exact else 0
    if not fewest <= count <= len(missing):
        how = "exactly" if is_exact else "at least"
        found.differences.append(
            f"{where}: {how} {count} are said to be lost, and {len(missing)} are,"
            f" {len(missing & acknowledged)} of them acknowledged: {list(told)}"
        )


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
