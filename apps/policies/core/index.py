"""Which rules of a document cover a host, in order, without trying all of them.

A decision is made for every request of every sandbox, and documents grow; so the work follows the
labels of the host, not the number of rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.common.addresses import embedded, inside, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apps.common.addresses import Address, Network
    from apps.common.hosts import Host, HostPattern


@dataclass(frozen=True, slots=True, eq=False)
class HostIndex:
    """Positions of patterns by what they are. `names` also holds suffixes, with their dot."""

    names: dict[str, list[int]]
    networks: list[tuple[int, Network]]
    anything: list[int]

    def covering(self, host: Host) -> list[int]:
        """The positions of the patterns that cover the host, in ascending order."""
        found = list(self.anything)
        if host.address is not None:
            found += self._holding((host.address,))
        else:
            name = host.name
            found += self.names.get(name, ())
            dot = name.find(".")
            while dot >= 0:
                found += self.names.get(name[dot:], ())
                dot = name.find(".", dot + 1)
        found.sort()
        return found

    def behind(self, host: Host, resolved: Iterable[str]) -> list[int]:
        """The positions of the networks that a connection to the host would end in.

        Looked at are the addresses that it resolved to, and the IPv4 addresses that IPv6 ones
        carry: `64:ff9b::808:808` ends at 8.8.8.8.
        """
        if not self.networks:
            return []
        found = [host.address, *map(parse_address, resolved)]
        ends = [end for one in found if one is not None for end in (one, *embedded(one))]
        return self._holding(ends)

    def _holding(self, addresses: Sequence[Address]) -> list[int]:
        return [
            position
            for position, network in self.networks
            if any(inside(address, network) for address in addresses)
        ]


def build_index(patterns: Iterable[HostPattern]) -> HostIndex:
    """The index of a document's patterns, in its order."""
    index = HostIndex({}, [], [])
    for position, pattern in enumerate(patterns):
        if pattern.network is not None:
            index.networks.append((position, pattern.network))
        elif pattern.anything:
            index.anything.append(position)
        else:
            index.names.setdefault(pattern.name or pattern.suffix, []).append(position)
    return index
