"""Passwords: every stored form knows its own, no stored form is a password itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher, Type
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.accounts import passwords
from shared.accounts.passwords import PASSWORD_BYTES_MAX, Verdict, hashed, verify
from shared.errors import Busy, InvalidField
from tests.waiting import until

PASSWORD = "Tr0ub4dor & 四"
WRONG = Verdict(right=False, outdated=False)
OUTDATED = Verdict(right=True, outdated=True)

SALT = "00112233445566778899aabbccddeeff"
#: What Node.js, which those sites run on, gave for crypto.scryptSync(PASSWORD, SALT, 64).
SCRYPT = (
    "dc8de303d5ce774127740118363fecd7b2f30a1275d38097d718bf5d30ac85ce"
    "20229786ee5009bf90476eabf968f106bbb59bfb247fc3a29353b9bd610f0dad"
)
SHA256 = hashlib.sha256(PASSWORD.encode()).hexdigest()
CHEAP = PasswordHasher(memory_cost=64, time_cost=1, parallelism=1)
OTHER_TYPE = PasswordHasher(memory_cost=19_456, time_cost=2, parallelism=1, type=Type.I)

#: The forms that other sites and earlier settings left behind, all of PASSWORD.
OUTDATED_FORMS = {
    "plaintext": PASSWORD,
    "sha256": SHA256,
    "sha256-upper-case": SHA256.upper(),
    "scrypt": f"{SALT}:{SCRYPT}",
    "scrypt-upper-case": f"{SALT}:{SCRYPT.upper()}",
    "argon2id-cheaper": CHEAP.hash(PASSWORD),
    "argon2i": OTHER_TYPE.hash(PASSWORD),
}
outdated_forms = pytest.mark.parametrize("stored", OUTDATED_FORMS.values(), ids=OUTDATED_FORMS)

_AS_STORED = PasswordHasher(memory_cost=19_456, time_cost=2, parallelism=1)
# The salts are fixed: whether a hash without its last character can still be read depends on the
# bits that are lost with it, and with a salt by chance it is another answer in every 16th run.
CURRENT = _AS_STORED.hash(PASSWORD, salt=bytes(16))
UNREADABLE_CUT = CURRENT[:-1]
READABLE_CUT = _AS_STORED.hash(PASSWORD, salt=bytes([15]) * 16)[:-1]
#: Hashes that lost or gained something: nobody's, and no plaintext either.
DAMAGED = {
    "argon2-cut-off": UNREADABLE_CUT,
    "argon2-cut-off-and-readable": READABLE_CUT,
    "argon2-half": CURRENT[:40],
    "argon2-prefix": "$argon2",
    "argon2-empty": "$argon2id$v=19$m=19456,t=2,p=1$$",
    "argon2-unknown-kind": CURRENT.replace("$argon2id$", "$argon2x$"),
    "argon2-too-much-memory": CURRENT.replace("m=19456", "m=4294967295"),
    "argon2-no-time": CURRENT.replace("t=2", "t=0"),
    "argon2-other-version": CURRENT.replace("v=19", "v=99"),
    "argon2-then-nul": CURRENT + "\0",
    "argon2-then-line-end": CURRENT + "\n",
    "argon2-after-space": " " + CURRENT,
    "argon2-in-two-lines": f"{CURRENT[:40]}\n{CURRENT[40:]}",
    "argon2-not-ascii": CURRENT[:-1] + "é",
    "argon2-half-surrogate": CURRENT[:-1] + "\ud800",
    "argon2-wide-digit": CURRENT.replace("v=19", "v=1\N{FULLWIDTH DIGIT NINE}"),
    "sha256-padded": SHA256 + " ",
    "sha256-upper-case-padded": SHA256.upper() + " ",
    "sha256-then-line-end": SHA256 + "\n",
    "scrypt-cut-off": f"{SALT}:{SCRYPT}"[:128],
    "scrypt-padded": f"{SALT}:{SCRYPT}\n",
    "scrypt-longer": f"{SALT}:{SCRYPT}00",
}
damaged = pytest.mark.parametrize("stored", DAMAGED.values(), ids=DAMAGED)


class Work:
    """The real hasher; counts the hashes it makes or checks, and how many at once."""

    def __init__(self, hasher: PasswordHasher) -> None:
        self._hasher = hasher
        self._lock = threading.Lock()
        self.done = self.running = self.most = 0

    def hash(self, given: bytes) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        made = self._hasher.hash(given)
        with self._lock:
            self.running -= 1
            self.done += 1
        return made

    def verify(self, stored: str, given: bytes) -> bool:
        self.done += 1
        return self._hasher.verify(stored, given)

    def check_needs_rehash(self, stored: str) -> bool:
        return self._hasher.check_needs_rehash(stored)


@pytest.fixture(name="work")
def _work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work(passwords._HASHER)
    monkeypatch.setattr(passwords, "_HASHER", work)
    return work


async def test_a_password_is_stored_as_argon2id_with_the_parameters_of_owasp() -> None:
    """19 MiB, two passes, one lane, and a salt of its own each time; the column holds it."""
    one, other = await hashed(PASSWORD), await hashed(PASSWORD)

    assert one.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert one != other
    assert len(one) <= 255
    assert Verdict(right=True, outdated=False) == await verify(PASSWORD, one)


@settings(max_examples=10)
@given(st.text(min_size=1, max_size=250), st.text(max_size=250))
async def test_a_hash_is_right_for_its_own_password_alone(password: str, other: str) -> None:
    """Any Unicode, NUL and spaces included, comes back; what differs in anything does not."""
    stored = await hashed(password)

    assert Verdict(right=True, outdated=False) == await verify(password, stored)
    assert (await verify(other, stored)).right == (other == password)


@outdated_forms
async def test_an_older_form_is_right_and_to_be_hashed_anew(stored: str) -> None:
    """Whoever comes from another site logs in with the password they had."""
    assert OUTDATED == await verify(PASSWORD, stored)


@outdated_forms
async def test_a_wrong_password_is_wrong_in_every_older_form(stored: str) -> None:
    """Nor is it called outdated: nothing may be stored for it."""
    for wrong in (PASSWORD + " ", PASSWORD.lower(), PASSWORD[:-1], "x"):
        assert WRONG == await verify(wrong, stored)


async def test_the_salt_of_scrypt_is_its_text() -> None:
    """Neither the bytes that it spells nor the same in upper case."""

    def scrypt(salt: bytes) -> str:
        return hashlib.scrypt(PASSWORD.encode(), salt=salt, n=16_384, r=8, p=1, dklen=64).hex()

    assert SCRYPT == scrypt(SALT.encode())
    assert OUTDATED == await verify(PASSWORD, f"{SALT}:{SCRYPT}")
    assert WRONG == await verify(PASSWORD, f"{SALT}:{scrypt(bytes.fromhex(SALT))}")
    assert WRONG == await verify(PASSWORD, f"{SALT.upper()}:{SCRYPT}")


@pytest.mark.parametrize(
    "stored", [SHA256, f"{SALT}:{SCRYPT}", CHEAP.hash(PASSWORD), CURRENT], ids=lambda text: text[:9]
)
async def test_a_stolen_hash_is_no_password(stored: str) -> None:
    """Whoever reads the table cannot log in with what stands there, nor with a part of it."""
    for stolen in {stored, stored.upper(), stored.lower(), stored.rpartition(":")[2]}:
        assert WRONG == await verify(stolen, stored)


@damaged
async def test_a_damaged_hash_is_nobodys_and_no_plaintext(stored: str) -> None:
    """Neither the password nor the text itself opens it, and nothing is raised."""
    assert WRONG == await verify(PASSWORD, stored)
    assert WRONG == await verify(stored, stored)


@pytest.mark.parametrize("password", ["!", "", PASSWORD])
async def test_the_mark_of_nobody_is_verified_by_nothing(password: str) -> None:
    """'!' stands where nobody may log in: it is no plaintext."""
    assert WRONG == await verify(password, "!")


@pytest.mark.parametrize("stored", ["", hashlib.sha256(b"").hexdigest()], ids=["none", "sha256"])
async def test_an_empty_password_is_never_right(stored: str) -> None:
    """Restored backups of other sites hold the hash of an empty one: it opens nothing."""
    assert WRONG == await verify("", stored)
    with pytest.raises(InvalidField, match="password, allowed: at least 1 byte"):
        await hashed("")


@settings(max_examples=10)
@given(st.text(), st.text())
@example("secret", "\ud800")
async def test_no_text_makes_the_check_fail(password: str, stored: str) -> None:
    """Whatever is sent and whatever is stored, there is a verdict."""
    for form in (stored, "$argon2" + stored, f"$argon2id$v=19$m=8,t=1,p=1${stored}"):
        assert isinstance(await verify(password, form), Verdict)


async def test_a_password_may_have_so_many_bytes_and_no_more() -> None:
    """The limit counts UTF-8: a character more than fits is refused, and is never right."""
    longest = "四" * (PASSWORD_BYTES_MAX // 3) + "x" * (PASSWORD_BYTES_MAX % 3)
    too_long = longest + "x"

    assert (await verify(longest, await hashed(longest))).right
    with pytest.raises(InvalidField, match="password, allowed: at most 1024 bytes"):
        await hashed(too_long)
    assert WRONG == await verify(too_long, too_long)
    assert WRONG == await verify(too_long, hashlib.sha256(too_long.encode()).hexdigest())


async def test_half_a_surrogate_pair_is_refused_without_an_error_of_encoding() -> None:
    """JSON can spell one, UTF-8 cannot: it is nobody's password."""
    with pytest.raises(InvalidField) as refused:
        await hashed("secret\ud800")

    assert "password" == refused.value.field
    assert WRONG == await verify("secret\ud800", "secret\ud800")
    assert WRONG == await verify("secret\ud800", CURRENT)


