"""
Whose address a request comes from, and what counts as one address.

A client writes into X-Forwarded-For what it likes; each proxy adds, at the right end, the
address that spoke to it. So only what trusted proxies have added is believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

#: 1.2.3.4:5678, [::1]:80 or [::1]: what some proxies add. A bare IPv6 address has no port.
_BRACKETS_OR_PORT = re.compile(r"\[([^\]]*:[^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
#: A household is given 2^64 IPv6 addresses, so one of them tells nobody apart.
_HOUSEHOLD_BITS = 64


def client_address(
    peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]
) -> str | None:
    """The nearest address that is not a *trusted* proxy's, normalised; None if nobody knows it.

    *peer* is who is connected: a Unix socket's path or None is no address, so nothing it
    forwards is believed. *forwarded_for* are the X-Forwarded-For headers in their order. All
    addresses of the trusted networks must be proxies: their other machines can lie. Takes any
    text and never raises.
    """
    hops = ",".join(forwarded_for).split(",")
    for text in (peer or "", *reversed(hops)):
        address = _address_in(text)
        if address is None:  # a proxy that does not know whom it serves: left of it are claims
            return None
        if not any(address in network for network in trusted):
            return str(address)
    return None


def reward_unit(address: str) -> str:
    """What counts as one address: an IPv4 address itself, the /64 network around an IPv6 one.

    At most 45 characters. *address* is one that `client_address` found; raises ValueError for
    any other text.
    """
    found = _address_in(address)
    if found is None:
        raise ValueError("neither an IPv4 nor an IPv6 address")
    if isinstance(found, IPv4Address):
        return str(found)
    return str(IPv6Network((found, _HOUSEHOLD_BITS), strict=False))


def _address_in(text: str) -> IPv4Address | IPv6Address | None:
    """The address in one item of X-Forwarded-For, None where it is no address.

    One with a zone (fe80::1%eth0) means something to another machine only.
    """
    bare = text.strip(" \t")
    if match := _BRACKETS_OR_PORT.fullmatch(bare):
        bare = match[1] or match[2]
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return None if address.scope_id is not None else address.ipv4_mapped or address
