"""Which IP addresses may be connected to: one verdict for the egress proxy and the control plane.

Rules, in this order:

1. An address that carries another one inside (v4-mapped, NAT64, 6to4, Teredo, ISATAP, ...) is
   judged by the address inside: that is where the packet goes.
2. Metadata services, loopback, link-local and everything else in `NEVER` is refused. No setting,
   connection or policy opens these.
3. Private ranges (`PRIVATE`) are refused unless `allow` lists them.
4. An IPv6 address outside the space that IANA hands out (2000::/3) is refused.

`ipaddress.is_global` is not used: Python 3.11 says True for multicast, for 64:ff9b::a9fe:a9fe (the
NAT64 form of the metadata address) and for 168.63.129.16 (Azure's).
Sources: the IANA special-purpose registries for IPv4 and IPv6 (RFC 6890 and successors).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Refused whatever is allowed elsewhere. The first network that holds the address gives the reason,
# so the narrow ones stand before the wide ones.
_NEVER_TEXT: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "an unspecified address (this network)"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.169.254/32", "the cloud metadata service"),
    ("169.254.170.2/32", "the AWS container credentials service"),
    ("169.254.170.23/32", "the AWS pod identity service"),
    ("169.254.0.0/16", "a link-local address"),
    ("168.63.129.16/32", "the Azure platform service (metadata)"),
    ("100.100.100.200/32", "the Alibaba Cloud metadata service"),
    ("192.0.0.192/32", "the Oracle Cloud metadata service"),
    ("192.0.0.0/24", "a reserved address (IETF protocol assignments)"),
    ("192.0.2.0/24", "a documentation address"),
    ("198.51.100.0/24", "a documentation address"),
    ("203.0.113.0/24", "a documentation address"),
    ("192.88.99.0/24", "a reserved address (6to4 relay)"),
    ("198.18.0.0/15", "a reserved address (benchmarking)"),
    ("224.0.0.0/4", "a multicast address"),
    ("255.255.255.255/32", "the broadcast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "the unspecified address"),
    ("::1/128", "a loopback address"),
    ("::/96", "a reserved address (obsolete v4-compatible form)"),
    ("fd00:ec2::/32", "an AWS instance service (metadata)"),
    ("fd20:ce::254/128", "the Google Cloud metadata service"),
    ("fd00:c1::a9fe:a9fe/128", "the Oracle Cloud metadata service"),
    ("fd00:42::42/128", "the Scaleway metadata service"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a reserved address (site-local)"),
    ("ff00::/8", "a multicast address"),
    ("64:ff9b:1::/48", "a reserved address (local NAT64 translation)"),
    ("100::/64", "a reserved address (discard only)"),
    ("2001:db8::/32", "a documentation address"),
    ("3fff::/20", "a documentation address"),
)
_PRIVATE_TEXT: tuple[tuple[str, str], ...] = (
    ("10.0.0.0/8", "a private address"),
    ("172.16.0.0/12", "a private address"),
    ("192.168.0.0/16", "a private address"),
    ("100.64.0.0/10", "a shared carrier address (CGNAT)"),
    ("fc00::/7", "a private address (unique local)"),
)
NEVER: tuple[tuple[Network, str], ...] = tuple((ip_network(n), why) for n, why in _NEVER_TEXT)
PRIVATE: tuple[tuple[Network, str], ...] = tuple((ip_network(n), why) for n, why in _PRIVATE_TEXT)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_PROTOCOL_ASSIGNMENTS = IPv6Network("2001::/23")
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_LOW_32_BITS = (_MAPPED, _TRANSLATED, _NAT64, _COMPATIBLE)
# Interface identifiers 0000:5efe and 0200:5efe (RFC 5214): the low half is an IPv4 address.
_ISATAP = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok`, or the `reason` for the refusal: a phrase that completes "10.0.0.1 is ...".

    `private` says that `allow` could have opened it.
    """

    ok: bool
    reason: str = ""
    private: bool = False


OK = Verdict(ok=True)


