"""`python -m schema`, for a host that has the workers' environment and no command line."""

from __future__ import annotations

import typer

from schema import command
from shared.settings import from_env

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=command.HELP)
def main() -> None:
    command.run(from_env)


if __name__ == "__main__":
    app(prog_name="python -m schema")
