"""
Users as admins manage them: one route, an action in its body (facts section 5).

The owner may do everything, an admin only what concerns plain users; nobody harms themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from litestar import Response, post

from api.accounts.changes import made
from api.accounts.replies import Ok, reply
from api.accounts.standings import prepare_name, tell_standing
from api.bodies import MALFORMED, Needed, check_username, one_of, rule
from api.described import Described
from api.errors import Denied
from api.members import Member, admin_of, admitted, role_of
from api.site import AnyRequest, Site, site_of
from shared.accounts import groups, logins, passwords, registration, users
from shared.accounts.users import NewUser, Role
from shared.errors import InvalidField, NotFound, Refused
from shared.mysql import Cursor
from shared.times import now_ms

_NO_TARGET, _NO_PASSWORD = "缺少目标用户名", "缺少目标用户密码"
_UNKNOWN = "目标用户不存在"
_TAGS_MAX, _TAG_MAX, _IDENTITY_MAX, _MANY_MAX = 50, 100, 255, 1_000

Identity = Annotated[str, rule(minLength=1, maxLength=_IDENTITY_MAX)]
Listed = Annotated[list[Annotated[str, rule(maxLength=_TAG_MAX)]], rule(maxItems=_TAGS_MAX)]


class UserRequest(msgspec.Struct, rename="camel"):
    """
    An action, and what it takes beside `targetUsername`:

    - `add`: `targetPassword`, and a `userGroup` if the user is to have one
    - `changePassword`: `targetPassword`
    - `ban`, `unban`, `deleteUser`, and for the owner alone `setAdmin`, `cancelAdmin`: nothing
    - `updateUserApis`: `enabledApis`, all of them, and `showAdultContent` if it is to change
    - `updateUserGroups`: `userGroups`, all of them
    - `batchUpdateUserGroups`: `usernames` instead of `targetUsername`, and `userGroups`
    - `userGroup`: `groupAction` and `groupName` instead of `targetUsername`, `enabledApis`, and
      `showAdultContent` if it is to change
    - `linkOidc`: `oidcSub`; `setTvboxToken`: `tvboxToken`; null takes it away
    - `setShowAdultContent`: `showAdultContent`
    """

    action: Needed[Annotated[str, one_of(ACTIONS)]] = ""
    target_username: str = ""
    target_password: str = ""
    enabled_apis: Listed = []
    user_group: str = ""
    user_groups: Listed = []
    usernames: Annotated[list[str], rule(maxItems=_MANY_MAX)] = []
    group_action: Annotated[str, one_of(groups.ACTIONS)] = ""
    group_name: str = ""
    oidc_sub: Identity | None = None
    tvbox_token: Identity | None = None
    show_adult_content: bool | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request of an admin: who asks, what, of whom."""

    request: AnyRequest
    site: Site
    admin: Member
    asked: UserRequest
    body: bytes

    async def change(
        self, work: Callable[[Cursor], Awaitable[None]], *names: str, themselves: bool = False
    ) -> None:
        """Make the change *work* to the users of these *names*, once.

        Raises what forbids it, and that only where it was not made before: afterwards there
        may be nobody left whom it was about. *themselves*: they may be the admin.
        """

        async def checked(cursor: Cursor) -> None:
            for name in names:
                await _check_rank(cursor, self, name, themselves=themselves)
            await work(cursor)

        await made(self.request, self.admin, self.body, checked)


@post("/api/admin/user", status_code=200)
async def post_user(request: AnyRequest) -> Response[bytes]:
    """Manage a user: the action says how, targetUsername whom."""
    admin, asked, body = await admitted(request, admin_of, UserRequest)
    if asked.action not in ACTIONS:
        raise InvalidField(MALFORMED, "action", ", ".join(ACTIONS))
    await ACTIONS[asked.action](Call(request, site_of(request), admin, asked, body))
    return reply(Ok())


# --- who may ----------------------------------------------------------------------


def _target(call: Call) -> str:
    """The user the call is about. Raises `InvalidField`."""
    return check_username(call.asked.target_username, "targetUsername", _NO_TARGET)


async def _check_rank(cursor: Cursor, call: Call, name: str, *, themselves: bool) -> None:
    """Raise what forbids the admin to manage *name*, whose role stays until this is done."""
    try:
        role = role_of(call.site, await users.lock(cursor, name))
    except NotFound:
        raise NotFound(_UNKNOWN) from None
    if name == call.admin.username:
        if not themselves:
            raise Refused("不能对自己进行此操作")
    elif role == "owner" or (role == "admin" and not call.admin.is_owner):
        raise Denied


def _check_owner(call: Call) -> None:
    if not call.admin.is_owner:
        raise Denied


# --- what -------------------------------------------------------------------------


async def _add(call: Call) -> None:
    asked, now = call.asked, now_ms()
    if not asked.target_username:
        raise InvalidField(_NO_TARGET, "targetUsername", "a new user's name")
    if not asked.target_password:
        raise InvalidField(_NO_PASSWORD, "targetPassword", "a password")
    if asked.target_username.lower() == call.site.settings.username.lower():
        raise Refused("用户已存在")
    users.check_new_name(asked.target_username)
    tags = _listed([asked.user_group] if asked.user_group else [], "userGroup")
    new = NewUser(
        username=asked.target_username,
        password_hash=await passwords.hashed(asked.target_password, "targetPassword"),
        tags=tags,
        after_former=await prepare_name(call.site, asked.target_username),
    )

    async def add(cursor: Cursor) -> None:
        await registration.create_user(cursor, new, now)

    await call.change(add)
    if new.after_former:
        await tell_standing(call.site, new.username, None)


