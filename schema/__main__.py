"""Bring the database named by the MYSQL_ settings to this program's schema.

Exit codes: 0 done or nothing to do, 1 the database or a statement was refused,
2 a setting is missing or wrong, 3 the server cannot be used now.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import typer

from schema.runner import migrate
from shared.errors import SchemaError, SettingsError, Transient
from shared.mysql import MySQLError
from shared.settings import from_env

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main() -> None:
    try:
        settings = from_env()
    except SettingsError as error:
        _fail(f"settings: {error}", 2)
    where = f"{settings.mysql_host}:{settings.mysql_port} (MYSQL_HOST, MYSQL_PORT)"
    try:
        asyncio.run(migrate(settings, typer.echo))
    except SchemaError as error:
        _fail(str(error), 1)
    except MySQLError as error:
        _fail(f"the server at {where} answers: {error}", 1)
    except Transient as error:
        _fail(f"the server at {where} cannot be used now: {error}", 3)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"schema: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="python -m schema")
