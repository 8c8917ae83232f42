"""The head parser alone: properties, and a comparison with h11 as an independent reader."""

from __future__ import annotations

import string
from contextlib import suppress

import h11
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from apps.policies.core.asking import Authority
from apps.proxy.egress.head import (
    CHUNKED,
    UNTIL_CLOSE,
    HeadError,
    RequestHead,
    check_first_bytes,
    connect_authority,
    parse_authority,
    parse_request,
    parse_response,
    plain_target,
    tunnel_target,
)

TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
NAMES = st.text(TOKEN, min_size=1, max_size=12) | st.sampled_from(
    ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Content_Length"]
)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
).filter(lambda text: all(not 0x7F <= ord(letter) < 0xA0 for letter in text))
USUAL = st.sampled_from(["0", "5", "chunked", "identity", "a.test", "close", "100-continue", "+1"])
FIELDS = st.lists(st.tuples(NAMES, VALUES | USUAL), max_size=6)
TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
# Pieces that parsers disagree about, glued together at random.
PIECES = st.sampled_from(
    [
        b"GET", b"POST", b" ", b"  ", b"/", b"/a", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r",
        b"Host: a.test", b"Host:a.test", b"Content-Length: 5", b"Content-Length:+5", b"\t", b" x",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b":", b"X: y", b"\0",
        b"Connection: close", b"\x80", b"Content-Length: 5, 5", b"X: y z", b"Host: a.test\r\n",
    ]
)  # fmt: skip
RAW = st.lists(PIECES, max_size=14).map(b"".join) | st.binary(max_size=60)


def _glue(fields: list[tuple[str, str]]) -> bytes:
    lines = ["POST /x HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode("latin-1")


def head(*lines: str) -> RequestHead:
    return parse_request("\r\n".join(lines).encode("latin-1"))


@given(st.binary(max_size=200) | RAW)
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    for parse in (parse_request, check_first_bytes, lambda data: parse_response(data, "GET")):
        with suppress(HeadError):
            parse(raw)


@given(st.lists(st.tuples(st.sampled_from(["X-A", "b", "Cookie"]), VALUES), max_size=5), TARGETS)
def test_what_is_well_formed_is_read_as_it_is(fields: list[tuple[str, str]], target: str) -> None:
    parsed = head(f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields))
    assert parsed.target == target
    assert [(name, value) for _, name, value in parsed.fields] == [
        (name, value.strip(" \t")) for name, value in fields
    ]
    assert parsed.body == 0


@given(RAW | FIELDS.map(_glue))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5")
def test_h11_reads_the_same_or_we_refuse(raw: bytes) -> None:
    """Whatever we accept, an independent strict parser accepts too and frames in the same way."""
    try:
        ours = parse_request(raw)
    except HeadError:
        return
    assume(ours.method != "CONNECT" and ours.first("host"))
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(raw + b"\r\n\r\n")
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert event.method.decode() == ours.method
    assert event.target.decode() == ours.target
    assert [(name, value) for name, value in event.headers] == [
        (key.encode(), value.encode("latin-1")) for key, _, value in ours.fields
    ]
    if ours.body == 0:
        assert isinstance(theirs.next_event(), h11.EndOfMessage)
    elif ours.body == CHUNKED:
        theirs.receive_data(b"1\r\na\r\n0\r\n\r\n")
        assert isinstance(theirs.next_event(), h11.Data)
    else:
        theirs.receive_data(b"a" * min(ours.body, 1000))
        assert isinstance(theirs.next_event(), h11.Data)


@given(FIELDS)
def test_a_request_never_has_two_lengths(fields: list[tuple[str, str]]) -> None:
    try:
        parsed = parse_request(_glue(fields))
    except HeadError:
        return
    framing = [key for key, _, _ in parsed.fields if key in ("content-length", "transfer-encoding")]
    assert len(framing) <= 1
    assert len([key for key, _, _ in parsed.fields if key == "host"]) <= 1


