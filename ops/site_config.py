"""`moonwake config`: the site's configuration document."""

from __future__ import annotations

from typing import Annotated, BinaryIO, cast

import orjson
import typer

from ops import accounts, stores
from shared.accounts import admin_config
from shared.accounts.admin_config import Document, Versioned
from shared.errors import InvalidField
from shared.mysql import Cursor, reading
from worker.deps import Deps

config = typer.Typer(
    no_args_is_help=True,
    help="The site's configuration document: is registration open, are card keys needed.",
)

_Version = Annotated[int, typer.Option(help="The version that was read: `show` prints it.")]


@config.command("show")
def show_config() -> None:
    """Print the document and its version, as JSON.

    Where it says nothing, these hold: registration is open, no card keys are
    needed, and nobody is given one.

    Exit codes: 0 done, 2 a setting is wrong or MySQL cannot be used.
    """
    stored = stores.run(_read, applies=False)
    document = {"version": stored.version, "config": stored.config}
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@config.command("set")
def set_config(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(metavar="FILE", help="The whole document as JSON; - reads it here."),
    ],
    version: _Version,
) -> None:
    """Replace the document, unless somebody changed it since --version was read.

    `UserConfig.AllowRegister` false closes registration; `CardKeyConfig` holds
    `enabled`, `requireCardKeyOnRegister`, `systemMode` (promotion or operation)
    and `promotionCardKeyType`. A list of users in it is left out.

    What `show` prints may be given as it is.

    Exit codes: 0 done, 1 it was changed since, 2 it is no such document,
    a setting is wrong, or MySQL cannot be used.
    """
    document = _document_in(cast("BinaryIO", file))
    try:
        admin_config.check(document)
    except InvalidField as error:
        told = f"{error.field}: allowed is {error.allowed}"
        raise typer.BadParameter(told, param_hint="FILE") from None
    written = accounts.run(lambda deps: _write(deps, document, version))
    typer.echo(f"version {written} is in force")


def _document_in(file: BinaryIO) -> Document:
    try:
        document = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint="FILE") from None
    if not isinstance(document, dict):
        raise typer.BadParameter("the document is a JSON object", param_hint="FILE")
    if document.keys() == {"version", "config"} and isinstance(document["config"], dict):
        return cast("Document", document["config"])  # as `show` prints it
    return document


async def _read(deps: Deps) -> Versioned:
    async with reading(deps.pool) as cursor:
        return await admin_config.read(cursor)


async def _write(deps: Deps, document: Document, version: int) -> int:
    async def write(cursor: Cursor) -> int:
        return await admin_config.write(cursor, document, version)

    return await accounts.changed(deps, [], write, int)