def vet(
    ip: str | Address,
    allow: Iterable[str | Network] = (),
    refuse: Iterable[str | Network] = (),
) -> Verdict:
    """Judge one address. Never raises: what cannot be read as an address is refused.

    `allow` opens private ranges only. `refuse` closes more, such as the platform's own addresses.
    An entry that is no network is ignored in `allow` and refuses everything in `refuse`.
    """
    address = parse_address(ip)
    if address is None:
        return Verdict(ok=False, reason="not an IP address in its plain spelling")
    refused = _networks(refuse)
    if refused is None:
        return Verdict(ok=False, reason="checked against a list of refused networks that is wrong")
    return _judge(address, tuple(_readable(allow)), refused)


def parse_address(ip: object) -> Address | None:
    """An address from its plain spelling (dotted quad, or RFC 4291 text), else None.

    A scope id (`fe80::1%eth0`) is no part of an address that we connect to: None.
    """
    if isinstance(ip, IPv4Address | IPv6Address):
        return None if getattr(ip, "scope_id", None) is not None else ip
    if not isinstance(ip, str) or len(ip) > 45 or "%" in ip:
        return None
    try:
        return ip_address(ip)
    except (ValueError, AddressValueError):
        return None


@lru_cache(maxsize=4096)
def parse_network(text: str) -> Network | None:
    """A network in CIDR form without host bits (a bare address is a network of one), else None.

    A netmask in dotted form is None too: `10.0.0.0/255.0.0.0` reads as a host mask as well.
    """
    address, slash, prefix = text.partition("/")
    if "%" in text or (slash and not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3)):
        return None
    if parse_address(address) is None:
        return None
    try:
        return ip_network(text)
    except (ValueError, AddressValueError, NetmaskValueError):
        return None


def inside(address: Address, network: Network) -> bool:
    """Whether the network holds the address; False across IP versions."""
    return address.version == network.version and address in network


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address carries (Teredo carries two), outermost first."""
    if isinstance(address, IPv4Address):
        return ()
    value = int(address)
    low = IPv4Address(value & 0xFFFFFFFF)
    if any(address in network for network in _LOW_32_BITS):
        return (low,)
    if address in _TEREDO:  # RFC 4380 §4: server in clear, client with its bits inverted
        return (IPv4Address(value >> 64 & 0xFFFFFFFF), IPv4Address(int(low) ^ 0xFFFFFFFF))
    found = [IPv4Address(value >> 80 & 0xFFFFFFFF)] if address in _SIX_TO_FOUR else []
    if value >> 32 & 0xFFFFFFFF in _ISATAP:
        found.append(low)
    return tuple(found)


def _judge(address: Address, allow: tuple[Network, ...], refuse: tuple[Network, ...]) -> Verdict:
    if address.version == 4:
        return _judge_plain(address, allow, refuse)
    for inner in embedded(address):
        verdict = _judge_plain(inner, allow, refuse)
        # `::` and `::1` are read better as themselves than as the IPv4 address 0.0.0.1
        if not verdict.ok and int(address) > 1:
            return replace(verdict, reason=f"an IPv6 form of {inner}, {verdict.reason}")
    return _judge_plain(address, allow, refuse)


def _judge_plain(
    address: Address, allow: tuple[Network, ...], refuse: tuple[Network, ...]
) -> Verdict:
    if any(inside(address, network) for network in refuse):
        return Verdict(ok=False, reason="an address of the platform itself")
    for network, why in NEVER:
        if inside(address, network):
            return Verdict(ok=False, reason=why)
    for network, why in PRIVATE:
        if inside(address, network):
            listed = any(inside(address, entry) for entry in allow)
            return OK if listed else Verdict(ok=False, reason=why, private=True)
    return OK if _assigned(address) else Verdict(ok=False, reason="a reserved address")


def _assigned(address: Address) -> bool:
    """Whether the address lies in space that is routed on the internet (IPv4: what is left)."""
    if isinstance(address, IPv4Address) or address in _MAPPED or address in _NAT64:
        return True
    if address in _PROTOCOL_ASSIGNMENTS:
        return address in _TEREDO
    return address in _GLOBAL_UNICAST


def _as_network(entry: str | Network) -> Network | None:
    return parse_network(entry) if isinstance(entry, str) else entry


def _readable(entries: Iterable[str | Network]) -> list[Network]:
    return [network for entry in entries if (network := _as_network(entry)) is not None]


def _networks(entries: Iterable[str | Network]) -> tuple[Network, ...] | None:
    """All of the entries as networks, or None when one of them is not readable."""
    listed = tuple(entries)
    networks = _readable(listed)
    return tuple(networks) if len(networks) == len(listed) else None