async def _ban(call: Call) -> None:
    name = _target(call)
    await call.change(lambda cursor: users.set_banned(cursor, name, banned=True), name)
    await tell_standing(call.site, name, "banned")


async def _unban(call: Call) -> None:
    name = _target(call)
    await call.change(lambda cursor: logins.readmit(cursor, call.site.sessions, name), name)
    await tell_standing(call.site, name, None)


async def _set_role(call: Call, role: Role) -> None:
    _check_owner(call)
    name = _target(call)
    await call.change(lambda cursor: users.set_role(cursor, name, role), name)


async def _set_admin(call: Call) -> None:
    await _set_role(call, "admin")


async def _cancel_admin(call: Call) -> None:
    await _set_role(call, "user")


async def _change_password(call: Call) -> None:
    name = _target(call)
    if name == call.site.settings.username:
        raise Denied
    if not call.asked.target_password:
        raise InvalidField("缺少新密码", "targetPassword", "a new password")
    new_hash = await passwords.hashed(call.asked.target_password, "targetPassword")
    await call.change(
        lambda cursor: logins.give_password(cursor, call.site.sessions, name, new_hash),
        name,
        themselves=True,
    )
    call.site.gate.forget_user(name)


async def _delete(call: Call) -> None:
    name = _target(call)
    await call.change(lambda cursor: users.delete(cursor, name), name)
    await tell_standing(call.site, name, "deleted")


async def _update_apis(call: Call) -> None:
    name, apis = _target(call), _listed(call.asked.enabled_apis, "enabledApis")
    show = call.asked.show_adult_content

    async def update(cursor: Cursor) -> None:
        await users.set_enabled_apis(cursor, name, apis)
        if show is not None:
            await users.set_show_adult_content(cursor, name, show=show)

    await call.change(update, name, themselves=True)


async def _update_groups(call: Call) -> None:
    name, tags = _target(call), _listed(call.asked.user_groups, "userGroups")
    await call.change(lambda cursor: users.set_tags(cursor, name, tags), name, themselves=True)


async def _update_groups_of_many(call: Call) -> None:
    names = sorted(set(call.asked.usernames))
    tags = _listed(call.asked.user_groups, "userGroups")
    if not 1 <= len(names) <= _MANY_MAX:
        raise InvalidField("缺少用户名列表", "usernames", f"1 to {_MANY_MAX} user names")
    for name in names:
        check_username(name, "usernames", _NO_TARGET)

    async def update(cursor: Cursor) -> None:
        for name in names:
            await users.set_tags(cursor, name, tags)

    await call.change(update, *names, themselves=True)


async def _manage_group(call: Call) -> None:
    asked = call.asked
    apis = _listed(asked.enabled_apis, "enabledApis")
    if asked.group_action not in groups.ACTIONS:
        raise InvalidField("无效的用户组操作", "groupAction", ", ".join(groups.ACTIONS))
    if not asked.group_name.strip():
        raise InvalidField("缺少用户组名称", "groupName", "a group's name")
    await call.change(
        lambda cursor: groups.manage(
            cursor,
            asked.group_action,
            asked.group_name.strip(),
            apis,
            show_adult_content=asked.show_adult_content,
        )
    )


async def _link_subject(call: Call) -> None:
    name, subject = _target(call), call.asked.oidc_sub
    _check_length(subject, "无效的 OIDC 身份", "oidcSub")
    await call.change(
        lambda cursor: users.link_subject(cursor, name, subject), name, themselves=True
    )


async def _set_tvbox_token(call: Call) -> None:
    name, token = _target(call), call.asked.tvbox_token
    _check_length(token, "无效的 TVBox Token", "tvboxToken")
    await call.change(
        lambda cursor: users.set_tvbox_token(cursor, name, token), name, themselves=True
    )


async def _set_show_adult_content(call: Call) -> None:
    name, show = _target(call), bool(call.asked.show_adult_content)
    await call.change(
        lambda cursor: users.set_show_adult_content(cursor, name, show=show), name, themselves=True
    )


def _check_length(text: str | None, error: str, field: str) -> None:
    if text is not None and not 1 <= len(text) <= _IDENTITY_MAX:
        raise InvalidField(error, field, f"1 to {_IDENTITY_MAX} characters, or null")


def _listed(values: list[str], field: str) -> list[str]:
    """*values*, bounded and each once. Raises `InvalidField`."""
    if len(values) > _TAGS_MAX or any(len(value) > _TAG_MAX for value in values):
        allowed = f"at most {_TAGS_MAX} texts of at most {_TAG_MAX} characters"
        raise InvalidField(MALFORMED, field, allowed)
    return list(dict.fromkeys(values))


ACTIONS: dict[str, Callable[[Call], Awaitable[None]]] = {
    "add": _add,
    "ban": _ban,
    "unban": _unban,
    "setAdmin": _set_admin,
    "cancelAdmin": _cancel_admin,
    "changePassword": _change_password,
    "deleteUser": _delete,
    "updateUserApis": _update_apis,
    "userGroup": _manage_group,
    "updateUserGroups": _update_groups,
    "batchUpdateUserGroups": _update_groups_of_many,
    "linkOidc": _link_subject,
    "setTvboxToken": _set_tvbox_token,
    "setShowAdultContent": _set_show_adult_content,
}

ROUTES = (post_user,)
DESCRIBED = {
    ("/api/admin/user", "post"): Described(
        "admin: users",
        Ok,
        UserRequest,
        errors=(400, 401, 404, 409, 413, 503),
        login=True,
        role="admin",
        once=True,
    ),
}
