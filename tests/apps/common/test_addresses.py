"""Every class of address by table, and the rules of the verdict by property."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.addresses import (
    NEVER,
    PRIVATE,
    Address,
    embedded,
    inside,
    parse_address,
    parse_network,
    vet,
)

EVERYTHING = ("0.0.0.0/0", "::/0")

OPEN = (
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "168.63.129.15",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "192.167.255.255",
    "192.169.0.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "9.255.255.255",
    "11.0.0.1",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "169.255.0.1",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2001:200::1",
    "2a00:1450:4001:81b::200e",
    "2620:4f:8000::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:0808:0808::1",
)
CLOSED = {
    "loopback": ("127.0.0.1", "127.255.255.254", "127.1.2.3", "::1"),
    "unspecified": ("0.0.0.0", "0.1.2.3", "::"),  # noqa: S104 (an address to refuse)
    "metadata": (
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
    ),
    "AWS": ("169.254.170.2", "169.254.170.23"),
    "link-local": ("169.254.0.1", "169.254.255.255", "fe80::1", "febf::1", "fe80::a9fe:a9fe"),
    "documentation": ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),
    "multicast": ("224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"),
    "broadcast": ("255.255.255.255",),
    "reserved": (
        "192.0.0.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "240.0.0.1",
        "255.255.255.254",
        "fec0::1",
        "64:ff9b:1::1",
        "100::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "4000::1",
        "5f00::1",
        "::8.8.8.8",
        "::ffff:0:8.8.8.8",
    ),
}
PRIVATE_ONES = (
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "fc00::1",
    "fd12:3456::1",
    "fdff::1",
)


def forms_of(inner: IPv4Address) -> dict[str, IPv6Address]:
    """Every IPv6 spelling that carries the IPv4 address."""
    value = int(inner)
    return {
        "mapped": IPv6Address(0xFFFF << 32 | value),
        "compatible": IPv6Address(value),
        "translated": IPv6Address(0xFFFF << 48 | value),
        "nat64": IPv6Address(0x64FF9B << 96 | value),
        "6to4": IPv6Address(0x2002 << 112 | value << 80 | 1),
        "teredo server": IPv6Address(0x2001 << 112 | value << 64 | (0x08080808 ^ 0xFFFFFFFF)),
        "teredo client": IPv6Address(0x2001 << 112 | 0x08080808 << 64 | (value ^ 0xFFFFFFFF)),
        "isatap": IPv6Address(0x26064700 << 96 | 0x00005EFE << 32 | value),
        "isatap global": IPv6Address(0x26064700 << 96 | 0x02005EFE << 32 | value),
    }


@pytest.mark.parametrize("ip", OPEN)
def test_public_addresses_are_open(ip: str) -> None:
    assert vet(ip).ok, vet(ip)
    assert vet(ip_address(ip)).ok


@pytest.mark.parametrize(
    ("word", "ip"), [(word, ip) for word, listed in CLOSED.items() for ip in listed]
)
def test_closed_addresses_are_closed_whatever_is_allowed(word: str, ip: str) -> None:
    verdict = vet(ip, allow=EVERYTHING)
    assert not verdict.ok
    assert not verdict.private
    assert word in verdict.reason


@pytest.mark.parametrize("ip", PRIVATE_ONES)
def test_private_addresses_open_only_when_listed(ip: str) -> None:
    assert not vet(ip).ok
    assert vet(ip).private
    assert not vet(ip, allow=("10.99.0.0/16", "fd99::/16")).ok
    assert vet(ip, allow=EVERYTHING).ok
    assert vet(ip, allow=(ip,)).ok


@pytest.mark.parametrize("form", forms_of(IPv4Address("1.2.3.4")))
@pytest.mark.parametrize(
    "inner", ["127.0.0.1", "169.254.169.254", "168.63.129.16", "224.0.0.1", "10.0.0.1", "0.0.0.1"]
)
def test_ipv6_forms_are_judged_by_the_address_inside(form: str, inner: str) -> None:
    address = forms_of(IPv4Address(inner))[form]
    if int(address) <= 1:
        return
    verdict = vet(address)
    assert not verdict.ok
    assert inner in verdict.reason


@pytest.mark.parametrize("form", ["mapped", "nat64"])
def test_ipv6_forms_of_a_listed_private_address_are_open(form: str) -> None:
    address = forms_of(IPv4Address("10.1.2.3"))[form]
    assert not vet(address).ok
    assert vet(address).private
    assert vet(address, allow=("10.0.0.0/8",)).ok


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        " 1.1.1.1",
        "1.1.1.1\n",
        "1.1.1.1/32",
        "[::1]",
        "fe80::1%eth0",
        "2606:4700::1%1",
        "1.1.1.1\x00",
        "\u0661.\u0661.\u0661.\u0661",
        ":" * 50,
    ],
)
def test_what_is_no_plain_address_is_refused(text: str) -> None:
    assert not vet(text, allow=EVERYTHING).ok
    assert parse_address(text) is None


@pytest.mark.parametrize("thing", [None, b"1.1.1.1", 16843009, ["1.1.1.1"]])
def test_what_is_no_text_is_refused(thing: Any) -> None:
    assert not vet(thing).ok


def test_a_scope_id_is_refused_in_an_address_object_too() -> None:
    assert not vet(IPv6Address("2606:4700::1%eth0")).ok


def test_refuse_closes_more() -> None:
    assert vet("8.8.8.8", refuse=("9.9.9.9",)).ok
    assert not vet("8.8.8.8", refuse=("8.8.8.0/24",)).ok
    assert not vet("::ffff:8.8.8.8", refuse=("8.8.8.0/24",)).ok
    assert not vet("10.0.0.1", allow=EVERYTHING, refuse=(ip_network("10.0.0.0/24"),)).ok


def test_unreadable_lists_never_open_anything() -> None:
    assert not vet("10.0.0.1", allow=("10.0.0.0/99", "nonsense", "10.0.0.1/8")).ok
    assert not vet("8.8.8.8", refuse=("nonsense",)).ok


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.0/", "/8", "fe80::%1/64", ""],
)
def test_networks_are_strict(text: str) -> None:
    assert parse_network(text) is None


def test_networks_are_read() -> None:
    assert parse_network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert parse_network("10.1.2.3") == ip_network("10.1.2.3/32")
    assert parse_network("fd00::/8") == ip_network("fd00::/8")


addresses: st.SearchStrategy[Address] = st.ip_addresses()


@given(addresses)
def test_text_and_object_get_the_same_verdict(address: Address) -> None:
    assert vet(str(address)) == vet(address)


@given(st.ip_addresses(v=4), st.sampled_from(sorted(forms_of(IPv4Address(0)))))
def test_no_form_opens_what_the_address_inside_does_not(inner: IPv4Address, form: str) -> None:
    address = forms_of(inner)[form]
    if inner in embedded(address) and vet(address, allow=EVERYTHING).ok:
        assert vet(inner, allow=EVERYTHING).ok
    if not vet(inner).ok:
        assert not vet(address).ok


@given(st.sampled_from([*NEVER, *PRIVATE]), st.data())
def test_no_address_of_a_listed_network_is_open(
    listed: tuple[object, str], data: st.DataObject
) -> None:
    network = parse_network(str(listed[0]))
    assert network is not None
    offset = data.draw(st.integers(0, network.num_addresses - 1))
    address = network[offset]
    assert not vet(address).ok
    if listed in NEVER:
        assert not vet(address, allow=EVERYTHING).ok


@given(addresses, st.lists(st.ip_addresses().map(str), max_size=4))
def test_allowing_more_never_closes_and_opens_private_ranges_only(
    address: Address, allow: list[str]
) -> None:
    before, after = vet(address), vet(address, allow=allow)
    if before.ok:
        assert after.ok
    if after.ok and not before.ok:
        carried = embedded(address) or (address,)
        assert any(inside(one, network) for one in carried for network, _ in PRIVATE)


@given(addresses)
def test_what_python_calls_not_global_is_never_open(address: Address) -> None:
    if vet(address).ok and not embedded(address):
        assert address.is_global


@given(st.text(max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert vet(text).ok in (True, False)
