"""What fronts and Redis are told of users who are banned, deleted, or there anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog

from api.play_records import clear_of
from api.site import Site
from shared.accounts import barred
from shared.accounts.barred import Reason
from shared.errors import Unavailable

log = structlog.get_logger()


async def prepare_name(site: Site, username: str) -> bool:
    """Leave nothing of a deleted user to who takes their name; was there one, and is it so now?

    That is their sessions, and what they played: cached, pending, or on its way. Nothing is
    added meanwhile, because the name is barred. A user who is only banned keeps it all. Where
    LunaTV's cookie is a login nothing can be done, theirs would be one of the new user: the
    name stays taken.
    """
    if site.settings.accept_lunatv_cookie or await _reason(site, username) != "deleted":
        return False
    await site.sessions.end_all(username)
    await site.append(clear_of(site.gate.visitor_named(username)))
    return True


async def tell_standing(site: Site, username: str, changed_to: Reason | None) -> None:
    """Let everybody know whether the login of *username* counts.

    As MySQL has it now, because a repeated request may come long after the change it asks for;
    where MySQL is gone by then as it was *changed_to*, which fronts have to go by meanwhile.
    """
    site.gate.forget_user(username)
    try:
        reason = await _reason(site, username)
    except Unavailable:
        reason = changed_to
    if reason is None:
        await told(site.bars.lift(username))
        return
    telling = [site.bars.bar(username, reason), site.sessions.end_all(username)]
    if reason == "deleted":
        telling.append(site.append(clear_of(site.gate.visitor_named(username))))
    # At once: a Redis that does not answer is waited for once.
    await asyncio.gather(*map(told, telling))


async def told(telling: Awaitable[object]) -> None:
    """Let Redis know of what is done. Fronts look at MySQL themselves every few seconds."""
    try:
        await telling
    except Unavailable as error:
        log.warning("redis_not_told", error=str(error))


async def _reason(site: Site, username: str) -> Reason | None:
    return await site.read(lambda cursor: barred.reason_of(cursor, username))
