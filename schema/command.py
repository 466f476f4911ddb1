"""The schema's runner as a command: what it says, and its exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

import typer

from schema.runner import migrate
from shared.errors import SchemaError, SettingsError, Transient
from shared.mysql import MySQLError, error_text
from shared.settings import Settings

HELP = """Bring the database named by the MYSQL_ settings to this program's schema.

Safe to repeat: it goes on where it stopped.

Exit codes: 0 done or nothing to do, 1 the database or a statement was refused,
2 a setting is missing or wrong, 3 the server cannot be used now.
"""


def run(read_settings: Callable[[], Settings]) -> None:
    """Apply what the database lacks; ends the program where that fails."""
    try:
        settings = read_settings()
    except SettingsError as error:
        _fail(f"settings: {error}", 2)
    where = f"{settings.mysql_host}:{settings.mysql_port} (MYSQL_HOST, MYSQL_PORT)"
    try:
        asyncio.run(migrate(settings, typer.echo))
    except SchemaError as error:
        _fail(str(error), 1)
    except MySQLError as error:
        _fail(f"the server at {where} answers: {error_text(error)}", 1)
    except Transient as error:
        _fail(f"the server at {where} cannot be used now: {error}", 3)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"schema: {message}", err=True)
    raise typer.Exit(code)
