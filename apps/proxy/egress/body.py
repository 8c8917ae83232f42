"""Message bodies as streams of views: nothing is held back, nothing unframed passes.

`read` yields the decoded bytes of a body; the writers frame them again. Chunk sizes, their line
ends and trailers are parsed strictly (RFC 9112 section 7.1) and never copied from one side to the
other, so a chunk that two readers would see differently cannot cross.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from apps.proxy.egress.head import CHUNKED, UNTIL_CLOSE, HeadError
from apps.proxy.egress.wire import EndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from apps.proxy.egress.wire import Wire

    class Sink(Protocol):
        """Where bytes go: a wire, or a socket that blocks."""

        def sendall(self, data: bytes | memoryview, /) -> None: ...


_MOST = 1 << 20
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
# Servers pad sizes and add extensions; agents have no need to (RFC 9112 7.1.1: both are ignored).
_SIZE_OF_SERVER = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")
_SIZE_LINE = 256
_TRAILER_LINE = 8192
_TRAILERS = 64


def read(wire: Wire, framing: int, *, from_server: bool = False) -> Iterator[memoryview]:
    """Yield the body's bytes; each view is valid until the next.

    `framing` is a length, CHUNKED or UNTIL_CLOSE. Raises EndedError when the peer stops early and
    HeadError (400) on malformed chunks. Trailers are validated and dropped.
    """
    if framing == CHUNKED:
        return _chunks(wire, _size_of_server if from_server else _size)
    if framing == UNTIL_CLOSE:
        return _until_close(wire)
    return _exactly(wire, framing)


def _exactly(wire: Wire, length: int) -> Iterator[memoryview]:
    while length:
        view = wire.some(min(length, _MOST))
        length -= len(view)
        yield view


def _until_close(wire: Wire) -> Iterator[memoryview]:
    while True:
        try:
            view = wire.some(_MOST)
        except EndedError:
            return
        yield view


def _chunks(wire: Wire, size_of: Callable[[bytes], int]) -> Iterator[memoryview]:
    while size := size_of(wire.line(_SIZE_LINE)):
        yield from _exactly(wire, size)
        if wire.line(0):
            raise HeadError(400, "chunk_end", "a chunk does not end where its size says")
    _trailers(wire)


def _size(line: bytes) -> int:
    if _SIZE.fullmatch(line) is None:
        raise HeadError(400, "chunk_size", "a chunk size must be 1 to 8 hexadecimal digits")
    return int(line, 16)


def _size_of_server(line: bytes) -> int:
    match = _SIZE_OF_SERVER.fullmatch(line)
    if match is None:
        raise HeadError(502, "chunk_size", "the upstream sent a malformed chunk size")
    return int(match[1], 16)


def _trailers(wire: Wire) -> None:
    for _ in range(_TRAILERS):
        line = wire.line(_TRAILER_LINE)
        if not line:
            return
        if _TRAILER.fullmatch(line) is None:
            raise HeadError(400, "trailer", "malformed trailer field")
    raise HeadError(400, "trailer", f"more than {_TRAILERS} trailer fields")


class Writer:
    """Sends a body as it is: its length was announced, or its end is the end of the connection."""

    __slots__ = ("_sink", "count")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.count = 0

    def start(self, head: bytes, first: bytes | memoryview) -> None:
        """Send the head and the first bytes of the body in one piece."""
        self.count += len(first)
        self._sink.sendall(b"".join((head, first)) if first else head)

    def write(self, data: bytes | memoryview) -> None:
        """Send more of the body."""
        self.count += len(data)
        self._sink.sendall(data)

    def finish(self) -> None:
        """The body is complete."""


class ChunkedWriter(Writer):
    """Sends a body in chunks of our own making."""

    __slots__ = ()

    def start(self, head: bytes, first: bytes | memoryview) -> None:
        self.count += len(first)
        self._sink.sendall(b"".join((head, *_framed(first))) if first else head)

    def write(self, data: bytes | memoryview) -> None:
        if data:
            self.count += len(data)
            self._sink.sendall(b"".join(_framed(data)))

    def finish(self) -> None:
        self._sink.sendall(b"0\r\n\r\n")


def _framed(data: bytes | memoryview) -> tuple[bytes, bytes | memoryview, bytes]:
    return b"%x\r\n" % len(data), data, b"\r\n"


def writer(sink: Sink, framing: int) -> Writer:
    """The writer that frames a body as `framing` says."""
    return ChunkedWriter(sink) if framing == CHUNKED else Writer(sink)
