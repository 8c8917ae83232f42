"""The sandbox's certificate authority, and the reading of a ClientHello."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import given
from hypothesis import strategies as st

from apps.proxy.egress.tls import hello
from apps.proxy.egress.tls.ca import Authority
from apps.proxy.egress.tls.hello import HelloError


def handshake(authority: Authority, host: str, sni: str | None, **options: object) -> ssl.SSLSocket:
    """A verified TLS connection to a server that serves `host`; raises ssl.SSLError."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        context = authority.context(host)
        try:
            with context.wrap_socket(theirs, server_side=True) as secured:
                secured.recv(1)
        except OSError:
            theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    context = ssl.create_default_context(cadata=authority.pem)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.check_hostname = sni is not None
    for name, value in options.items():
        setattr(context, name, value)
    try:
        with closing(context.wrap_socket(ours, server_hostname=sni)) as client:
            client.sendall(b"x")
            return client
    finally:
        ours.close()
        server.join()


@pytest.mark.parametrize("host", ["a.test", "10.0.0.1", "2001:db8::1", "x" * 60 + ".b.test"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_strict_client_verifies_the_leaf(host: str, version: ssl.TLSVersion) -> None:
    handshake(Authority(), host, host, maximum_version=version)


@pytest.mark.parametrize(
    ("host", "sni"), [("a.test", "b.test"), ("a.test", None), ("1.2.3.4", "a")]
)
def test_another_server_name_is_refused(host: str, sni: str | None) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(Authority(), host, sni)


def test_old_tls_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
        handshake(Authority(), "a.test", "a.test", maximum_version=ssl.TLSVersion.TLSv1_1)


def test_another_sandboxes_authority_is_not_trusted() -> None:
    mine, other = (x509.load_pem_x509_certificate(Authority().pem.encode()) for _ in range(2))
    mine.verify_directly_issued_by(mine)
    with pytest.raises(InvalidSignature):
        mine.verify_directly_issued_by(other)


def test_the_authority_may_sign_leaves_only() -> None:
    certificate = x509.load_pem_x509_certificate(Authority().pem.encode())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_contexts_are_kept_up_to_a_bound() -> None:
    authority = Authority(leaves=3)
    first = authority.context("h0.test")
    assert authority.context("h0.test") is first
    for number in range(1, 4):
        authority.context(f"h{number}.test")
    assert authority.context("h0.test") is not first
    assert len(authority._contexts) == 3


def test_no_descriptor_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    authority = Authority()
    for number in range(5):
        authority.context(f"h{number}.test")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def client_hello(server_name: str | None = "a.test") -> bytes:
    """A real ClientHello as one TLS record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def payload(record: bytes) -> bytes:
    return record[hello.RECORD_HEADER :]


def with_extension(kind: int, value: bytes) -> bytes:
    """The payload of a ClientHello with one more extension at its end."""
    data = bytearray(payload(client_hello()))
    extra = kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
    at = 4 + 2 + 32
    at += 1 + data[at]
    at += 2 + int.from_bytes(data[at : at + 2], "big")
    at += 1 + data[at]
    total = int.from_bytes(data[at : at + 2], "big") + len(extra)
    data[at : at + 2] = total.to_bytes(2, "big")
    data += extra
    data[1:4] = (len(data) - 4).to_bytes(3, "big")
    return bytes(data)


def test_a_real_hello() -> None:
    record = client_hello()
    assert hello.record_length(record[:5]) == len(payload(record))
    assert hello.server_name(payload(record)) == "a.test"
    assert hello.server_name(with_extension(0x1234, b"anything")) == "a.test"


def test_a_hello_without_a_name() -> None:
    with pytest.raises(HelloError, match="exactly one host"):
        hello.server_name(payload(client_hello(None)))


def name_list(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for name in names)
    return len(entries).to_bytes(2, "big") + entries


@pytest.mark.parametrize(
    "extension",
    [
        (0xFE0D, b"\0" * 8),
        (0, name_list(b"b.test")),
        (0, name_list(b"a.test")),
        (0, name_list(b"b.test", kind=1)),
        (0, name_list(b"\xff")),
        (0, b"\0"),
    ],
)
def test_hellos_that_hide_or_repeat_their_name(extension: tuple[int, bytes]) -> None:
    with pytest.raises(HelloError):
        hello.server_name(with_extension(*extension))


@given(st.binary(max_size=120), st.integers(0, 600))
def test_any_bytes_are_read_or_refused(data: bytes, cut: int) -> None:
    whole = payload(HELLO)
    for candidate in (data, whole[:cut], whole[:cut] + data):
        if candidate != whole:
            try:
                assert hello.server_name(candidate) == "a.test"
            except HelloError:
                continue


HELLO = client_hello()


@pytest.mark.parametrize(
    "header",
    [b"\x15\x03\x01\0\x05", b"\x16\x02\0\0\x05", b"\x16\x03\x01\0\0", b"\x16\x03\x01\x50\0"],
)
def test_records_that_are_no_hello(header: bytes) -> None:
    with pytest.raises(HelloError):
        hello.record_length(header)
