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

from apps.proxy.egress.audit import Record
from apps.proxy.egress.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apps.proxy.egress.plane import Plane

_STACK_BYTES = 512 * 1024
_BUSY_REASON = "this sandbox has too many open connections"
_BUSY_BODY = json.dumps({"error": "too_many_connections", "reason": _BUSY_REASON}).encode()
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

    def __init__(self, plane: Plane, listeners: Iterable[socket.socket]) -> None:
        self._plane = plane
        self._listeners = tuple(listeners)
        self._turned_away = _TurnedAway(plane)

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
            self._turned_away.count()
            return
        try:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            work = Session(HttpClientConnection(conn), flags=_FLAGS, plane=self._plane, line=line)
            threading.Thread(target=work.run, daemon=True).start()
        except (OSError, RuntimeError):
            self._plane.lines.gone(line)
            line.close(conn)


class _TurnedAway:
    """Tells of connections over the limit, in one event a second at the most, and how many.

    Two listeners count; a flood must not become a flood of events.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._lock = threading.Lock()
        self._untold = 0
        self._told_at = float("-inf")

    def count(self) -> None:
        with self._lock:
            self._untold += 1
            now = time.monotonic()
            if now - self._told_at < 1:
                return
            told, self._untold, self._told_at = self._untold, 0, now
        record = Record("", "", 0, "", result="denied", status=503, reason=_BUSY_REASON)
        record.detail["connections"] = told
        self._plane.auditor.emit(record)


def _turn_away(conn: socket.socket) -> None:
    with contextlib.suppress(OSError):
        conn.settimeout(0)
        conn.send(_BUSY)
        conn.shutdown(socket.SHUT_WR)
    conn.close()
