"""Registering, and changing a password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import msgspec
import structlog
from litestar import Response, get, post

from api.accounts.changes import made
from api.accounts.login import NO_NAME, NO_PASSWORD, WRONG, begin_session, check_standing
from api.accounts.replies import Ok, log_in, reply
from api.accounts.standings import prepare_name, tell_standing, told
from api.bodies import Needed, decoded, operation_of, read_bytes, rule
from api.clients import address_of
from api.described import Described
from api.errors import Denied
from api.members import admitted, check_still, member_of
from api.site import AnyRequest, Site, site_of
from shared.accounts import card_keys, logins, passwords, registration, users
from shared.accounts.admin_config import Policy
from shared.accounts.invitations import Invitation
from shared.accounts.ledger import Operation, card_lock, user_lock, was_made
from shared.accounts.memberships import Membership
from shared.accounts.registration import Created
from shared.accounts.users import NewUser
from shared.errors import InvalidField, Refused, Unavailable
from shared.mysql import Cursor
from shared.times import now_ms

log = structlog.get_logger()

PASSWORD_MIN = 6
_NO_NEW_PASSWORD = "新密码不得为空"  # noqa: S105 -- a text for the user


class RegistrationConfig(msgspec.Struct, rename="camel"):
    """What the registration page shows."""

    allow_register: bool
    card_key_enabled: bool
    system_mode: str
    show_card_key_input: bool


class RegisterRequest(msgspec.Struct, rename="camel"):
    """A new user; the invitation code is somebody else's."""

    WORDS: ClassVar[dict[str, str]] = {"username": NO_NAME, "password": NO_PASSWORD}

    username: Needed[Annotated[str, rule(pattern=f"^{users.NEW_NAME}$", examples=["carol"])]] = ""
    password: Needed[
        Annotated[str, rule(minLength=PASSWORD_MIN, maxLength=passwords.PASSWORD_BYTES_MAX)]
    ] = ""
    confirm_password: Needed[str] = ""
    card_key: str | None = None
    invitation_code: str | None = None


class Registered(msgspec.Struct, rename="camel"):
    """Done, and logged in."""

    card_key_info: Membership | None
    ok: bool = True
    message: str = "注册成功"
    need_delay: bool = False


class ChangePasswordRequest(msgspec.Struct, rename="camel"):
    WORDS: ClassVar[dict[str, str]] = {"newPassword": _NO_NEW_PASSWORD}

    new_password: Needed[
        Annotated[str, rule(minLength=1, maxLength=passwords.PASSWORD_BYTES_MAX)]
    ] = ""


@get("/api/register/config", status_code=200)
async def get_register_config(request: AnyRequest) -> Response[bytes]:
    """Whether registration is open, and whether it asks for a card key."""
    policy = await site_of(request).policy.get()
    return reply(
        RegistrationConfig(
            allow_register=policy.allow_register,
            card_key_enabled=policy.card_keys_enabled,
            system_mode=policy.system_mode,
            show_card_key_input=policy.card_keys_enabled and not policy.promotes,
        )
    )


@post("/api/register", status_code=200)
async def post_register(request: AnyRequest) -> Response[bytes]:
    """Register: user, points account, card key and invitation together, or nothing of it."""
    site = site_of(request)
    body = await read_bytes(request)
    asked = decoded(body, RegisterRequest)
    operation = operation_of(request, "", body)
    policy = await site.policy.get()
    # Who was registered is told so again, whoever may register by now.
    if not (operation.is_named and await site.read(lambda cursor: was_made(cursor, operation))):
        _check(site, policy, asked)
    async with _counted(request, asked.username, operation):
        new = NewUser(
            username=asked.username,
            after_former=await prepare_name(site, asked.username),
            password_hash=await passwords.hashed(asked.password),
        )
        created = await _create(request, policy, new, asked, operation)
        if operation.is_named:
            new = await _as_registered(request, new, asked.password)
    # Done. At once, so that a Redis that does not answer is waited for once.
    token, *_ = await asyncio.gather(_first_session(site, new), *_tellings(request, new, operation))
    response = reply(Registered(created.membership))
    log_in(response, site, new.username, "user", token)
    return response


@asynccontextmanager
async def _counted(request: AnyRequest, username: str, operation: Operation) -> AsyncIterator[None]:
    """Count a registration, and one that may be sent again also as a login, which it then is.

    Who knows the Idempotency-Key of one could else try passwords on it without end.
    """
    attempts, address = site_of(request).attempts, address_of(request)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(attempts.registration(address))
        if operation.is_named:
            await stack.enter_async_context(attempts.login(username, address))
        yield


