"""Whose address a request comes from: what proxies say is believed, what clients say is not."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.accounts.addresses import client_address, reward_unit

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("192.0.2.7")]
PROXY, CLIENT = "10.0.0.1", "198.51.100.9"
#: Any text, and text made of what addresses are made of.
TEXTS = st.text() | st.text("0123456789abcdef.:[],%/ \t-", max_size=40)
ADDRESSES = st.ip_addresses()

#: What no proxy can have meant as an address, or what means one to another machine only.
JUNK = [
    *("unknown", "_hidden", "", " ", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4/8"),
    *("1.2.3.4:", "1.2.3.4:http", "1.2.3.4:123456", "1.2.3.4 5", "[1.2.3.4]:80", "for=1.2.3.4"),
    *("[::1", "::1]", "[::1]:", "[::1]80", "::1::", "[]", "[]:80", '"1.2.3.4"'),
    *("fe80::1%eth0", "[fe80::1%eth0]:80", "::1%", "::ffff:1.2.3.4%1"),
    *("1.2.3.4\n", "1.2.3.4\0", "\ud800", "\N{FULLWIDTH DIGIT ONE}.2.3.4"),
]


def from_proxy(*forwarded_for: str) -> str | None:
    """The client of a request that a trusted proxy brings."""
    return client_address(PROXY, forwarded_for, PROXIES)


def test_who_connects_directly_is_the_client_whatever_they_claim() -> None:
    """Without a trusted proxy X-Forwarded-For is the client's own text."""
    assert CLIENT == client_address(CLIENT, [], PROXIES)
    assert CLIENT == client_address(CLIENT, ["203.0.113.1"], PROXIES)
    assert PROXY == client_address(PROXY, ["203.0.113.1"], [])


def test_behind_a_proxy_the_client_is_whom_the_proxy_saw() -> None:
    """The item at the right end is the proxy's own."""
    assert CLIENT == from_proxy(CLIENT)


@pytest.mark.parametrize(
    "claimed",
    ["203.0.113.1", "10.0.0.2", "10.0.0.2, 10.0.0.3", "junk", "", ",,,", "fd00::1", "127.0.0.1"],
)
def test_what_a_client_puts_before_its_own_address_changes_nothing(claimed: str) -> None:
    """Not another address, not that of a proxy, not junk: in its header or in one before."""
    assert CLIENT == from_proxy(f"{claimed}, {CLIENT}")
    assert CLIENT == from_proxy(claimed, CLIENT)
    assert CLIENT == from_proxy(claimed, f"{CLIENT}, 10.1.1.1")


def test_trusted_proxies_in_a_row_are_passed_over() -> None:
    """Every proxy added the one before it, in one header or in several, of both families."""
    assert CLIENT == from_proxy(f"203.0.113.1, {CLIENT}, fd00::5, 192.0.2.7")
    assert CLIENT == from_proxy("203.0.113.1", CLIENT, "fd00::5,192.0.2.7")
    assert CLIENT == client_address("fd00::1", [CLIENT], PROXIES)


def test_of_several_headers_the_last_is_nearest() -> None:
    """Their order is that of one long list."""
    assert CLIENT == from_proxy("203.0.113.1", CLIENT)


@pytest.mark.parametrize("forwarded_for", [[], [""], ["10.0.0.2"], ["10.0.0.2, fd00::1", PROXY]])
def test_where_all_are_proxies_nobody_knows_the_client(forwarded_for: list[str]) -> None:
    """A proxy's own address is no client's: it would be that of everybody."""
    assert from_proxy(*forwarded_for) is None


@pytest.mark.parametrize("junk", JUNK)
def test_junk_ends_the_search_without_an_address(junk: str) -> None:
    """What stands left of it was said by nobody who is trusted."""
    assert from_proxy(f"{CLIENT}, {junk}") is None
    assert from_proxy(f"{CLIENT}, {junk}, 10.0.0.2") is None
    assert client_address(junk, [CLIENT], PROXIES) is None


@pytest.mark.parametrize("peer", [None, "", "/run/moonwake.sock", "unix:", "\0abstract"])
def test_a_peer_without_an_address_is_not_trusted(peer: str | None) -> None:
    """A Unix socket does not say who is behind it: no claim is believed."""
    assert client_address(peer, [CLIENT], PROXIES) is None
    assert client_address(peer, [CLIENT], [ip_network("0.0.0.0/0"), ip_network("::/0")]) is None


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        (" \t1.2.3.4\t ", "1.2.3.4"),
        ("1.2.3.4:5678", "1.2.3.4"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1:80", "2001:db8::1:80"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("[::ffff:1.2.3.4]:80", "1.2.3.4"),
    ],
)
def test_one_address_has_one_text(written: str, address: str) -> None:
    """Ports, brackets, capitals and IPv4 inside IPv6 give nobody a second address."""
    assert address == from_proxy(written)
    assert address == client_address(written, [], PROXIES)


def test_a_proxy_is_known_by_its_address_however_it_is_written() -> None:
    """A socket for both families shows an IPv4 proxy as IPv6."""
    assert CLIENT == client_address("::ffff:10.0.0.1", [CLIENT], PROXIES)
    assert CLIENT == from_proxy(f"{CLIENT}, [::ffff:10.0.0.2]:4711, 10.0.0.3:80")


@given(st.none() | TEXTS, st.lists(TEXTS))
def test_no_text_makes_it_fail(peer: str | None, forwarded_for: list[str]) -> None:
    """Whatever bytes arrive: an address, normalised, or None."""
    for trusted in ([], PROXIES, [ip_network("0.0.0.0/0"), ip_network("::/0")]):
        for at in (peer, PROXY):
            found = client_address(at, forwarded_for, trusted)
            assert found is None or found == str(ip_address(found))


@given(st.lists(TEXTS), ADDRESSES)
def test_no_claim_gives_a_client_another_address(claims: list[str], client: object) -> None:
    """What stands before the address that the proxy added does not matter, whatever it is."""
    trusted = [ip_network("10.0.0.1")]
    honest = client_address(PROXY, [str(client)], trusted)

    if honest is not None:
        assert honest == client_address(PROXY, [*claims, str(client)], trusted)


def test_an_ipv4_address_counts_for_itself() -> None:
    """Two neighbours are two."""
    assert "1.2.3.4" == reward_unit("1.2.3.4")
    assert "1.2.3.4" == reward_unit("::ffff:1.2.3.4")


def test_all_ipv6_addresses_of_a_household_count_as_one() -> None:
    """A provider gives each customer a /64: who has one could else have rewards without end."""
    assert "2001:db8::/64" == reward_unit("2001:db8::1")
    assert "2001:db8::/64" == reward_unit("2001:db8::ffff:ffff:ffff:ffff")
    assert "2001:db8:0:1::/64" == reward_unit("2001:db8:0:1::")


@given(ADDRESSES)
def test_what_counts_as_one_address_fits_its_column(address: object) -> None:
    """45 characters; and it is the same for all of the /64."""
    unit = reward_unit(str(address))

    assert len(unit) <= 45
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        assert address in ip_network(unit)
        assert unit == reward_unit(str(IPv6Address(int(address) ^ 0xFFFF_FFFF_FFFF_FFFF)))


@pytest.mark.parametrize("text", ["", "unknown", "fe80::1%eth0", "2001:db8::/64"])
def test_what_is_no_address_counts_as_none(text: str) -> None:
    """The caller's mistake: no reward may be booked for it."""
    with pytest.raises(ValueError, match="neither"):
        reward_unit(text)