@pytest.mark.parametrize("password", [PASSWORD, "wrong", "", "x" * 1_025, "\ud800"])
@pytest.mark.parametrize(
    "stored",
    [None, "!", "", "plain", SHA256, CURRENT, READABLE_CUT, "$argon2", SHA256 + " "],
    ids=["none", "!", "empty", "plain", "sha256", "current", "cut-off", "prefix", "padded"],
)
async def test_every_answer_costs_one_argon2_hash(
    work: Work, password: str, stored: str | None
) -> None:
    """Time tells neither which users there are, nor how or whether their passwords are stored."""
    before = work.done
    await verify(password, stored)

    assert 1 == work.done - before


async def test_a_hash_that_is_refused_unread_costs_the_work_that_it_did_not_take(
    work: Work,
) -> None:
    """The counter sees two: one that argon2 refused before any work, and one for nothing."""
    before = work.done
    await verify(PASSWORD, UNREADABLE_CUT)

    assert 2 == work.done - before


async def test_nobody_has_no_password() -> None:
    """A user that is not there is answered like one with another password."""
    assert WRONG == await verify(PASSWORD, None)


async def test_no_more_is_hashed_at_once_than_there_are_processors(work: Work) -> None:
    """A flood of logins takes the memory of some, and every one is answered."""
    processors = os.cpu_count() or 1

    await asyncio.gather(*(hashed(PASSWORD) for _ in range(processors * 6)))

    assert processors * 6 == work.done
    assert work.most <= processors


