"""The open connections, and how they are cut from another thread.

A line is one agent connection with the upstream socket it uses at the moment. Its sockets are
closed and cut under its lock, so that a cut never meets a descriptor that was closed and reused.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from apps.policies.types import Action, ConnectRequest, HttpRequest

    Asked = ConnectRequest | HttpRequest


class LineCutError(Exception):
    """This connection was cut by the platform."""


class Line:
    """One agent connection.

    `asked` is the request under way, or None: after a policy change it is decided again, and the
    line is cut unless the action is one that it `needs`.
    """

    __slots__ = ("_lock", "_sockets", "asked", "dead", "needs")

    def __init__(self, sock: socket.socket) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = {sock}
        self.asked: Asked | None = None
        self.needs: tuple[Action, ...] = ()
        self.dead = False

    def add(self, sock: socket.socket) -> None:
        """Let a cut reach this socket too; raises LineCutError (and closes it) when already cut."""
        with self._lock:
            if not self.dead:
                self._sockets.add(sock)
                return
        sock.close()
        raise LineCutError

    def forget(self, sock: socket.socket) -> None:
        """The socket leaves this line but stays open."""
        with self._lock:
            self._sockets.discard(sock)

    def close(self, sock: socket.socket) -> None:
        """Close a socket of this line."""
        with self._lock:
            self._sockets.discard(sock)
            sock.close()

    def wrap(self, sock: socket.socket, wrap: Callable[[], ssl.SSLSocket]) -> ssl.SSLSocket:
        """Replace a socket by its TLS form (made without handshake); raises LineCutError."""
        with self._lock:
            if self.dead:
                raise LineCutError
            self._sockets.discard(sock)
            secured = wrap()
            self._sockets.add(secured)
            return secured

    def cut(self) -> None:
        """End every socket of the line at once; its thread sees an end of file or an error."""
        with self._lock:
            self.dead = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown, which takes the TLS object from under its thread.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Lines:
    """All open lines of this proxy."""

    def __init__(self, most: int) -> None:
        self._lines: set[Line] = set()
        self._lock = threading.Lock()
        self._most = most

    def open(self, sock: socket.socket) -> Line | None:
        """A line for a new connection, or None when there are too many."""
        with self._lock:
            if len(self._lines) >= self._most:
                return None
            line = Line(sock)
            self._lines.add(line)
            return line

    def gone(self, line: Line) -> None:
        """The line has ended."""
        with self._lock:
            self._lines.discard(line)

    def cut(self, when: Callable[[Line], bool] = lambda _: True) -> None:
        """Cut every line for which `when` holds."""
        with self._lock:
            chosen = [line for line in self._lines if when(line)]
        for line in chosen:
            line.cut()

    def __len__(self) -> int:
        return len(self._lines)
