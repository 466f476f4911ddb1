"""`moonwake repair-ids`: entry ids come back to Redis' clock (protocol 20)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ops import stores
from ops.rebase import NotIdle, Rebased, rebase
from ops.workers import STREAMS
from worker.deps import Deps
from worker.sinks.plays import PlaysSink

_EXIT_REFUSED = 1


def repair_ids(
    stream: Annotated[str, typer.Option(help="Whose ids.")] = STREAMS[0],
) -> None:
    """Bring entry ids that run ahead of Redis' clock back to it.

    \b
    One id of the future makes every later one a future one too: events are
    counted on days to come, nothing is trimmed, and what MySQL took with such
    a time refuses what comes later. Before: let every producer XADD with *,
    stop web, wait until `moonwake status` shows no lag, stop the workers.

    \b
    Shards whose ids are ahead by more than a minute begin a new incarnation
    with ids of now; records and contents of the future are dated to now. Days
    already counted in the future stay. Repeating it is safe.

    \b
    Exit code: 0 done, or nothing was ahead; 1 somebody is still at work or
    entries wait; 2 a store or the settings cannot be used.
    """
    if stream not in STREAMS:
        raise typer.BadParameter(f"there is no stream {stream}, only {', '.join(STREAMS)}")

    async def work(deps: Deps) -> Sequence[Rebased]:
        return await rebase(deps, PlaysSink(deps.settings))

    try:
        done = stores.run(work)
    except NotIdle as fault:
        typer.echo(f"moonwake: {fault}", err=True)
        raise typer.Exit(_EXIT_REFUSED) from fault
    for each in done:
        typer.echo(
            f"{stream}:{each.shard} had ids {each.ahead_s:,} s ahead of Redis' clock, now they are"
            f" at {each.position} (incarnation {each.incarnation})"
        )
    typer.echo("done: start workers and web" if done else f"no id of {stream} is ahead")
