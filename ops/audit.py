"""`moonwake audit`: do the tables of accounts agree with each other?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import orjson
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ops import stores
from ops.audit_checks import CHECKS, Check
from ops.letter_view import printable
from shared.mysql import Cursor, Pool, snapshot
from worker.deps import Deps

EXAMPLES_MAX = 20
#: Of them on a terminal.
_SHOWN = 5
_EXIT_DISAGREES = 1


class Finding(msgspec.Struct, frozen=True):
    """*count* rows disagree with others, the first of them told in *examples*."""

    check: str
    count: int
    examples: list[str]
    means: str
    remedy: str


def audit_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that users, points, card keys and invitations agree with each other.

    \b
    Changes nothing, holds nobody up, and sees all tables as they were at one
    moment: it may be run at any time. A million users take some minutes.

    \b
    Exit code: 0 everything agrees, 1 something does not, 2 a setting is wrong
    or MySQL cannot be used.

    \b
    --json prints one document:
      result       clean or disagrees
      checks       the names of all checks that were made
      findings[]
        check      its name, such as points-sums
        count      how many rows disagree
        examples   the first 20 of them in words
        means      what is wrong
        remedy     what to do
    """

    async def work(deps: Deps) -> list[Finding]:
        console = Console(stderr=True)
        quiet = as_json or not console.is_terminal
        bar = track(CHECKS, "checks", console=console, transient=True, disable=quiet)
        return await audit(deps.pool, deps.settings.username, bar)

    findings = stores.run(work, applies=False)
    if as_json:
        typer.echo(_document(findings))
    else:
        show(Console(highlight=False), findings)
    if findings:
        raise typer.Exit(_EXIT_DISAGREES)


async def audit(pool: Pool, owner: str, checks: Iterable[Check] = CHECKS) -> list[Finding]:
    """What disagrees, all of it at one moment; *owner* is whom the environment names.

    Raises `Transient`, or MySQL's own error for what is a fault of set-up.
    """
    async with snapshot(pool) as cursor:
        found = [await _look(cursor, check, owner) for check in checks]
    return [finding for finding in found if finding is not None]


async def _look(cursor: Cursor, check: Check, owner: str) -> Finding | None:
    values = (owner,) * check.query.count("%s")
    await cursor.execute(f"SELECT COUNT(*) FROM ({check.query}) AS found", values)
    [count] = await cursor.fetchone()
    if not count:
        return None
    await cursor.execute(f"{check.query} ORDER BY 1 LIMIT {EXAMPLES_MAX}", values)
    examples = [check.example.format(*row) for row in await cursor.fetchall()]
    return Finding(check.name, count, examples, check.means, check.remedy)


def _document(findings: Sequence[Finding]) -> bytes:
    document = {
        "result": "disagrees" if findings else "clean",
        "checks": [check.name for check in CHECKS],
        "findings": [msgspec.to_builtins(finding) for finding in findings],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def show(console: Console, findings: Sequence[Finding]) -> None:
    """A row per finding: its name and number, then what it means, examples and what to do."""
    if findings:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 1, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(overflow="fold")
        for finding in findings:
            name = Text(finding.check, "bold red")
            table.add_row(name, f"{finding.count:,}", Text(_words(finding)))
        console.print(table)
    many = "s" if len(findings) == 1 else ""
    verdict = f"{len(findings)} disagree{many}" if findings else "everything agrees"
    console.print(f"{len(CHECKS)} checks: {verdict}")


def _words(finding: Finding) -> str:
    examples = [f"- {printable(each)}" for each in finding.examples[:_SHOWN]]
    if (more := finding.count - len(examples)) > 0:
        examples.append(f"- and {more:,} more: moonwake audit --json")
    return "\n".join([finding.means, *examples, f"do: {finding.remedy}"])
