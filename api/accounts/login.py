"""
Logging in and out.

The password comes first: a card key is looked at only for who knows it, and who does not is
told nothing of whether a user exists, is banned or has run out of time.
"""

from __future__ import annotations

import hmac
from typing import Annotated, ClassVar

import msgspec
import structlog
from litestar import Response, post

from api.accounts.replies import Ok, log_in, log_out, reply
from api.accounts.standings import told
from api.bodies import MALFORMED, Needed, decoded, operation_of, read_bytes, rule
from api.clients import address_of
from api.described import Described, Query
from api.errors import Denied
from api.members import member_of, role_of
from api.site import AnyRequest, Site, site_of
from shared.accounts import barred, card_keys, memberships, passwords, users
from shared.accounts.ledger import Operation, card_lock, user_lock
from shared.accounts.memberships import Membership
from shared.accounts.users import NewUser, StoredUser
from shared.errors import Conflict, InvalidField, Refused
from shared.events import USER_MAX, check_name
from shared.mysql import Cursor
from shared.times import now_ms

log = structlog.get_logger()

NO_NAME, NO_PASSWORD = "用户名不能为空", "密码不能为空"
WRONG = "用户名或密码错误"
BANNED = "用户被封禁"
OUT_OF_TIME = "卡密已过期，请在设置页面重新绑定新卡密"


class LoginRequest(msgspec.Struct, rename="camel"):
    """Name and password; a card key extends the membership on the way in."""

    WORDS: ClassVar[dict[str, str]] = {"username": NO_NAME, "password": NO_PASSWORD}

    username: Needed[Annotated[str, rule(minLength=1)]] = ""
    password: Needed[Annotated[str, rule(minLength=1)]] = ""
    card_key: str | None = None
    #: For clients without cookies: the answer holds the session's token, and sets none.
    bearer: bool = False


class LoggedIn(msgspec.Struct, omit_defaults=True):
    """Done; *token* for who asked for one, sent as `Authorization: Bearer`."""

    ok: bool
    token: str | None = None


@post("/api/login", status_code=200)
async def post_login(request: AnyRequest) -> Response[bytes]:
    """Log in: sets an HttpOnly session cookie, and the cookie that LunaTV's pages read.

    An Idempotency-Key is that of the card key's binding: each login begins a session.
    """
    site = site_of(request)
    asked = decoded(await read_bytes(request), LoginRequest)
    if not asked.username:
        raise InvalidField(NO_NAME, "username", "a user's name")
    if not asked.password:
        raise InvalidField(NO_PASSWORD, "password", "the user's password")
    address = address_of(request)
    async with site.attempts.login(asked.username, address):
        user = await _verified(site, asked)
    await site.attempts.succeeded(asked.username, address)
    await check_standing(request, user, asked.card_key)
    token = await begin_session(site, user)
    # Whatever session the client came with is not the one it leaves with.
    await end_session(request)
    if asked.bearer:
        return reply(LoggedIn(ok=True, token=token))
    response = reply(LoggedIn(ok=True))
    log_in(response, site, user.username, role_of(site, user), token)
    return response


async def _verified(site: Site, asked: LoginRequest) -> StoredUser:
    """Who knows the password. Raises `Denied`, after the same work for whatever is wrong."""
    try:
        check_name(asked.username, "username", USER_MAX, WRONG)
    except InvalidField:
        user = None
    else:
        user = await site.read(lambda cursor: users.find(cursor, asked.username))
    if asked.username == site.settings.username:
        return await _verified_owner(site, asked, user)
    verdict = await passwords.verify(asked.password, user.password_hash if user else None)
    if user is None or not verdict.right:
        raise Denied(WRONG)
    if verdict.outdated:
        return await _upgraded(site, user, asked.password)
    return user


async def _verified_owner(site: Site, asked: LoginRequest, user: StoredUser | None) -> StoredUser:
    """The owner's password is the environment's."""
    await passwords.verify(asked.password, None)  # takes as long as anybody else's
    given, right = (
        text.encode(errors="surrogatepass") for text in (asked.password, site.settings.password)
    )
    if not hmac.compare_digest(given, right):
        raise Denied(WRONG)
    if reason := await site.read(lambda cursor: barred.reason_of(cursor, asked.username)):
        log.error("owner_barred", reason=reason, remedy=f"moonwake users unban {asked.username}")
        raise Denied(BANNED)
    if user is not None:
        return user
    return await site.read(lambda cursor: users.ensure_owner(cursor, asked.username))


