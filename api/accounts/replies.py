"""Answers of the account routes, and the cookies a login gets."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response
from litestar.datastructures import Cookie

from api.errors import NO_STORE, Answer, response_of
from api.gate import SESSION_COOKIE
from api.site import Site
from shared.accounts.users import Role
from shared.cookies import COOKIE_NAMES, sign
from shared.times import now_ms

#: As real front ends keep theirs; a session of the server ends earlier where nobody uses it.
_COOKIE_S = 7 * 86_400


class Ok(msgspec.Struct):
    """Done."""

    ok: bool = True


def reply(body: Any, status: int = 200) -> Response[bytes]:
    """*body* as JSON that nobody caches."""
    return response_of(Answer(status, msgspec.json.encode(body), headers=[NO_STORE]))


def log_in(
    response: Response[bytes], site: Site, username: str, role: Role, token: str | None
) -> None:
    """Give *response* the cookies of a login: ours, and the one that LunaTV's pages read.

    Ours only with the *token* of a session.
    """
    secure = site.settings.cookie_secure
    if token is not None:
        response.cookies.append(
            Cookie(
                SESSION_COOKIE.decode(),
                value=token,
                max_age=_COOKIE_S,
                httponly=True,
                samesite="lax",
                secure=secure,
            )
        )
    response.cookies.append(
        Cookie(
            COOKIE_NAMES[0].decode(),
            value=sign(username, role, site.settings.password, now_ms()),
            max_age=_COOKIE_S,
            samesite="lax",
            secure=secure,
        )
    )


def log_out(response: Response[bytes]) -> None:
    """Take every login cookie away, old front ends' too."""
    names = (SESSION_COOKIE, *COOKIE_NAMES)
    response.cookies += [
        Cookie(name.decode(), value="", max_age=0, samesite="lax") for name in names
    ]
