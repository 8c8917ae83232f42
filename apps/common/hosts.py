"""Host names and the patterns that rules match them with.

A host is compared in one spelling only: lower case, punycode, no trailing dot; an address in its
plain form. What could be read in two ways (`127.1`, `0x7f000001`, `::ffff:10.0.0.1`, `a..b`,
`user@host`) is refused instead of repaired: the resolver behind us may read it in the other way.

A pattern is `host`, `*.suffix` (one or more labels before the suffix, not the suffix itself), `*`
(any host), an address or a CIDR; each with `:port` behind it or without. An IPv6 address or range
takes brackets when a port follows: `[2001:db8::1]:443`, `[2001:db8::/32]:443`.

A pattern without a port stands for the web ports, 80 and 443. In a `deny` rule it stands for every
port: where a text can be read in two ways, a deny reads wide and everything else reads narrow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from encodings import idna
from functools import lru_cache
from ipaddress import IPv6Network
from unicodedata import ucd_3_2_0

from apps.common.addresses import Address, Network, inside, parse_address, parse_network

WEB_PORTS = frozenset({80, 443})
MAX_NAME = 253  # RFC 1035 §2.3.4, without the trailing dot
MAX_LABEL = 63

_MAPPED = IPv6Network("::ffff:0:0/96")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


class PatternError(ValueError):
    """A pattern that cannot be used; the message names the remedy and is fit for a form."""


class HostError(ValueError):
    """A host that is no host, or that could be read in two ways; the message says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host in its one spelling: `name` is what is compared, logged and resolved.

    `address` is set when the host is an address; an IPv6 `name` has no brackets.
    """

    name: str
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class HostPattern:
    """A parsed pattern. Exactly one of `name`, `suffix`, `network`, `anything` is set.

    `suffix` starts with a dot. `port` None means that the text names no port.
    """

    text: str
    name: str = ""
    suffix: str = ""
    network: Network | None = None
    anything: bool = False
    port: int | None = None

    @property
    def exact(self) -> bool:
        """Whether it names one host and one port, as a `direct` rule must."""
        single = self.network is not None and self.network.num_addresses == 1
        return self.port is not None and (bool(self.name) or single)

    def matches_host(self, host: Host) -> bool:
        """Whether the host is covered, whatever the port."""
        if self.anything:
            return True
        if self.network is not None:
            return host.address is not None and inside(host.address, self.network)
        if self.name:
            return host.name == self.name
        return host.address is None and host.name.endswith(self.suffix)

    def matches(self, host: Host, port: int, *, every_port: bool = False) -> bool:
        """Whether host and port are covered; `every_port` is how a deny reads a missing port."""
        return self.matches_port(port, every_port=every_port) and self.matches_host(host)

    def matches_port(self, port: int, *, every_port: bool = False) -> bool:
        """Whether the port is covered."""
        if self.port is not None:
            return port == self.port
        return every_port or port in WEB_PORTS


@lru_cache(maxsize=4096)
def parse_host(text: str) -> Host:
    """The host in its one spelling. Raises HostError with a phrase that completes "the host ...".

    Brackets around an IPv6 address are taken off; a port must have been split off before.
    """
    if text.startswith("["):
        return _parse_ipv6(text[1:-1] if text.endswith("]") else "")
    if ":" in text:
        return _parse_ipv6(text)
    name = _normal_name(text)
    last = name.rpartition(".")[2]
    if _NUMBER.fullmatch(last):
        address = parse_address(name)
        if address is None:
            raise HostError("is an address in an odd spelling; only a.b.c.d in decimal is read")
        return Host(str(address), address)
    return Host(name)


@lru_cache(maxsize=8192)
def parse_pattern(text: str) -> HostPattern:
    """Parse a pattern. Raises PatternError whose message names the remedy."""
    if not text:
        raise PatternError("A pattern must not be empty: write `*` for any host.")
    if text != text.strip():
        raise PatternError("Remove the spaces around the pattern.")
    if "://" in text:
        raise PatternError("Write the host only, without `http://` or `https://` before it.")
    if "@" in text:
        raise PatternError("Write the host only, without a user name before it.")
    body, port = _split_port(text)
    if body == "*":
        return HostPattern(text, anything=True, port=port)
    if body.startswith("*.") and "*" not in body[2:]:
        return HostPattern(text, suffix="." + _pattern_name(body[2:], text), port=port)
    if "/" in body or ":" in body:
        return HostPattern(text, network=_pattern_network(body), port=port)
    if "*" in body:
        raise PatternError(
            "`*` stands alone (any host) or first before a dot: `*.example.com`; it cannot stand "
            "inside a name."
        )
    name = _pattern_name(body, text)
    address = parse_address(name)
    if address is not None:
        return HostPattern(text, network=parse_network(name), port=port)
    return HostPattern(text, name=name, port=port)


def covers(wide: HostPattern, narrow: HostPattern, *, every_port: bool = False) -> bool:
    """Whether every host and port that the text of `narrow` names is matched by `wide`.

    `every_port` reads a missing port of `wide` as a deny rule does; that of `narrow` always stands
    for the web ports, which is what its text says.
    """
    return _covers_port(wide, narrow, every_port=every_port) and covers_host(wide, narrow)


def covers_host(wide: HostPattern, narrow: HostPattern) -> bool:
    """The same relation for the hosts alone."""
    if wide.anything:
        return True
    if narrow.anything:
        return False
    if wide.network is not None:
        return narrow.network is not None and subnet(narrow.network, wide.network)
    if narrow.network is not None:
        return False
    if wide.name:
        return narrow.name == wide.name
    return (narrow.name or narrow.suffix).endswith(wide.suffix)


def overlaps(first: HostPattern, second: HostPattern) -> bool:
    """Whether some host and port is named by both texts."""
    ports = WEB_PORTS if first.port is None else {first.port}
    if not any(map(second.matches_port, ports)):
        return False
    if first.network is not None and second.network is not None:
        return subnet(first.network, second.network) or subnet(second.network, first.network)
    return covers_host(first, second) or covers_host(second, first)


def subnet(narrow: Network, wide: Network) -> bool:
    """Whether `wide` holds all of `narrow`; False across IP versions."""
    if narrow.version != wide.version:
        return False
    return narrow.network_address in wide and narrow.prefixlen >= wide.prefixlen


def _covers_port(wide: HostPattern, narrow: HostPattern, *, every_port: bool) -> bool:
    if narrow.port is None:
        return wide.port is None
    return wide.matches_port(narrow.port, every_port=every_port)


def _normal_name(text: str) -> str:
    """Lower case, punycode, one trailing dot less (RFC 1123 §2.1, RFC 5890); all labels checked."""
    if len(text) > MAX_NAME + 1:
        raise HostError(f"is longer than {MAX_NAME} characters")
    labels = text.removesuffix(".").split(".")
    name = ".".join(map(_normal_label, labels))
    if len(name) > MAX_NAME:
        raise HostError(f"is longer than {MAX_NAME} characters")
    return name


def _normal_label(label: str) -> str:
    if not label:
        raise HostError("has an empty label (two dots in a row, or nothing at all)")
    plain = label.lower() if label.isascii() else _punycode(label)
    if len(plain) > MAX_LABEL:
        raise HostError(f"has a label longer than {MAX_LABEL} characters")
    if plain.startswith("-") or plain.endswith("-"):
        raise HostError("has a label that starts or ends with a dash")
    if not _LABEL.fullmatch(plain):
        raise HostError("has a character that no host name has")
    return plain


def _punycode(label: str) -> str:
    """IDNA, only where its versions agree: no `ß`, joiners, wide letters or foreign dots."""
    lowered = label.lower()
    known = all(ucd_3_2_0.category(letter) != "Cn" for letter in lowered)
    try:
        if known and "\u3002" not in lowered and idna.nameprep(lowered) == lowered:
            return idna.ToASCII(lowered).decode("ascii").lower()
    except UnicodeError:
        pass
    raise HostError("has letters that can be written in two ways; use the form with `xn--`")


def _parse_ipv6(text: str) -> Host:
    address = parse_address(text)
    if address is None or address.version != 6:
        raise HostError("is not an IPv6 address (a port must follow brackets, as in `[::1]:443`)")
    if getattr(address, "ipv4_mapped", None) is not None:
        raise HostError("is an IPv4 address in IPv6 clothes; use the plain IPv4 form")
    return Host(str(address), address)


def _split_port(text: str) -> tuple[str, int | None]:
    """The pattern without its port, and the port; brackets come off an IPv6 address."""
    if text.startswith("["):
        body, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise PatternError("An IPv6 address with a port is written `[2001:db8::1]:443`.")
        if ":" not in body:
            raise PatternError("Brackets are for IPv6 addresses only.")
        return body, _port(rest[1:]) if rest else None
    if text.count(":") != 1:
        return text, None
    body, _, port = text.partition(":")
    return body, _port(port)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise PatternError("A port is a whole number from 1 to 65535, as in `example.com:8443`.")
    return int(text)


def _pattern_name(body: str, text: str) -> str:
    try:
        host = parse_host(body)
    except HostError as error:
        raise PatternError(f"The host in `{text}` {error}.") from error
    if host.address is not None and text.startswith("*."):
        raise PatternError("An address has no sub-domains: write a range such as `10.0.0.0/8`.")
    return host.name


def _pattern_network(body: str) -> Network:
    network = parse_network(body)
    if network is not None:
        return _native(network)
    if "/" not in body:
        raise PatternError(
            "An IPv6 address is written `2001:db8::1`, and with a port `[2001:db8::1]:443`."
        )
    if parse_address(body.partition("/")[0]) is None:
        raise PatternError("Write the host only, without a path: paths belong in HTTP rules.")
    raise PatternError(
        "A range starts at its first address and ends with its length: `10.0.0.0/8`, not "
        "`10.1.2.3/8`."
    )


def _native(network: Network) -> Network:
    if network.version == 6 and subnet(network, _MAPPED):
        raise PatternError("Write the IPv4 address or range itself, not its IPv6 form.")
    return network
