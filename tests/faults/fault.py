"""
What a fault is: trouble of one kind, bounded in time, that heals what it broke.

A fault module makes subclasses of `Fault` known with `register`; a run draws from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    from tests.faults.site import Site


class NotInjected(Exception):
    """The fault could not be done; the message says why. It is reported and never counted."""


class Fault(Protocol):
    """One kind of trouble; a fresh object per injection.

    Everything random comes from `site.dice`, so that a seed repeats it.
    """

    #: As FAULTS=kind,kind names it: lower case, words joined by "_".
    kind: ClassVar[str]
    #: Redis may hold less afterwards than it acknowledged. Such a fault changes the streams
    #: only inside `site.rewinding()` (a stranger's XTRIM too), and the next of them waits
    #: until the workers have gone on after this one, or nobody could say which loss is which.
    loses_redis_data: ClassVar[bool] = False
    #: What it must have for itself: no two faults that hold the same thing overlap.
    #: "redis" and "mysql" are the servers (down, frozen, replaced), "redis_proxy" and
    #: "mysql_proxy" the ways to them, "clock" Redis' clock; others may be made up. "rewind"
    #: is held by what loses Redis data until the workers have gone on: MySQL may not be
    #: restored from a backup meanwhile.
    holds: ClassVar[frozenset[str]] = frozenset()
    #: No other fault at all may overlap with it.
    exclusive: ClassVar[bool] = False

    @classmethod
    def check(cls) -> None:
        """Raise `NotInjected` where this machine can never do it (a library is missing ...)."""

    async def inject(self, site: Site) -> None:
        """Do it, and return when it is over and healed: servers up, proxies open.

        Bounded: some seconds, at most about 30. Raises `NotInjected` while nothing was
        harmed yet; any other exception ends the run as failed. It is cancelled when the
        run is interrupted; what it started then goes away with the site.
        """
        ...


FaultType = TypeVar("FaultType", bound=type[Fault])

_KNOWN: dict[str, type[Fault]] = {}


def register(fault: FaultType) -> FaultType:
    """Class decorator: make *fault* known by its kind."""
    if fault.kind in _KNOWN:
        raise ValueError(f"two faults are called {fault.kind}")
    _KNOWN[fault.kind] = fault
    return fault


def known() -> dict[str, type[Fault]]:
    """kind -> fault, of every fault module that was imported (tests.faults.kinds has all)."""
    return dict(sorted(_KNOWN.items()))