async def test_the_event_loop_goes_on_while_a_password_is_hashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the loop lets this hash end: on the loop itself it would wait for ever."""
    begun, end = threading.Event(), threading.Event()

    class Waiting:
        def hash(self, given: bytes) -> str:
            begun.set()
            return "done" if end.wait(timeout=60) else "nobody came"

    monkeypatch.setattr(passwords, "_HASHER", Waiting())
    hashing = asyncio.create_task(hashed(PASSWORD))
    await until(begun.is_set, "a hash was begun")
    end.set()

    assert "done" == await hashing


def test_any_event_loop_may_hash() -> None:
    """Nothing belongs to the loop that came first, though several wait for their turn."""

    async def many() -> int:
        wanted = (os.cpu_count() or 1) * 2
        return len(await asyncio.gather(*(hashed(PASSWORD) for _ in range(wanted))))

    assert asyncio.run(many()) == asyncio.run(many())


async def test_too_many_hashes_at_once_are_refused_and_the_others_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who would wait for longer than people do is told at once; afterwards there is room again."""
    monkeypatch.setattr(passwords, "_waiting", threading.BoundedSemaphore(3))
    calls = [hashed(PASSWORD), verify(PASSWORD, None), hashed(PASSWORD), verify(PASSWORD, None)]
    told = await asyncio.gather(*calls, hashed(PASSWORD), return_exceptions=True)

    assert [Busy, Busy] == [type(each) for each in told[3:]]
    assert [str, Verdict, str] == [type(each) for each in told[:3]]
    assert WRONG == await verify(PASSWORD, None)


async def test_who_is_gone_leaves_their_place_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once their hash is made, or taken out of the queue."""
    waiting = threading.BoundedSemaphore(50)
    monkeypatch.setattr(passwords, "_waiting", waiting)
    tasks = [asyncio.create_task(hashed(PASSWORD)) for _ in range(50)]
    await asyncio.sleep(0)  # each has asked
    assert not has_free(waiting, 50)()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(has_free(waiting, 50), "all places are free")


def has_free(semaphore: threading.BoundedSemaphore, places: int) -> Callable[[], bool]:
    """Are so many of the places free?"""
    return lambda: semaphore._value == places
