"""Accept connections on sockets that live in the sandbox's network namespace."""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

from proxy.http.connection import HttpClientConnection

from apps.proxy.egress.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apps.proxy.egress.plane import Plane

_STACK_BYTES = 512 * 1024
_BUSY_BODY = json.dumps(
    {"error": "too_many_connections", "reason": "this sandbox has too many open connections"}
).encode()
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_BUSY_BODY), _BUSY_BODY)
)
# What proxy.py's handler reads of its settings. Not from its FlagParser, which would create
# directories in the home folder and read the process's arguments.
_FLAGS = argparse.Namespace(
    enable_proxy_protocol=False,
    threadless=True,
    enable_events=False,
    keyfile=None,
    certfile=None,
)


class Server:
    """One accepting thread for each listener, one thread for each connection."""

    def __init__(self, plane: Plane, listeners: Sequence[socket.socket]) -> None:
        self._plane = plane
        self._listeners = tuple(listeners)

    def start(self) -> None:
        """Begin to accept; returns at once."""
        threading.stack_size(_STACK_BYTES)
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(None)
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return
                # Out of descriptors or a peer that is gone already: neither must end the loop.
                time.sleep(0.01)
                continue
            self._begin(conn)

    def _begin(self, conn: socket.socket) -> None:
        line = self._plane.lines.open(conn)
        if line is None:
            _turn_away(conn)
            return
        try:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            work = Session(HttpClientConnection(conn), flags=_FLAGS, plane=self._plane, line=line)
            threading.Thread(target=work.run, daemon=True).start()
        except (OSError, RuntimeError):
            self._plane.lines.gone(line)
            line.close(conn)


def _turn_away(conn: socket.socket) -> None:
    with contextlib.suppress(OSError):
        conn.settimeout(0)
        conn.send(_BUSY)
        conn.shutdown(socket.SHUT_WR)
    conn.close()
