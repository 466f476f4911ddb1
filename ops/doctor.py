"""`moonwake doctor`: is everything set up so that what is acknowledged is kept?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops import environment
from ops.checks.findings import Finding, Level, error, worst
from ops.checks.mysql_checks import MYSQL_CHECKS
from ops.checks.mysql_facts import MysqlFacts, MysqlRefused, read_mysql
from ops.checks.redis_checks import REDIS_CHECKS, address
from ops.checks.redis_facts import RedisFacts, read_redis
from ops.checks.shared_checks import SHARED_CHECKS, Stores
from ops.checks.stream_checks import STREAM_CHECKS
from shared.errors import SettingsError, StoreDown, Transient
from shared.settings import Settings

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}
_EXIT_ERRORS, _EXIT_UNCHECKED = 1, 2


@dataclass(frozen=True, slots=True)
class Report:
    """The findings; not *complete* where a store could not be asked."""

    findings: Sequence[Finding]
    complete: bool

    @property
    def exit_code(self) -> int:
        if not self.complete:
            return _EXIT_UNCHECKED
        return _EXIT_ERRORS if worst(self.findings) is Level.ERROR else 0

    def to_json(self) -> bytes:
        document = {
            "result": worst(self.findings),
            "complete": self.complete,
            "findings": [asdict(finding) for finding in self.findings],
        }
        return orjson.dumps(document)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check Redis, MySQL and the settings; every fault comes with its remedy.

    \b
    Changes nothing. Exit code: 0 all is well or there are warnings only,
    1 at least one error, 2 a store or a setting could not be checked.

    \b
    --json prints one document:
      result       the worst level: ok, warning or error
      complete     false if a store did not answer or a setting is wrong
      findings[]
        check      its name, such as redis-eviction
        level      ok, warning or error
        found      what was seen
        why        why it matters, empty where all is well
        remedy     what to do, empty where all is well
    """
    report = asyncio.run(examine_environment())
    if as_json:
        typer.echo(report.to_json())
    else:
        show(Console(highlight=False), report)
    raise typer.Exit(report.exit_code)


async def examine_environment() -> Report:
    """`examine` with this process's settings, which may be what is wrong."""
    try:
        settings = environment.settings()
    except SettingsError as fault:
        finding = error("settings", str(fault), "nothing starts without them", "correct them")
        return Report([finding], complete=False)
    return await examine(settings)


async def examine(settings: Settings) -> Report:
    """Ask both stores, then let every check judge what they said."""
    (redis, redis_fault), (mysql, mysql_fault) = await asyncio.gather(
        _redis(settings), _mysql(settings)
    )
    findings: list[Finding] = []
    if redis is not None:
        findings += [check(redis, settings) for check in REDIS_CHECKS]
    if mysql is not None:
        findings += [check(mysql, settings) for check in MYSQL_CHECKS]
    if redis is not None:
        findings += [check(redis, settings) for check in STREAM_CHECKS]
    stores = Stores(settings, redis, mysql)
    findings += [check(stores) for check in SHARED_CHECKS]
    faults = [fault for fault in (redis_fault, mysql_fault) if fault]
    return Report([*faults, *findings], complete=not faults)


async def _redis(settings: Settings) -> tuple[RedisFacts | None, Finding | None]:
    try:
        return await read_redis(settings), None
    except StoreDown as fault:
        return None, error(
            "redis",
            f"{address(settings.redis_url)} cannot be asked: {fault}",
            "nothing can be acknowledged without it",
            "start it, or correct REDIS_URL",
        )


async def _mysql(settings: Settings) -> tuple[MysqlFacts | None, Finding | None]:
    where = f"{settings.mysql_host}:{settings.mysql_port}"
    try:
        return await read_mysql(settings), None
    except Transient as fault:
        return None, error(
            "mysql",
            f"{where} does not answer: {fault}",
            "events wait in Redis, and nobody's list can be read past its cache",
            "start it, or correct MYSQL_HOST and MYSQL_PORT",
        )
    except MysqlRefused as fault:
        return None, error(
            "mysql",
            f"{where} refuses: {fault}",
            "no batch can be written",
            "correct MYSQL_USER, MYSQL_PASSWORD and MYSQL_DATABASE, or run `python -m schema`,"
            " which makes the database",
        )


def show(console: Console, report: Report) -> None:
    """A line per finding; why and what to do where something is to be done."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        style = _STYLES[finding.level]
        table.add_row(Text(finding.level, style), finding.check, Text(_words(finding)))
    console.print(table)
    counts = [
        f"{count} {level}{'s' if count != 1 else ''}"
        for level in (Level.ERROR, Level.WARNING)
        if (count := sum(finding.level is level for finding in report.findings))
    ]
    verdict = ", ".join(counts) or "all is well"
    if not report.complete:
        verdict += "; not everything could be checked"
    console.print(f"\n{len(report.findings)} checks: {verdict}")


def _words(finding: Finding) -> str:
    lines = [finding.found]
    if finding.level is not Level.OK:
        lines += [f"why: {finding.why}", f"do:  {finding.remedy}"]
    return "\n".join(lines)
