"""
The login cookie of LunaTV and MoonTV: who is asking, signed by the site's password.

JSON {role, username, signature, timestamp}, percent-encoded twice on the wire
(its server encodes it, its framework encodes it again) or once (trusted networks).
The signature covers the username alone, so nothing else in it is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from urllib.parse import quote, unquote

import msgspec

#: Current name first, then the one old front ends set.
COOKIE_NAMES = (b"user_auth", b"auth")
#: Browsers hold at most 4,096 bytes; twice that is nobody's cookie.
MAX_COOKIE_BYTES = 8_192


class _Claim(msgspec.Struct):
    """What a cookie says; not believed before its signature is checked."""

    username: str
    signature: str


def signature_of(username: str, password: str) -> str:
    """HMAC-SHA256 of *username* in lower-case hex, keyed with the site's *password*."""
    return hmac.new(password.encode(), username.encode(), hashlib.sha256).hexdigest()


def sign(username: str, role: str, password: str, now_ms: int) -> str:
    """The cookie's value as LunaTV puts it on the wire (encoded twice)."""
    claim = {
        "role": role,
        "username": username,
        "signature": signature_of(username, password),
        "timestamp": now_ms,
    }
    text = json.dumps(claim, ensure_ascii=False, separators=(",", ":"))
    return quote(quote(text, safe=""), safe="")


def username_of(cookie_value: str, password: str) -> str | None:
    """Whose cookie this is; None unless it is well formed and signed with *password*.

    Takes any text and never raises.
    """
    if len(cookie_value) > MAX_COOKIE_BYTES:
        return None
    claim = _decode(cookie_value)
    if claim is None or not claim.username:
        return None
    try:
        right = signature_of(claim.username, password).encode()
        given = claim.signature.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8
        return None
    return claim.username if hmac.compare_digest(right, given) else None


def verify(cookie_header: bytes, password: str) -> str | None:
    """The username of the first valid login cookie in a request's Cookie header."""
    pairs = _pairs(cookie_header)
    for wanted in COOKIE_NAMES:
        for name, value in pairs:
            text = value.decode("latin-1")
            if name == wanted and (username := username_of(text, password)):
                return username
    return None


def value_of(cookie_header: bytes, name: bytes) -> bytes:
    """The first value of the cookie *name*; empty where there is none."""
    return next((value for known, value in _pairs(cookie_header) if known == name), b"")


def _pairs(cookie_header: bytes) -> list[tuple[bytes, bytes]]:
    parts = (pair.strip().partition(b"=") for pair in cookie_header.split(b";"))
    return [(name, value) for name, _, value in parts]


def _decode(text: str) -> _Claim | None:
    """Undo one or two percent-encodings: the first that leaves JSON counts.

    A name may contain "%41" itself, so what is JSON already is never decoded again.
    """
    for _ in range(2):
        try:
            text = unquote(text, errors="strict")
            return msgspec.json.decode(text, type=_Claim)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return None
