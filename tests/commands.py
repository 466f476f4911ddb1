"""`moonwake` commands run in this process, with the settings of a test as their environment."""

from __future__ import annotations

import asyncio

from typer.testing import CliRunner, Result

from ops.cli import cli
from shared.settings import Settings
from tests.servers import to_environ


async def moonwake(settings: Settings, *arguments: str, given: bytes | None = None) -> Result:
    """Run `moonwake ARGUMENTS` with *given* on its standard input."""
    environ = {**to_environ(settings), "COLUMNS": "100", "TERM": "dumb"}
    # In a thread: a command runs an event loop of its own.
    return await asyncio.to_thread(
        CliRunner().invoke, cli, list(arguments), env=environ, input=given
    )
