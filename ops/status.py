"""`moonwake status`: lag, books and workers, as Redis and MySQL know them now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated

import orjson
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ops import environment
from ops.attention import attention
from ops.overview import OnRead, Overview, look, take_sample
from ops.status_view import document, render
from shared.errors import SettingsError, StoreDown
from shared.mysql import open_mysql
from shared.redis import open_redis
from shared.settings import Settings

_SAMPLE_S = 1.0
_EXIT_ATTENTION, _EXIT_UNREADABLE = 1, 2


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show quiet shards too, if many.")] = False,
) -> None:
    """Show lag, rate, checkpoint and books of every shard, and the workers.

    \b
    Takes a second, over which the rate is measured. Exit code: 0 healthy,
    1 something needs attention (told first), 2 Redis or the settings cannot
    be read. Losses and dead letters are told without changing the exit code:
    their counts never go back.

    \b
    --json prints one document, or with --watch one a line:
      healthy      true if nothing needs attention
      attention[]  what somebody has to look at now
      notes[]      what is worth knowing
      at_ms        Redis' clock, Unix milliseconds
      mysql_fault  empty, or what MySQL says instead of answering
      totals       lag, lag_s, rate and books, as below, over all shards;
                   incidents: incidents, lost, inexact of all time, and the
                   same by_cause; null if MySQL does not answer
      incidents[]  losses of 7 days, newest first, null if MySQL does not
                   answer; those of exactly 0 are in the totals alone
        id, stream, shard, incarnation
        cause      trimmed, recreated, master_changed or mysql_restored
        lost       entries, "at least" so many unless exact
        exact      true if everybody who appended was heard
        after_id, before_id   between them lies what is gone
        stamp      of the stream that answered when it was counted
        detected_at, amended_at   UTC; a later witness amends, or null
      shards[]
        stream, shard
        state      draining, idle, waiting, closed or stopped
        lag        entries past the checkpoint, null if unknown
        lag_s      age of the oldest of them in seconds
        rate       entries per second, null in the first line of --watch
        closed     true above the high-water mark
        stopped    the reason, or null
        worker     id of the worker that drains it now, or null
        lease      id of the job that may drain it, or null
        takeovers  from workers that died
        published  id, incarnation, batch_no as Redis has them, or null
        mysql      the same as MySQL has them, null if it does not answer
        books      added = applied + dead + pending + lost + difference
                   pending is counted by reading; difference is 0, or the
                   books are wrong; null where it cannot be told
      workers[]    id, host, pid, live, silent_s, started_ms, shards[]
    Where Redis or the settings cannot be read: healthy and attention alone.
    """
    try:
        settings = environment.settings()
        work = _watch if watch else _once
        view = asyncio.run(work(settings, Output(as_json=as_json, every=every)))
    except (SettingsError, StoreDown) as fault:
        _say_unreadable(str(fault), as_json=as_json)
        raise typer.Exit(_EXIT_UNREADABLE) from fault
    raise typer.Exit(_EXIT_ATTENTION if attention(view) else 0)


@dataclass(frozen=True, slots=True)
class Output:
    """How an overview is shown."""

    as_json: bool
    every: bool

    def print(self, view: Overview, console: Console | None = None) -> None:
        if self.as_json:
            typer.echo(orjson.dumps(document(view)))
        else:
            (console or Console(highlight=False)).print(render(view, every=self.every))


async def _once(settings: Settings, output: Output) -> Overview:
    async with open_redis(settings.redis_url) as redis, open_mysql(settings) as pool:
        before = await take_sample(redis, settings)
        await asyncio.sleep(_SAMPLE_S)
        with _progress(shown=not output.as_json) as on_read:
            view = await look(redis, pool, settings, before, on_read)
    output.print(view)
    return view


@contextmanager
def _progress(*, shown: bool) -> Iterator[OnRead]:
    """A bar for each shard whose backlog takes long to count."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("counting {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    tasks: dict[str, TaskID] = {}

    def on_read(name: str, count: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name)
        bars.update(tasks[name], completed=count, total=total)

    with bars:
        yield on_read


async def _watch(settings: Settings, output: Output) -> Overview:
    """Look every second; a Redis that is away is waited for. Ends with Ctrl-C."""
    console = Console(highlight=False)
    full_screen = console.is_terminal and not output.as_json
    view: Overview | None = None
    fault = "not looked yet"
    async with open_redis(settings.redis_url) as redis, open_mysql(settings) as pool:
        with Live(console=console, screen=True) if full_screen else nullcontext() as screen:
            try:
                while True:
                    try:
                        view = await look(redis, pool, settings, view.sample if view else None)
                        fault = ""
                    except StoreDown as error:
                        fault = str(error)
                    _renew(screen, view, fault, output)
                    await asyncio.sleep(_SAMPLE_S)
            except asyncio.CancelledError:
                pass  # Ctrl-C is how it ends
    if view is None or fault:
        raise StoreDown(fault)
    if full_screen:
        output.print(view)
    return view


def _renew(screen: Live | None, view: Overview | None, fault: str, output: Output) -> None:
    if screen is None:
        if view is not None and not fault:
            output.print(view)
        else:
            _say_unreadable(fault, as_json=output.as_json)
    else:
        shown = [Text(fault, "bold red")] if fault else []
        screen.update(Group(*shown, *([render(view, every=output.every)] if view else [])))


def _say_unreadable(fault: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps({"healthy": False, "attention": [fault]}))
    else:
        typer.echo(f"moonwake: {fault}", err=True)