@given(st.text(max_size=30) | st.from_regex(r"[a-z0-9.:\[\]@%/-]{1,30}", fullmatch=True))
def test_an_authority_has_one_reading(text: str) -> None:
    try:
        authority = parse_authority(text, 443)
    except HeadError:
        return
    assert 1 <= authority.port <= 65535
    assert not set(authority.host) & set("@/\\%?#[] \t\r\n\0")
    assert parse_authority(authority.header(443), 443) == authority


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a.test", "a.test", 443),
        ("A.Test:8443", "a.test", 8443),
        ("a.test.:443", "a.test", 443),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[2001:DB8::1]:443", "2001:db8::1", 443),
        ("[2001:db8:0:0:0:0:0:1]", "2001:db8::1", 443),
    ],
)
def test_authorities(text: str, host: str, port: int) -> None:
    assert parse_authority(text, 443) == Authority(host, port)


def test_the_default_port_is_left_out_of_host() -> None:
    assert Authority("a.test", 443).header(443) == "a.test"
    assert Authority("a.test", 8443).header(443) == "a.test:8443"
    assert Authority("2001:db8::1", 443).header(443) == "[2001:db8::1]"


def test_early_refusals() -> None:
    check_first_bytes(b"GET / HT")
    check_first_bytes(b"GET / HTTP/1.1\r\nHost: a\r\n")
    for data in (
        b"GET /\r\n",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\n",
        b" GET",
        b"get / HTTP/1.1\r\n",
    ):
        with pytest.raises(HeadError):
            check_first_bytes(data)


def test_connect_and_plain_and_tunnel_targets() -> None:
    assert connect_authority(head("CONNECT a.test:443 HTTP/1.0")) == Authority("a.test", 443)
    asked = head("GET http://a.test:8080/x?y HTTP/1.1", "Host: a.test:8080")
    assert plain_target(asked) == (Authority("a.test", 8080), "/x?y")
    asked = head("GET /x?y HTTP/1.1", "Host: a.test")
    assert tunnel_target(asked, Authority("a.test", 443)) == "/x?y"
    with pytest.raises(HeadError):
        tunnel_target(asked, Authority("a.test", 8443))


@pytest.mark.parametrize(
    ("lines", "method", "body", "keep_alive"),
    [
        (["HTTP/1.1 200 OK", "Content-Length: 5"], "GET", 5, True),
        (["HTTP/1.1 200", "Content-Length: 5"], "GET", 5, True),
        (["HTTP/1.1 200 ", "Content-Length: 5", "Connection: Close"], "GET", 5, False),
        (["HTTP/1.0 200 OK", "Content-Length: 5"], "GET", 5, False),
        (["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], "GET", CHUNKED, True),
        (["HTTP/1.1 200 OK"], "GET", UNTIL_CLOSE, True),
        (["HTTP/1.1 200 OK", "Content-Length: 5"], "HEAD", 0, True),
        (["HTTP/1.1 204 No Content"], "GET", 0, True),
        (["HTTP/1.1 304 Not Modified", "Content-Length: 5"], "GET", 0, True),
        (["HTTP/1.1 100 Continue"], "GET", 0, True),
    ],
)
def test_response_framing(lines: list[str], method: str, body: int, *, keep_alive: bool) -> None:
    parsed = parse_response("\r\n".join(lines).encode(), method)
    assert (parsed.body, parsed.keep_alive) == (body, keep_alive)


@pytest.mark.parametrize(
    "lines",
    [
        ["HTTP/1.1 099 Low"],
        ["HTTP/1.1 20 Short"],
        ["HTTP/1.1 2000 Long"],
        ["HTTP/2 200"],
        ["ICY 200 OK"],
        ["HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 5"],
        ["HTTP/1.1 200 OK", "Content-Length: 5", "Transfer-Encoding: chunked"],
        ["HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked"],
        ["HTTP/1.1 200 OK", "Content-Length: -5"],
        ["HTTP/1.1 200 OK", " folded"],
        ["HTTP/1.1 200 OK", "X: a\0b"],
        ["HTTP/1.1 200 O\rK"],
    ],
)
def test_responses_that_are_none(lines: list[str]) -> None:
    with pytest.raises(HeadError) as caught:
        parse_response("\r\n".join(lines).encode(), "GET")
    assert caught.value.status == 502
