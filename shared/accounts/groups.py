"""
User groups: names with enabled APIs in the configuration document; users carry them as tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.accounts import admin_config
from shared.accounts.admin_config import Document
from shared.errors import NotFound, Refused
from shared.mysql import Cursor

ACTIONS = ("add", "edit", "delete")
UNKNOWN, TAKEN = "用户组不存在", "用户组已存在"

_UNTAG = """
UPDATE users SET tags = JSON_REMOVE(tags, JSON_UNQUOTE(JSON_SEARCH(tags, 'one', %s)))
WHERE JSON_SEARCH(tags, 'one', %s) IS NOT NULL
"""


async def manage(
    cursor: Cursor,
    action: str,
    name: str,
    enabled_apis: Sequence[str],
    *,
    show_adult_content: bool | None = None,
) -> None:
    """Add, edit or delete the group *name*; users lose the tag of one that is deleted.

    What else a group holds stays; so does *show_adult_content* where it is None. Raises
    `Refused` for one that is there, `NotFound` for one that is not.
    """

    fields: dict[str, Any] = {"enabledApis": list(enabled_apis)}
    if show_adult_content is not None:
        fields["showAdultContent"] = show_adult_content

    def edit(config: Document) -> None:
        part, tags = admin_config.editable(config, "UserConfig"), "Tags"
        known = part[tags] if isinstance(part.get(tags), list) else []
        groups = [group for group in known if isinstance(group, dict)]
        part[tags] = _edited(groups, action, {"name": name, **fields})

    await admin_config.change(cursor, edit)
    if action == "delete":
        pattern = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        await cursor.execute(_UNTAG, (pattern, pattern))


def _edited(
    groups: list[dict[str, Any]], action: str, changed: dict[str, Any]
) -> list[dict[str, Any]]:
    name = changed["name"]
    others = [group for group in groups if group.get("name") != name]
    there = len(others) < len(groups)
    if action == "add" and there:
        raise Refused(TAKEN)
    if action != "add" and not there:
        raise NotFound(UNKNOWN)
    if action == "delete":
        return others
    if action == "add":
        return [*groups, changed]
    return [{**group, **changed} if group.get("name") == name else group for group in groups]
