"""The site's configuration document, as admins read and replace it."""

from __future__ import annotations

import msgspec
from litestar import Response, get, put

from api.accounts.changes import changed
from api.accounts.replies import reply
from api.described import Described
from api.members import admin_of, admitted
from api.site import AnyRequest, site_of
from shared.accounts import admin_config, users
from shared.accounts.admin_config import Document, Versioned
from shared.accounts.users import Role, User
from shared.mysql import Cursor

#: The document holds lists of sources and channels; 64 KB are nothing to it.
BODY_BYTES_MAX = 4 * 1024 * 1024
#: Real front ends show all users on one page.
_USERS_MAX = 10_000


class Configuration(msgspec.Struct, rename="pascal"):
    """The reader's role and the document; users in it are those of the database."""

    role: Role
    config: Document
    version: int = msgspec.field(name="version")


class ConfigRequest(msgspec.Struct):
    """The whole document, and the version that was read."""

    config: Document
    version: int


class ConfigWritten(msgspec.Struct):
    version: int
    ok: bool = True


@get("/api/admin/config", status_code=200)
async def get_config(request: AnyRequest) -> Response[bytes]:
    """The document, and its version for the next write."""
    admin = await admin_of(request)
    stored, known = await site_of(request).read(_read)
    part = stored.config.get("UserConfig")
    shown = {**(part if isinstance(part, dict) else {}), "Users": msgspec.to_builtins(known)}
    config = {**stored.config, "UserConfig": shown}
    return reply(Configuration(admin.role, config, stored.version))


async def _read(cursor: Cursor) -> tuple[Versioned, list[User]]:
    stored = await admin_config.read(cursor)
    known, _ = await users.listed(cursor, 1, _USERS_MAX)
    return stored, known


@put("/api/admin/config", status_code=200)
async def put_config(request: AnyRequest) -> Response[bytes]:
    """Replace the document; 409 if somebody else did since it was read. Users are left out."""
    await admin_of(request)  # before so much is read
    admin, asked, body = await admitted(request, admin_of, ConfigRequest, limit=BODY_BYTES_MAX)

    admin_config.check(asked.config)

    async def write(cursor: Cursor) -> ConfigWritten:
        return ConfigWritten(await admin_config.write(cursor, asked.config, asked.version))

    done = await changed(request, admin, body, write, ConfigWritten)
    site_of(request).policy.forget()
    return reply(done)


ROUTES = (get_config, put_config)
_TAG = "admin: configuration"
_PATH = "/api/admin/config"
DESCRIBED = {
    (_PATH, "get"): Described(_TAG, Configuration, errors=(503,), login=True, role="admin"),
    (_PATH, "put"): Described(
        _TAG,
        ConfigWritten,
        ConfigRequest,
        errors=(400, 409, 413, 503),
        login=True,
        role="admin",
        once=True,
    ),
}