async def _upgraded(site: Site, user: StoredUser, password: str) -> StoredUser:
    """*user* with the password in today's form. Raises `Denied` if it was changed meanwhile."""
    name, old_hash, new_hash = user.username, user.password_hash, await passwords.hashed(password)
    await site.read(lambda cursor: users.upgrade_password(cursor, name, old_hash, new_hash))
    # Another login of theirs may have upgraded it first, to a hash of its own.
    now = await site.read(lambda cursor: users.find(cursor, name))
    if now is None:
        raise Denied(WRONG)
    if now.password_hash != new_hash:
        verdict = await passwords.verify(password, now.password_hash)
        if not verdict.right:
            raise Denied(WRONG)
    return now


async def check_standing(
    request: AnyRequest, user: StoredUser, card_key: str | None = None
) -> None:
    """Raise `Denied` for who is banned, brings a bad key, or has run out of time."""
    if user.banned:
        raise Denied(BANNED)
    site = site_of(request)
    if user.username in site.bars.names:  # let in again since this front looked
        await told(site.bars.look())
    if card_key and card_key.strip():
        await _bind_first(request, user, card_key)
    if role_of(site, user) == "user":
        membership = await _membership(site, user.username)
        if membership is not None and membership.is_expired:
            raise Denied(OUT_OF_TIME)


async def _bind_first(request: AnyRequest, user: StoredUser, card_key: str) -> None:
    """Bind the key that a login brings, or see that it is theirs already.

    It is where the answer to the same login was lost: they log in again as they did, and are
    not told that somebody used their key. Raises `Denied`.
    """
    # The password, which may be typed wrongly once, is no part of what is asked for.
    operation = operation_of(request, f"user {user.id}", b"bind" + card_key.strip().encode())
    try:
        await bind(request, user.username, card_key, operation)
    except Conflict:
        raise
    except Refused as error:
        membership = await _membership(site_of(request), user.username)
        bound = card_keys.hash_of(card_key.strip())
        if membership is None or membership.bound_key != bound:
            raise Denied(str(error)) from error


async def _membership(site: Site, username: str) -> Membership | None:
    now = now_ms()
    return await site.read(lambda cursor: memberships.read(cursor, username, now))


async def bind(
    request: AnyRequest, username: str, card_key: str, operation: Operation
) -> Membership:
    """Bind *card_key* to *username*, once.

    Raises what `Ledger.perform`, `Gate.check` and `memberships.bind` do.
    """
    site, plain_key, now = site_of(request), card_key.strip(), now_ms()

    async def work(cursor: Cursor) -> Membership:
        site.gate.check(username)  # who waited for a lock may have been banned meanwhile
        return await memberships.bind(cursor, username, plain_key, now)

    locks = [user_lock(username), card_lock(card_keys.hash_of(plain_key))]
    return await site.ledger.perform(operation, locks, work, Membership)


async def begin_session(site: Site, user: StoredUser | NewUser) -> str:
    """A new session's token. Raises `Denied` if the login was overtaken by a ban or a change.

    Who ends all sessions does not see one that begins meanwhile: so this looks again, once
    whatever is being changed is settled.
    """
    token = await site.sessions.begin(user.username)
    now = await site.read(lambda cursor: users.settled(cursor, user.username))
    if now is None or now.banned or now.password_hash != user.password_hash:
        await site.sessions.end(token)
        raise Denied(users.BANNED if now is not None and now.banned else WRONG)
    return token


async def end_session(request: AnyRequest) -> None:
    """End the session that *request* came with, if any."""
    site = site_of(request)
    token = site.gate.token_in(request.scope["headers"])
    if token is not None:
        await site.sessions.end(token)
        site.gate.forget(request.scope["headers"])  # not before: another request looks it up


@post("/api/logout", status_code=200)
async def post_logout(request: AnyRequest) -> Response[bytes]:
    """Log out here, or with `everywhere=true` end all sessions of the user."""
    everywhere = request.query_params.get("everywhere", "false")
    if everywhere not in ("true", "false"):
        raise InvalidField(MALFORMED, "everywhere", "true, false")
    if everywhere == "true":
        member = await member_of(request)
        await site_of(request).sessions.end_all(member.username)
        site_of(request).gate.forget_user(member.username)
    await end_session(request)
    response = reply(Ok())
    log_out(response)
    return response


ROUTES = (post_login, post_logout)
_TAG = "login"
DESCRIBED = {
    ("/api/login", "post"): Described(
        _TAG, LoggedIn, LoginRequest, errors=(400, 401, 409, 413, 429, 503)
    ),
    ("/api/logout", "post"): Described(
        _TAG,
        Ok,
        errors=(400, 401, 503),
        queries=(Query("everywhere", "true: end all sessions of the user.", "boolean"),),
    ),
}
