"""
Passwords: stored as argon2id, checked against every form that a site may have brought along.

A stored password has one form, by what it looks like as a whole: argon2, SHA-256 in hex,
SALT:SCRYPT in hex, '!' (nobody logs in), else plaintext. What is a damaged hash verifies
nothing: taken for plaintext, it would be a password itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError

from shared.errors import Busy, InvalidField

#: Longest password in UTF-8: nobody types more, and hashing must not be given megabytes.
PASSWORD_BYTES_MAX = 1_024
INVALID_PASSWORD = "密码无效"  # noqa: S105 -- a text for the user

# OWASP's first choice for argon2id where logins share the machine with the site: 19 MiB and
# two passes, some 20 ms. More memory would be stronger and let fewer log in at a time.
_HASHER = PasswordHasher(memory_cost=19_456, time_cost=2, parallelism=1)
# As many as can run at once: the others wait here, and not each with its 19 MiB. Threads and
# not an asyncio.Semaphore, which belongs to one event loop.
_THREADS = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="passwords")

_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=[0-9]+\$m=[0-9]+,t=[0-9]+,p=[0-9]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
)
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_SCRYPT = re.compile(r"([0-9A-Fa-f]{32}):([0-9A-Fa-f]{128})")
_NOBODY = "!"
#: Hashes, also such that were cut off, padded or otherwise damaged on their way.
_DAMAGED = re.compile(r"\s*(?:\$argon2.*|[0-9a-f]{64}|[0-9a-f]{32}:[0-9a-f]{64,})\s*", re.I | re.S)

#: Hashes that may wait or run: about four seconds' worth. Who came later would wait for longer
#: than people do, and so would everybody behind them.
_WAITING_MAX = 200 * (os.cpu_count() or 1)
_waiting = BoundedSemaphore(_WAITING_MAX)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Was the password *right*, and is its stored form *outdated*, to be hashed anew?"""

    right: bool
    outdated: bool = False


_WRONG = Verdict(False)


async def hashed(password: str, field: str = "password") -> str:
    """*password*, given as *field*, as it is stored: about 100 characters.

    Raises `InvalidField` where it is empty, over `PASSWORD_BYTES_MAX` or has no UTF-8, and `Busy`
    where too many are asked for.
    """
    return await _in_thread(_HASHER.hash, _encoded(password, field))


def check(password: str) -> None:
    """Raise `InvalidField` where `hashed` would, without its work."""
    _encoded(password)


def looks_hashed(text: str) -> bool:
    """Is *text* the hash of a password, whole or damaged, rather than a password?"""
    return _DAMAGED.fullmatch(text) is not None


async def verify(password: str, stored: str | None) -> Verdict:
    """Is *password* the one that is *stored*? None: there is no such user.

    Never raises for any text, but `Busy` where too many are asked for. Whatever the answer is
    and why, it costs the work of one argon2 hash, so that nobody can tell by the time it takes
    which users there are. The exceptions are SALT:SCRYPT, which takes two to three times as
    long, and argon2 with other parameters: both until their user logs in and is hashed anew.
    """
    try:
        given = _encoded(password)
    except InvalidField:
        given = b""
    return await _in_thread(_verdict, given, stored)


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    if not _waiting.acquire(blocking=False):
        raise Busy(f"{_WAITING_MAX} passwords are being hashed already")
    future = _THREADS.submit(work, *arguments)
    # Not when the caller is done: the work of one who is gone still keeps the others waiting.
    future.add_done_callback(lambda _: _waiting.release())
    return await asyncio.wrap_future(future)


def _encoded(password: str, field: str = "password") -> bytes:
    """*password* in UTF-8. Raises `InvalidField` unless it can be anybody's password."""
    try:
        given = password.encode()
    except UnicodeEncodeError:
        raise InvalidField(INVALID_PASSWORD, field, "text in UTF-8") from None
    if not given:
        raise InvalidField(INVALID_PASSWORD, field, "at least 1 byte")
    if len(given) > PASSWORD_BYTES_MAX:
        raise InvalidField(INVALID_PASSWORD, field, f"at most {PASSWORD_BYTES_MAX} bytes")
    return given


def _verdict(given: bytes, stored: str | None) -> Verdict:
    """The verdict on a password in UTF-8; an empty one, nobody's, is never right."""
    if not given or stored is None:
        return _wrong_after_work()
    if _ARGON2.fullmatch(stored):
        return _argon2_verdict(given, stored)
    right = _is_right_of_legacy(given, stored)
    return Verdict(right, outdated=right)


def _argon2_verdict(given: bytes, stored: str) -> Verdict:
    try:
        _HASHER.verify(stored, given)
    except VerifyMismatchError:
        return _WRONG
    except VerificationError:  # refused before any work was done
        return _wrong_after_work()
    return Verdict(True, outdated=_HASHER.check_needs_rehash(stored))


def _is_right_of_legacy(given: bytes, stored: str) -> bool:
    if match := _SCRYPT.fullmatch(stored):  # no work besides: it takes longer than argon2 itself
        return hmac.compare_digest(_scrypt(given, match[1]), bytes.fromhex(match[2]))
    _spend()
    if _SHA256.fullmatch(stored):
        return hmac.compare_digest(hashlib.sha256(given).digest(), bytes.fromhex(stored))
    if stored == _NOBODY or looks_hashed(stored):
        return False
    return hmac.compare_digest(given, stored.encode(errors="surrogatepass"))


def _scrypt(given: bytes, salt: str) -> bytes:
    """As those sites have it: the salt is the text, not the bytes that it spells in hex."""
    return hashlib.scrypt(given, salt=salt.encode(), n=16_384, r=8, p=1, dklen=64)


def _wrong_after_work() -> Verdict:
    _spend()
    return _WRONG


def _spend() -> None:
    """The work of checking an argon2 hash, for nothing: making one takes the same."""
    _HASHER.hash(b"")
