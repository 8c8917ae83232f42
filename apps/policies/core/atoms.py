"""Destinations that stand for all others: what rules tell apart, and nothing else.

Patterns are a name, a suffix, a network or everything; two of them are nested or apart. So the
hosts that a pattern covers and no narrower one does are alike to every rule, and one of them
stands for all. Ports are alike unless a rule names them, but for the web ports.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from apps.common.hosts import WEB_PORTS, Host, subnet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from apps.common.addresses import Address, Network
    from apps.common.hosts import HostPattern
    from apps.policies.core.compiled import DomainEntry

# No pattern names a label like this.
_UNNAMED = "\0"
_EVERY_ADDRESS: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


def host_atoms(patterns: Iterable[HostPattern]) -> Iterator[Host]:
    """One host for each kind of host that the patterns tell apart."""
    yield Host(_UNNAMED)
    names = {pattern.name or _UNNAMED + pattern.suffix for pattern in patterns}
    yield from map(Host, sorted(names - {_UNNAMED}))
    networks = {pattern.network for pattern in patterns if pattern.network is not None}
    for address in _address_atoms([*networks, *_EVERY_ADDRESS]):
        yield Host(str(address), address)


def ports_of(patterns: Sequence[HostPattern], *rules: Iterable[DomainEntry]) -> list[int]:
    """The ports that the rules of one host tell apart, and one that none of them names."""
    found = {entry.pattern.port for group in rules for entry in group} - {None}
    named = found | WEB_PORTS
    other = next(port for port in range(1, len(patterns) + 4) if port not in named)
    return sorted({*(port for port in named if port is not None), other})


def shown_host(host: Host) -> str:
    """How a sentence shows it."""
    if host.name == _UNNAMED:
        return "any other host"
    return host.name.replace(_UNNAMED, "*")


class Addresses:
    """What `deny` rules say about the addresses behind a host, before and after."""

    def __init__(self, before: Sequence[DomainEntry], after: Sequence[DomainEntry]) -> None:
        self._before = list(_denied(before))
        self._after = list(_denied(after))
        self._by_port: dict[int, list[tuple[int, int]]] = {}

    def fewer_denied(self, port: int, was: int, now: int) -> bool:
        """Whether a range that was denied before the rule `was` is not denied before `now`.

        One network must take in all of the range: several that do so together are not looked for.
        """
        if port not in self._by_port:
            self._by_port[port] = list(self._pairs(port))
        return any(old < was and new >= now for old, new in self._by_port[port])

    def _pairs(self, port: int) -> Iterator[tuple[int, int]]:
        """For each range denied before: its rule's position, and that of the rule that has it."""
        last = 1 << 30
        for at, pattern, network in self._before:
            if pattern.matches_port(port, every_port=True):
                yield (
                    at,
                    next(
                        (
                            new
                            for new, other, wide in self._after
                            if other.matches_port(port, every_port=True) and subnet(network, wide)
                        ),
                        last,
                    ),
                )


def _denied(entries: Sequence[DomainEntry]) -> Iterator[tuple[int, HostPattern, Network]]:
    for at, entry in enumerate(entries):
        if entry.denies and entry.pattern.network is not None:
            yield at, entry.pattern, entry.pattern.network


def _address_atoms(networks: Iterable[Network]) -> Iterator[Address]:
    """An address of each network that is in none of the narrower ones; none where there is none."""
    found = sorted(set(networks), key=lambda net: (net.version, net.network_address, net.prefixlen))
    for index, network in enumerate(found):
        free = int(network.network_address)
        for other in found[index + 1 :]:
            if not subnet(other, network) or int(other.network_address) > free:
                break
            free = max(free, int(other.broadcast_address) + 1)
        if free <= int(network.broadcast_address):
            yield network.network_address + (free - int(network.network_address))
