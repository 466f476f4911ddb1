"""Every kind of fault there is, by name."""

from __future__ import annotations

import tests.faults.failovers
import tests.faults.mysql_faults
import tests.faults.process_faults
import tests.faults.redis_faults
import tests.faults.redis_losses  # noqa: F401 -- importing them makes their faults known
from tests.faults.fault import Fault, NotInjected, known


class UnknownKind(Exception):
    """FAULTS names something that is no fault; the message lists what there is."""


def chosen(names: str) -> dict[str, type[Fault]]:
    """The faults that *names* (comma-separated; empty: all) asks for.

    Raises `UnknownKind`, and `NotInjected` for one asked for by name that this machine can
    never do; among all it is left to fail, and to be reported.
    """
    kinds = known()
    wanted = [name.strip() for name in names.split(",")] if names else list(kinds)
    if unknown := sorted(set(wanted) - set(kinds)):
        raise UnknownKind(
            f"FAULTS: there is no fault called {', '.join(map(repr, unknown))};"
            f" allowed: {', '.join(kinds)}"
        )
    for name in wanted if names else ():
        try:
            kinds[name].check()
        except NotInjected as reason:
            raise NotInjected(f"FAULTS: {name} cannot be done here: {reason}") from reason
    return {name: kinds[name] for name in kinds if name in wanted}
