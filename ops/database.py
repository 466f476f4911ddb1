"""`moonwake db`: the schema, for an operator who has no `python` at hand."""

from __future__ import annotations

import asyncio

import typer

from ops import environment
from schema.runner import migrate

db = typer.Typer(no_args_is_help=True, help="The database's schema.")


@db.callback()
def _group() -> None:
    """Keeps `init` a sub-command while it is the only one."""


@db.command()
def init() -> None:
    """Bring the database to this program's schema; safe to repeat."""
    asyncio.run(migrate(environment.settings(), typer.echo))