async def _as_registered(request: AnyRequest, new: NewUser, password: str) -> NewUser:
    """*new* with the password as it is stored: a repeated request meets what became of it since.

    Raises `Denied` if the user is gone, has another password, or could not log in.
    """
    user = await site_of(request).read(lambda cursor: users.find(cursor, new.username))
    if user is not None and user.password_hash == new.password_hash:
        return new  # made just now
    verdict = await passwords.verify(password, user.password_hash if user else None)
    if user is None or not verdict.right:
        raise Denied(WRONG)
    await check_standing(request, user)
    return replace(new, password_hash=user.password_hash)


async def _first_session(site: Site, user: NewUser) -> str | None:
    """A session's token; None while a store is away: the user is there all the same, to log in.

    A refusal would be half of it: who sent the request again would find the name taken.
    """
    try:
        return await begin_session(site, user)
    except Unavailable as error:
        log.warning("registered_without_session", error=str(error))
        return None


def _tellings(
    request: AnyRequest, new: NewUser, operation: Operation
) -> Iterator[Coroutine[Any, Any, None]]:
    """What Redis is to know of the new user."""
    site = site_of(request)
    if new.after_former:
        yield tell_standing(site, new.username, None)
    if operation.is_named:
        yield told(site.attempts.succeeded(new.username, address_of(request)))


def _card_key_in(asked: RegisterRequest) -> str | None:
    return (asked.card_key or "").strip() or None


def _check(site: Site, policy: Policy, asked: RegisterRequest) -> None:
    """Raise what is wrong, in the order that real front ends know."""
    if not policy.allow_register:
        raise Denied("管理员已关闭用户注册功能", 403)
    required = policy.card_keys_enabled and policy.card_key_required and not policy.promotes
    if required and _card_key_in(asked) is None:
        raise InvalidField("卡密不能为空", "cardKey", "an unused card key")
    if not asked.username:
        raise InvalidField(NO_NAME, "username", "a new user's name")
    if not asked.password:
        raise InvalidField(NO_PASSWORD, "password", f"at least {PASSWORD_MIN} characters")
    if asked.password != asked.confirm_password:
        raise InvalidField("两次输入的密码不一致", "confirmPassword", "the same as password")
    if len(asked.password) < PASSWORD_MIN:
        allowed = f"at least {PASSWORD_MIN} characters"
        raise InvalidField("密码长度至少6位", "password", allowed)
    if asked.username.lower() == site.settings.username.lower():
        raise Refused("该用户名已被使用")
    users.check_new_name(asked.username)


async def _create(
    request: AnyRequest,
    policy: Policy,
    new: NewUser,
    asked: RegisterRequest,
    operation: Operation,
) -> Created:
    site, now, card_key = site_of(request), now_ms(), _card_key_in(asked)
    code = (asked.invitation_code or "").strip()
    invitation = Invitation(code, address_of(request)) if code else None
    locks = [user_lock(new.username)]
    if card_key is not None:
        locks.append(card_lock(card_keys.hash_of(card_key)))
    return await site.ledger.perform(
        operation,
        locks,
        lambda cursor: registration.create_user(
            cursor,
            new,
            now,
            card_key=card_key,
            promotion=policy.promotion_key_type if policy.promotes else None,
            invitation=invitation,
        ),
        Created,
    )


@post("/api/change-password", status_code=200)
async def post_change_password(request: AnyRequest) -> Response[bytes]:
    """Change one's own password; the user's other sessions end."""
    member, asked, body = await admitted(request, member_of, ChangePasswordRequest)
    if not asked.new_password:
        raise InvalidField(_NO_NEW_PASSWORD, "newPassword", "a new password")
    if member.is_owner:
        raise Denied("站长不能通过此接口修改密码", 403)
    site, headers = site_of(request), request.scope["headers"]

    async def change(cursor: Cursor) -> None:
        # Whoever ends sessions holds this lock: a session that is there now was ended by nobody.
        await users.lock(cursor, member.username)
        await check_still(cursor, site, member)
        await site.gate.visitor_now(headers)
        token = site.gate.token_in(headers)
        await logins.change_password(cursor, site.sessions, member.username, new_hash, but=token)

    async with site.attempts.new_password(member.username):
        new_hash = await passwords.hashed(asked.new_password, "newPassword")
        done = await made(request, member, body, change)
    site.gate.forget_user(member.username)
    return reply(done)


ROUTES = (get_register_config, post_register, post_change_password)
_TAG = "registration"
DESCRIBED = {
    ("/api/register/config", "get"): Described(_TAG, RegistrationConfig, errors=(503,)),
    ("/api/register", "post"): Described(
        _TAG, Registered, RegisterRequest, errors=(400, 401, 403, 409, 413, 429, 503), once=True
    ),
    ("/api/change-password", "post"): Described(
        _TAG,
        Ok,
        ChangePasswordRequest,
        errors=(400, 403, 409, 413, 429, 503),
        login=True,
        once=True,
    ),
}
