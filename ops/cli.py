"""
The command line. Each command is a function in a module of its own, added here.

An error of ours ends it with its message and exit status 1, never a traceback.
"""

from __future__ import annotations

import logging
import sys

import structlog
import typer

from ops.audit import audit_command
from ops.cardkeys import cardkeys
from ops.cookie import cookie
from ops.database import db
from ops.dead_letters import dead_letters
from ops.doctor import doctor
from ops.import_plays import import_plays
from ops.import_users import import_users
from ops.points import points_app
from ops.repair_ids import repair_ids
from ops.resume import resume
from ops.site_config import config
from ops.stats import stats
from ops.status import status
from ops.up import up
from ops.users import users_app
from shared.errors import MoonwakeError

cli = typer.Typer(
    name="moonwake",
    help="Acknowledges play records from Redis, writes each to MySQL exactly once; keeps accounts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.command()(up)
cli.command()(cookie)
cli.command()(status)
cli.command()(doctor)
cli.command("audit")(audit_command)
cli.command()(resume)
cli.command()(repair_ids)
cli.command()(import_plays)
cli.command()(import_users)
cli.add_typer(db, name="db")
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(stats, name="stats")
cli.add_typer(config, name="config")
cli.add_typer(users_app, name="users")
cli.add_typer(cardkeys, name="cardkeys")
cli.add_typer(points_app, name="points")


def app() -> None:
    """What the program `moonwake` runs."""
    # A command's standard output is its answer.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        cli()
    except MoonwakeError as fault:
        typer.echo(f"moonwake: {fault}", err=True)
        raise SystemExit(1) from fault
