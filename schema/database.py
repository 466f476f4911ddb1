"""The database itself: found, made if that is allowed, or asked for."""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import SchemaError
from shared.mysql import MySQLError, error_text, open_mysql, reading
from shared.settings import Settings

_NO_SUCH_DATABASE = 1049
_DATABASE_DENIED = 1044
_LOGIN_DENIED = (1045, 1698)
_EXISTS = 1007


async def ensure_database(settings: Settings, report: Callable[[str], None]) -> None:
    """Make the database if it is not there.

    Raises `SchemaError` that says what to run or which settings are wrong, and
    `Transient` if no server answers.
    """
    try:
        async with open_mysql(settings) as pool, reading(pool):
            return
    except MySQLError as error:
        if error.args[0] in _LOGIN_DENIED:
            raise SchemaError(
                f"the server refuses the login (MYSQL_USER, MYSQL_PASSWORD): {error_text(error)}"
            ) from error
        if error.args[0] not in {_NO_SUCH_DATABASE, _DATABASE_DENIED}:
            raise
    if await _create(settings):
        report(f"database {settings.mysql_database} created")


async def _create(settings: Settings) -> bool:
    """False if another runner made it first."""
    create = (
        f"CREATE DATABASE `{settings.mysql_database}`"
        " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
    )
    try:
        async with open_mysql(settings, with_database=False) as pool, reading(pool) as cursor:
            await cursor.execute(create)
    except MySQLError as error:
        if error.args[0] == _EXISTS:
            return False
        # An underscore in GRANT stands for any character unless it is escaped.
        pattern = settings.mysql_database.replace("_", r"\_")
        raise SchemaError(
            f"user {settings.mysql_user} may not use database {settings.mysql_database} nor make "
            f"it ({error_text(error)}). As the server's administrator run:\n"
            f"  {create};  -- unless it exists\n"
            f"  GRANT ALL PRIVILEGES ON `{pattern}`.* TO '{settings.mysql_user}'@'%';"
        ) from error
    return True
