"""`moonwake cookie`: a signed Cookie header, to try the API as any user."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ops import environment
from shared.cookies import sign
from shared.errors import SettingsError
from shared.times import now_ms


def cookie(
    user: Annotated[str, typer.Argument(metavar="NAME", help="Whose cookie: any name.")],
) -> None:
    """Print a Cookie header signed with PASSWORD, or with the local stack's password.

    Use it as in: curl -H "$(moonwake cookie alice)" ...
    With ACCEPT_LUNATV_COOKIE=false it is no login: POST /api/login gives one.
    """
    known = environment.merge(os.environ, environment.load(environment.RUN))
    if not (password := known.get("PASSWORD")):
        raise SettingsError("PASSWORD is required: the site's password, which signs the cookies")
    if not user:
        raise typer.BadParameter("a user has a name")
    role = "owner" if user == known.get("USERNAME") else "user"
    value = sign(user, role, password, now_ms())
    typer.echo(f"Cookie: user_auth={value}")
