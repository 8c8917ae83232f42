"""Bodies over a real socket pair: what is read, what is refused, and a comparison with h11."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.proxy.egress import body
from apps.proxy.egress.head import CHUNKED, UNTIL_CLOSE, HeadError
from apps.proxy.egress.wire import BUFFER_BYTES, EndedError, Wire, linger

CHUNK_LISTS = st.lists(st.binary(min_size=1, max_size=300), max_size=8)
PIECES = st.sampled_from(
    [
        b"0",
        b"1",
        b"3",
        b"A",
        b"a",
        b"\r\n",
        b"\n",
        b"\r",
        b"abc",
        b" ",
        b";x",
        b"+",
        b"0x",
        b"X: y",
        b"-",
    ]
)


def read(data: bytes, framing: int, *, server: bool = False, first: bytes = b"") -> bytes:
    """Read a body that arrives as `data` and then the end of the connection."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):

        def send() -> None:
            with suppress(OSError):
                theirs.sendall(data)
            theirs.close()

        sender = threading.Thread(target=send)
        sender.start()
        try:
            wire = Wire(ours, first)
            parts = b"".join(map(bytes, body.read(wire, framing, from_server=server)))
        finally:
            ours.close()
            sender.join()
    return parts


def framed(chunks: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@given(CHUNK_LISTS, st.integers(0, 200))
def test_chunks_come_out_whole(chunks: list[bytes], cut: int) -> None:
    data = framed(chunks)
    assert read(data[cut:], CHUNKED, first=data[:cut]) == b"".join(chunks)


@given(CHUNK_LISTS)
def test_what_we_frame_h11_reads(chunks: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        writer = body.writer(ours, CHUNKED)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.start(head, chunks[0] if chunks else b"")
        for chunk in chunks[1:]:
            writer.write(chunk)
        writer.finish()
        ours.close()
        received = b"".join(iter(lambda: theirs.recv(65536), b""))
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.receive_data(received)
    parts = []
    assert isinstance(connection.next_event(), h11.Response)
    while isinstance(event := connection.next_event(), h11.Data):
        parts.append(bytes(event.data))
    assert isinstance(event, h11.EndOfMessage)
    assert b"".join(parts) == b"".join(chunks)
    assert writer.count == sum(map(len, chunks))


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_what_we_accept_h11_accepts(data: bytes) -> None:
    try:
        ours = read(data, CHUNKED)
    except (HeadError, EndedError):
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.receive_data(data)
    connection.next_event()
    parts = []
    while isinstance(event := connection.next_event(), h11.Data):
        parts.append(bytes(event.data))
    assert isinstance(event, h11.EndOfMessage)
    assert b"".join(parts) == ours


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for server in (False, True):
        try:
            read(data, CHUNKED, server=server)
        except (HeadError, EndedError):
            continue


def test_lengths() -> None:
    assert read(b"abcdef", 3) == b"abc"
    assert read(b"", 0) == b""
    assert read(b"def", 6, first=b"abc") == b"abcdef"
    assert read(b"abc", UNTIL_CLOSE) == b"abc"
    with pytest.raises(EndedError):
        read(b"ab", 3)


def test_a_large_body_needs_no_large_memory() -> None:
    data = bytes(range(256)) * 8000
    assert read(data, len(data)) == data
    assert read(framed([data]), CHUNKED) == data


@pytest.mark.parametrize("size", [b"3;a=b", b"3 ", b"3\t;x", b"0003"])
def test_servers_may_pad_and_extend_sizes(size: bytes) -> None:
    assert read(size + b"\r\nabc\r\n0\r\n\r\n", CHUNKED, server=True) == b"abc"


@pytest.mark.parametrize("size", [b"3;a\0b", b"+3", b"0x3", b"-3", b"", b"123456789"])
def test_servers_may_not_do_more(size: bytes) -> None:
    with pytest.raises(HeadError):
        read(size + b"\r\nabc\r\n0\r\n\r\n", CHUNKED, server=True)


def test_trailers_are_bounded() -> None:
    with pytest.raises(HeadError):
        read(b"0\r\n" + b"X: y\r\n" * 100 + b"\r\n", CHUNKED)
    with pytest.raises(HeadError):
        read(b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n", CHUNKED)


def test_a_head_may_fill_the_buffer_and_no_more() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        most = b"a" * (BUFFER_BYTES - 4)
        threading.Thread(
            target=theirs.sendall, args=(most + b"\r\n\r\n" + most + b"aaaaa",)
        ).start()
        wire = Wire(ours)
        assert wire.head(5, 5) == most
        with pytest.raises(HeadError) as caught:
            wire.head(5, 5)
        assert caught.value.status == 431


def test_heads_in_one_packet_and_split_everywhere() -> None:
    heads = [b"one", b"two\r\nx", b"three" * 50]
    data = b"".join(head + b"\r\n\r\n" for head in heads)
    for cut in range(len(data)):
        ours, theirs = socket.socketpair()
        with closing(ours), closing(theirs):
            wire = Wire(ours, data[:cut])
            theirs.sendall(data[cut:])
            theirs.close()
            assert [wire.head(5, 5) for _ in heads] == heads


def test_a_head_has_a_total_deadline() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.02):
                theirs.sendall(b"a")

        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            with pytest.raises(TimeoutError):
                Wire(ours).head(5, 0.2)
        finally:
            stop.set()
            dripper.join()


def test_lingering_is_bounded() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        linger(ours, seconds=0.1)
        assert theirs.recv(1) == b""
