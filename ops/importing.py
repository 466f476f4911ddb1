"""What the commands share that bring something along from a LunaTV site."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, BinaryIO, TypeVar

import orjson
import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ops.letter_view import printable
from ops.lunatv_source import Progress
from shared.errors import DataRefused, InvalidField, Transient
from shared.redis import open_redis

T = TypeVar("T")

SourceUrl = Annotated[
    str,
    typer.Argument(
        metavar="REDIS_URL", envvar="LUNATV_REDIS_URL", help="The Redis of the LunaTV site."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing, tell what would be.")]
Report = Annotated[
    typer.FileBinaryWrite | None,
    typer.Option(metavar="FILE", lazy=False, help="Write what was not taken, as JSON lines."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]

#: Refusals told on the terminal; the others are in the report.
_TOLD_MAX = 10
#: A drain or a front may hold the rows, and a server may be restarted under us.
_RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was not taken, and why."""

    where: str
    reason: str
    detail: str


def refusal_of(where: str, error: InvalidField) -> Refusal:
    """What *error* says of the value at *where*."""
    reason = error.error.lower().replace(" ", "_")
    return Refusal(where, reason, f"{error.field}: allowed is {error.allowed}")


class Refusals:
    """Keeps the first refusals for the terminal, and writes all of them to *report*."""

    def __init__(self, report: BinaryIO | None) -> None:
        self._report = report
        self._told: list[Refusal] = []
        self._count = 0

    def add(self, refusal: Refusal) -> None:
        """One more that was not taken."""
        self.keep(refusal)
        self.write(refusal)

    def keep(self, refusal: Refusal) -> None:
        """Only for the terminal."""
        self._count += 1
        if len(self._told) < _TOLD_MAX:
            self._told.append(refusal)

    def write(self, line: object) -> None:
        """Only to the report: *line*, a dataclass."""
        if self._report is not None:
            self._report.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def tell(self) -> None:
        """Some of the refusals, on the standard error."""
        for refusal in self._told:
            line = f"{refusal.where}: {refusal.reason}: {refusal.detail}"
            typer.echo(f"refused: {printable(line)}", err=True)
        if more := self._count - len(self._told):
            typer.echo(f"refused: {more} more; --report FILE keeps all", err=True)


def open_source(url: str) -> Redis:
    """The site's Redis at *url*; one that is no address ends the command."""
    try:
        return open_redis(url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="REDIS_URL") from None


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What *attempt* returns, which may be repeated. Raises `Transient` where patience ends."""
    for pause_s in _RETRY_S:
        try:
            return await attempt()
        except Transient:
            await asyncio.sleep(pause_s)
    return await attempt()


async def by_halves(
    items: Sequence[T],
    write: Callable[[Sequence[T]], Awaitable[None]],
    refuse: Callable[[T, DataRefused], None],
) -> None:
    """Let *write* have all *items*; the ones that MySQL refuses are found by halves."""
    try:
        await write(items)
    except DataRefused as error:
        if len(items) == 1:
            refuse(items[0], error)
            return
        half = len(items) // 2
        await by_halves(items[:half], write, refuse)
        await by_halves(items[half:], write, refuse)


@contextmanager
def bar(*, quiet: bool) -> Iterator[Callable[[str, Progress], None]]:
    """A progress bar; yields what shows how far it is, in words and as far as it is known."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), disable=quiet) as shown:
        task = shown.add_task("reading", total=None)

        def show(words: str, progress: Progress) -> None:
            total = progress.keys or None
            shown.update(task, description=words, completed=progress.seen, total=total)

        yield show
