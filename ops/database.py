"""`moonwake db`: the schema, for an operator who has no `python` at hand."""

from __future__ import annotations

import typer

from ops import environment
from schema import command

db = typer.Typer(no_args_is_help=True, help="The database's schema.")


@db.callback()
def _group() -> None:
    """Keeps `init` a sub-command while it is the only one."""


@db.command(help=command.HELP)
def init() -> None:
    command.run(environment.settings)
