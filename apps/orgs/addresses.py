"""Where a request comes from, behind the proxies that the operator trusts."""

from __future__ import annotations

import ipaddress
from functools import cache
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.http import HttpRequest

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOPS = 20


def address_of(request: HttpRequest) -> str:
    """The caller's address; "" when the server does not know it.

    `X-Forwarded-For` is anybody's to send. It counts only as far as trusted proxies have written
    it: from its end, the first address that is none of theirs.
    """
    address = str(request.META.get("REMOTE_ADDR") or "")
    trusted = _networks(tuple(settings.TRUSTED_PROXIES))
    hops = request.headers.get("X-Forwarded-For", "").split(",")[-MAX_HOPS:]
    while hops and _within(address, trusted):
        hop = hops.pop().strip()
        if not _is_address(hop):
            break
        address = hop
    return address


@cache
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def _within(address: str, networks: Iterable[Network]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in net for net in networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
