"""Hosts have one spelling, patterns one meaning, and `covers` is what matching says it is."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.addresses import parse_address
from apps.common.hosts import (
    Host,
    HostError,
    PatternError,
    covers,
    overlaps,
    parse_host,
    parse_pattern,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("a--b.example.com", "a--b.example.com"),
        ("1e100.net", "1e100.net"),
        ("3com.com", "3com.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4.", "1.2.3.4"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("[::1]", "::1"),
    ],
)
def test_hosts_have_one_spelling(text: str, name: str) -> None:
    host = parse_host(text)
    assert host.name == name
    assert host.address == parse_address(name)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty label"),
        (".", "empty label"),
        ("example.com..", "empty label"),
        ("a..b", "empty label"),
        (".example.com", "empty label"),
        ("-a.example.com", "dash"),
        ("a-.example.com", "dash"),
        ("a b.com", "character"),
        ("a\x00.com", "character"),
        ("up.test\x00.evil.com", "character"),
        ("a%2eb.com", "character"),
        ("user@example.com", "character"),
        ("a/b.com", "character"),
        ("a\\b.com", "character"),
        ("a?b.com", "character"),
        ("*.example.com", "character"),
        ("example.com\n", "character"),
        ("a" * 64 + ".com", "longer than 63"),
        (("a" * 60 + ".") * 5 + "com", "longer than 253"),
        ("a." * 126 + "ab", "longer than 253"),
        ("2130706433", "odd spelling"),
        ("0x7f000001", "odd spelling"),
        ("0x7f.1", "odd spelling"),
        ("0x", "odd spelling"),
        ("017700000001", "odd spelling"),
        ("0177.0.0.1", "odd spelling"),
        ("127.1", "odd spelling"),
        ("127.0.1", "odd spelling"),
        ("1.2.3.4.5", "odd spelling"),
        ("1.2.3.256", "odd spelling"),
        ("a.1", "odd spelling"),
        ("a.0x1f", "odd spelling"),
        ("[1.2.3.4]", "not an IPv6"),
        ("[::1", "not an IPv6"),
        ("::1]", "not an IPv6"),
        ("[[::1]]", "not an IPv6"),
        ("[fe80::1%eth0]", "not an IPv6"),
        ("fe80::1%25eth0", "not an IPv6"),
        ("example.com:443", "not an IPv6"),
        ("::ffff:10.0.0.1", "IPv4 address in IPv6"),
        ("[::ffff:a00:1]", "IPv4 address in IPv6"),
        ("faß.de", "two ways"),
        ("βόλος.com", "two ways"),
        ("a\u200db.com", "two ways"),
        ("\uff41.com", "two ways"),
        ("a。com", "two ways"),
        ("a\uff0ecom", "two ways"),
        ("①.com", "two ways"),
        ("\U0001f600.com", "two ways"),
    ],
)
def test_hosts_that_read_in_two_ways_are_refused(text: str, word: str) -> None:
    with pytest.raises(HostError, match=word):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "must not be empty"),
        (" a.com", "spaces"),
        ("https://a.com", "without `http"),
        ("a.com/path", "without a path"),
        ("a.com/24", "without a path"),
        ("u@a.com", "user name"),
        ("a.*.com", "inside a name"),
        ("*a.com", "inside a name"),
        ("**.a.com", "inside a name"),
        ("*.*.com", "inside a name"),
        ("*.", "empty label"),
        ("*.1.2.3.4", "no sub-domains"),
        ("10.1.2.3/8", "first address"),
        ("10.0.0.0/33", "first address"),
        ("10.0.0.0/255.0.0.0", "first address"),
        ("::ffff:10.0.0.0/104", "IPv4 address or range"),
        ("a.com:", "from 1 to 65535"),
        ("a.com:0", "from 1 to 65535"),
        ("a.com:65536", "from 1 to 65535"),
        ("a.com:080", "from 1 to 65535"),
        ("a.com:+80", "from 1 to 65535"),
        ("a.com:\u0661", "from 1 to 65535"),
        ("a.com:*", "from 1 to 65535"),
        ("[::1", "is written"),
        ("[::1]443", "is written"),
        ("[a.com]:443", "Brackets"),
        ("2001:db8::zz", "is written"),
        ("127.1", "odd spelling"),
        ("0x7f000001:80", "odd spelling"),
        ("a..com", "empty label"),
        ("faß.de", "xn--"),
    ],
)
def test_bad_patterns_name_their_remedy(text: str, word: str) -> None:
    with pytest.raises(PatternError, match=word):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "expected"),
    [
        ("api.x", "api.x", 443, True),
        ("api.x", "API.X.", 80, True),
        ("api.x", "api.x", 8443, False),
        ("api.x:8443", "api.x", 8443, True),
        ("api.x:8443", "api.x", 443, False),
        ("api.x", "api.x.evil.com", 443, False),
        ("api.x", "evil-api.x", 443, False),
        ("*.x.com", "a.x.com", 443, True),
        ("*.x.com", "a.b.x.com", 443, True),
        ("*.x.com", "x.com", 443, False),
        ("*.x.com", "evilx.com", 443, False),
        ("*.x.com", "a.x.com", 22, False),
        ("*.x.com:22", "a.x.com", 22, True),
        ("*", "anything.example", 443, True),
        ("*", "anything.example", 22, False),
        ("*", "8.8.8.8", 443, True),
        ("*:22", "anything.example", 22, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8:6443", "10.1.2.3", 6443, True),
        ("10.0.0.0/8", "10.example.com", 443, False),
        ("8.8.8.8", "8.8.8.8", 443, True),
        ("2001:db8::/32", "2001:db8::1", 443, True),
        ("[2001:db8::1]:8443", "[2001:db8::1]", 8443, True),
        ("[2001:db8::/32]:8443", "[2001:db8::1]", 8443, True),
        ("0.0.0.0/0", "2001:db8::1", 443, False),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
    ],
)
def test_matching(pattern: str, host: str, port: int, expected: bool) -> None:  # noqa: FBT001 (a table)
    assert parse_pattern(pattern).matches(parse_host(host), port) is expected


def test_a_deny_reads_a_missing_port_as_every_port() -> None:
    host = parse_host("a.x")
    assert parse_pattern("a.x").matches(host, 22, every_port=True)
    assert not parse_pattern("a.x:80").matches(host, 22, every_port=True)


@pytest.mark.parametrize("text", ["a.x:443", "8.8.8.8:443", "[2001:db8::1]:443"])
def test_exact_patterns(text: str) -> None:
    assert parse_pattern(text).exact


@pytest.mark.parametrize("text", ["a.x", "*.x:443", "*:443", "10.0.0.0/8:443", "8.8.8.8"])
def test_patterns_that_are_not_exact(text: str) -> None:
    assert not parse_pattern(text).exact


NAMES = ("a", "b", "x", "a.x", "b.x", "a.a.x", "b.a.x", "10.0.0.0", "10.0.0.1", "10.0.0.9")
HOSTS = tuple(parse_host(name) for name in NAMES)
PORTS = (80, 443, 22)
BODIES = ("*", "a", "x", "a.x", "b.x", "*.x", "*.a.x", "10.0.0.0/28", "10.0.0.0/31", "10.0.0.1")
TEXTS = tuple(body + port for body in BODIES for port in ("", ":80", ":22"))


def named(text: str) -> set[tuple[Host, int]]:
    """What the text names, by brute force, over the small world of `NAMES`."""
    pattern = parse_pattern(text)
    return {pair for pair in itertools.product(HOSTS, PORTS) if pattern.matches(*pair)}


def reached(text: str) -> set[tuple[Host, int]]:
    """What a deny rule with this text reaches."""
    pattern = parse_pattern(text)
    pairs = itertools.product(HOSTS, PORTS)
    return {pair for pair in pairs if pattern.matches(*pair, every_port=True)}


def test_covers_and_overlaps_against_brute_force() -> None:
    for wide, narrow in itertools.product(TEXTS, TEXTS):
        first, second = parse_pattern(wide), parse_pattern(narrow)
        pair = f"{wide} over {narrow}"
        assert covers(first, second) == (named(wide) >= named(narrow)), pair
        assert covers(first, second, every_port=True) == (reached(wide) >= named(narrow)), pair
        assert overlaps(first, second) == bool(named(wide) & named(narrow)), pair


labels = st.text("abcxyz019_-", min_size=1, max_size=8).filter(
    lambda label: not label.startswith("-") and not label.endswith("-")
)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


@given(st.text(max_size=80))
def test_any_text_is_a_host_or_a_host_error(text: str) -> None:
    try:
        host = parse_host(text)
    except HostError:
        return
    assert host.name.isascii()
    assert parse_host(host.name) == host


@given(st.text(max_size=80))
def test_any_text_is_a_pattern_or_a_pattern_error(text: str) -> None:
    try:
        pattern = parse_pattern(text)
    except PatternError:
        return
    assert covers(pattern, pattern)


@given(names, names)
def test_wildcards_mean_one_or_more_labels(prefix: str, suffix: str) -> None:
    try:
        inner, whole = parse_host(suffix), parse_host(f"{prefix}.{suffix}")
        pattern = parse_pattern("*." + suffix)
    except (HostError, PatternError):
        return
    assert pattern.matches(whole, 443)
    assert not pattern.matches(inner, 443)
    assert not parse_pattern(suffix).matches(whole, 443)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}", "0X{:X}"]))
def test_numbers_are_never_names(value: int, form: str) -> None:
    with pytest.raises(HostError):
        parse_host(form.format(value))
