"""The login cookie: what LunaTV signs is accepted, and nothing else."""

from __future__ import annotations

import json
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cookies import MAX_COOKIE_BYTES, sign, signature_of, username_of, verify

SECRET = "correct horse"
NAMES = st.text(min_size=1, max_size=40).filter(lambda name: name.isprintable())


def cookie(claim: object, *, times: int = 2) -> str:
    """Any JSON as a cookie's value, percent-encoded *times* times."""
    text = json.dumps(claim)
    for _ in range(times):
        text = quote(text, safe="")
    return text


def test_a_cookie_is_what_a_lunatv_site_would_set() -> None:
    """The wire format is LunaTV's, byte for byte: JSON in its order, encoded twice."""
    value = sign("alice", "user", "pw", 1_700_000_000_000)

    assert unquote(unquote(value)) == (
        '{"role":"user","username":"alice","signature":'
        '"30a54d2b328ca6ec16e01fb1973485c9239afebbf88e975226c1b63acc894f61",'
        '"timestamp":1700000000000}'
    )
    assert value.startswith("%257B%2522role%2522%253A")


@given(NAMES)
def test_whatever_the_name_its_own_cookie_is_accepted(name: str) -> None:
    """Percent signs, quotes, spaces, emoji and CJK in a name survive both encodings."""
    value = sign(name, "user", SECRET, 1)

    assert name == username_of(value, SECRET)
    assert name == username_of(unquote(value), SECRET)


def test_the_role_in_a_cookie_needs_no_signature_and_gives_nothing() -> None:
    """Only the name is returned: whoever edits the role has gained nothing."""
    claim = {"role": "owner", "username": "eve", "signature": signature_of("eve", SECRET)}

    assert "eve" == username_of(cookie(claim), SECRET)


def test_a_name_that_looks_encoded_is_not_decoded_once_more() -> None:
    """ "%61dmin" is its own user, and not admin."""
    value = sign("%61dmin", "user", SECRET, 1)

    assert "%61dmin" == username_of(value, SECRET)
    assert "%61dmin" == username_of(unquote(value), SECRET)


def test_a_signature_of_another_name_or_password_is_refused() -> None:
    """Neither a stolen signature nor a guessed password opens another account."""
    stolen = {"username": "admin", "signature": signature_of("eve", SECRET)}

    assert username_of(cookie(stolen), SECRET) is None
    assert username_of(sign("admin", "owner", "another", 1), SECRET) is None


@pytest.mark.parametrize(
    "claim",
    [
        {},
        [],
        "text",
        None,
        7,
        {"username": "alice"},
        {"signature": signature_of("", SECRET)},
        {"username": "", "signature": signature_of("", SECRET)},
        {"username": 5, "signature": signature_of("5", SECRET)},
        {"username": ["alice"], "signature": signature_of("alice", SECRET)},
        {"username": "alice", "signature": None},
        {"username": "alice", "signature": ["x"]},
        {"username": "alice", "signature": "é"},
        {"username": "\ud800", "signature": "0" * 64},
        {"username": "alice", "signature": "\ud800"},
    ],
)
def test_a_cookie_without_name_and_signature_as_text_is_refused(claim: object) -> None:
    """Wrong types and empty or unencodable names are nobody's, without an error."""
    assert username_of(cookie(claim), SECRET) is None
    assert username_of(cookie(claim, times=1), SECRET) is None


@pytest.mark.parametrize(
    "value",
    ["", "%", "%%%", "%ZZ", "%C3", "%25C3", "{", "[" * 8_000, "\x00", "\ud800", "é", "null"],
)
def test_garbage_is_refused_without_an_error(value: str) -> None:
    """No bytes a client can send make the check fail."""
    assert username_of(value, SECRET) is None


@given(st.text(max_size=200))
def test_no_text_is_a_cookie_by_chance(value: str) -> None:
    """Random text is refused, never raised on."""
    assert username_of(value, SECRET) is None


def test_an_endless_cookie_is_not_even_decoded() -> None:
    """A valid signature does not help a cookie longer than any browser keeps."""
    claim = {"username": "alice", "signature": signature_of("alice", SECRET)}
    padded = cookie({**claim, "padding": "x" * MAX_COOKIE_BYTES})

    assert "alice" == username_of(cookie(claim), SECRET)
    assert username_of(padded, SECRET) is None


def test_the_login_cookie_is_found_among_others() -> None:
    """Other cookies, the order and spaces do not matter; the legacy name is read too."""
    alice = sign("alice", "user", SECRET, 1).encode()
    bob = sign("bob", "user", SECRET, 1).encode()

    assert "alice" == verify(b"theme=dark; user_auth=" + alice + b"; x=1", SECRET)
    assert "alice" == verify(b"auth=" + alice, SECRET)
    assert "alice" == verify(b"auth=" + bob + b";user_auth=" + alice, SECRET)
    assert "bob" == verify(b"user_auth=forged; auth=" + bob, SECRET)


@given(st.binary(max_size=200))
def test_no_header_makes_the_check_fail(header: bytes) -> None:
    """Whatever bytes stand in the header, the answer is None and not an error."""
    assert verify(header, SECRET) is None
    assert verify(b"user_auth=" + header, SECRET) is None
