"""A socket with its read buffer: every byte from a peer is read through here.

The buffer is allocated once a connection and reused for heads and bodies; views returned are valid
until the next read. The socket never blocks: a read or write that would is waited for here, at most
`patience` seconds and without the turn. Heads also have a total deadline, so a peer that sends a
byte at a time gains nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from apps.proxy.egress.head import HeadError
from apps.proxy.egress.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable

# A head fits whole, so this is also the limit of a head.
BUFFER_BYTES = 64 * 1024
_END = b"\r\n\r\n"
_CHECKED = 1024


class EndedError(Exception):
    """The peer closed the connection."""


class Wire:
    """A connected socket and what was read from it but not used yet.

    `patience`: how many seconds one read or write may wait for the peer.
    """

    __slots__ = ("_buffer", "_end", "_poller", "_start", "_view", "patience", "sock", "turn")

    def __init__(
        self,
        sock: socket.socket,
        first: bytes | memoryview = b"",
        *,
        turn: Turn | None = None,
        patience: float = 60.0,
    ) -> None:
        self.turn = turn or Turn()
        self.patience = patience
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._view[: len(first)] = first
        self._adopt(sock)
        self._end = len(first)

    def _adopt(self, sock: socket.socket) -> None:
        self.sock = sock
        self._start = self._end = 0
        sock.settimeout(0)
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    @property
    def pending(self) -> int:
        """How many bytes were read and not used."""
        return self._end - self._start

    def secure(self, sock: ssl.SSLSocket) -> None:
        """Continue on a TLS socket; the caller made sure that nothing is pending."""
        self._adopt(sock)

    @property
    def drained(self) -> bool:
        """Whether nothing that was received is left, here or inside TLS."""
        return not self.pending and not _decrypted(self.sock)

    def sendall(self, data: bytes | memoryview) -> None:
        """Send everything; raises TimeoutError or another OSError."""
        while data:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT, self.patience)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, self.patience)
            else:
                if sent == len(data):
                    return
                data = memoryview(data)[sent:]

    def head(
        self, idle: float, deadline: float, check: Callable[[bytes], None] | None = None
    ) -> bytes:
        """The next head without its blank line.

        Waits `idle` seconds for the first byte, then `deadline` seconds for the rest. `check` sees
        what is there while the end is missing. Raises EndedError, TimeoutError, HeadError (431).
        """
        if self._start == self._end:
            # Hardly ever is the next request there already: asking costs less than failing.
            if not _decrypted(self.sock):
                self._wait(select.POLLIN, idle)
            self._fill(idle)
        until = time.monotonic() + deadline
        seen = 0  # relative to the start, which moves when the buffer is compacted
        while (at := self._buffer.find(_END, self._start + seen, self._end)) < 0:
            if check is not None and self.pending <= _CHECKED:
                check(bytes(self._view[self._start : self._end]))
            seen = max(0, self.pending - len(_END) + 1)
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._fill(left)
        head = bytes(self._view[self._start : at])
        self._start = at + len(_END)
        return head

    def read_ready(self) -> None:
        """Read what is there without waiting; raises EndedError or OSError."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            self._took(self.sock.recv_into(self._room()))

    def line(self, limit: int) -> bytes:
        """The next line without its CRLF; raises EndedError, or HeadError above `limit` bytes."""
        while (at := self._buffer.find(b"\n", self._start, self._end)) < 0:
            if self.pending > limit + 1:  # the line and a CR whose LF is still to come
                break
            self._fill(self.patience)
        if at < 0 or at - self._start > limit + 1:
            raise HeadError(400, "line_too_long", "a line of the chunked body is too long")
        line = bytes(self._view[self._start : at])
        self._start = at + 1
        if not line.endswith(b"\r"):
            raise HeadError(400, "bare_line_feed", "line ends must be CRLF")
        return line[:-1]

    def some(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes; raises EndedError. The view is valid until the next read."""
        if self._start == self._end:
            self._fill(self.patience)
        start = self._start
        self._start = stop = min(self._end, start + limit)
        return self._view[start:stop]

    def _fill(self, seconds: float) -> None:
        """Read what is there, or what comes within some seconds."""
        room = self._room()
        until = 0.0
        while True:
            try:
                self._took(self.sock.recv_into(room))
            except (BlockingIOError, ssl.SSLWantReadError):
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            else:
                return
            until = until or time.monotonic() + seconds
            self._wait(wanted, until - time.monotonic())

    def _wait(self, wanted: int, seconds: float) -> None:
        """Let others have the turn until the socket is ready; raises TimeoutError."""
        if seconds <= 0:
            raise TimeoutError
        poller = self._poller
        if wanted != select.POLLIN:
            poller = select.poll()
            poller.register(self.sock, wanted)
        had = self.turn.leave()
        try:
            ready = poller.poll(seconds * 1000)
        finally:
            if had:
                self.turn.take()
        if not ready:
            raise TimeoutError

    def _room(self) -> memoryview:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == BUFFER_BYTES:
            self._compact()
        return self._view[self._end :]

    def _took(self, count: int) -> None:
        if not count:
            raise EndedError
        self._end += count

    def _compact(self) -> None:
        if self._start == 0:
            raise HeadError(431, "head_too_large", f"a head is limited to {BUFFER_BYTES} bytes")
        size = self.pending
        self._view[:size] = self._view[self._start : self._end]
        self._start, self._end = 0, size


def _decrypted(sock: socket.socket) -> int:
    """How many bytes TLS has ready, of which a poll would know nothing."""
    return sock.pending() if isinstance(sock, ssl.SSLSocket) else 0


def linger(sock: socket.socket, seconds: float = 1.0, most: int = 4 * 1024 * 1024) -> None:
    """End our side and read what still comes, so that the peer gets our last answer and no reset.

    Bounded in time and bytes. RFC 9112 section 9.6.
    """
    until = time.monotonic() + seconds
    with contextlib.suppress(OSError, ValueError):
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(0)
            with contextlib.suppress(OSError):
                sock = sock.unwrap()
        sock.shutdown(socket.SHUT_WR)
        while most > 0 and (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            count = len(sock.recv(65536))
            if not count:
                return
            most -= count
