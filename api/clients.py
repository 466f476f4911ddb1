"""Where a request comes from."""

from __future__ import annotations

from api.site import AnyRequest, site_of
from shared.accounts.addresses import client_address


def address_of(request: AnyRequest) -> str | None:
    """The client's address; X-Forwarded-For counts only from TRUSTED_PROXIES."""
    peer = request.scope["client"]
    forwarded = [
        value.decode("latin-1")
        for name, value in request.scope["headers"]
        if name == b"x-forwarded-for"
    ]
    trusted = site_of(request).settings.trusted_proxies
    return client_address(peer[0] if peer else None, forwarded, trusted)
