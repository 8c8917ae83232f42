"""The server and the load of the egress benchmark: raw sockets, one process a connection.

Every proxy is driven by the same code, so its cost is the same for all; `direct` is its ceiling.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n" + b"x" * 64
)
BLOCK = os.urandom(1 << 18)
HOST = "api.bench.test"
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Way:
    """How to reach the server: through the proxy at `port`, or directly (None)."""

    name: str
    port: int | None
    ca_file: str
    pid: int = 0


def serve(pem: Path) -> None:
    """Answer on 127.0.0.1:443 for ever, in this process, one thread a connection."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", 443))
    listener.listen(256)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=_connection, args=(context, conn), daemon=True).start()


def _connection(context: ssl.SSLContext, conn: socket.socket) -> None:
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError), context.wrap_socket(conn, server_side=True) as sock:
        while head := sock.recv(65536):
            size = int(head.split(b" ", 2)[1].rpartition(b"/")[2] or 0)
            if not size:
                sock.sendall(REPLY)
                continue
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for at in range(0, size, len(BLOCK)):
                sock.sendall(BLOCK[: size - at])


def connect(way: Way, host: str = HOST) -> ssl.SSLSocket:
    """A verified TLS connection to the host, by this way."""
    sock = socket.create_connection(("127.0.0.1", way.port or 443), timeout=6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if way.port is not None:
        sock.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = sock.recv(4096)
            if not more:
                raise EOFError(answer)
            answer += more
        if b" 200 " not in answer.split(b"\r\n", 1)[0] + b" ":
            raise ConnectionError(answer[:200])
    return ssl.create_default_context(cafile=way.ca_file).wrap_socket(sock, server_hostname=host)


def ask(sock: ssl.SSLSocket, host: str = HOST, target: str = "/open/0") -> None:
    """One small request and its whole answer."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode())
    answer = sock.recv(65536)
    while b"\r\n\r\n" not in answer or not answer.endswith(b"x" * 64):
        more = sock.recv(65536)
        if not more:
            raise EOFError(answer)
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(answer[:200])


def drive(way: Way, connections: int, seconds: float) -> list[float]:
    """Latencies (s) of all requests over keep-alive connections; each has a process."""
    pipes = []
    for _ in range(connections):
        ours, theirs = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_drive, args=(way, seconds, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append((ours, process))
    taken: list[float] = []
    for ours, process in pipes:
        some, broke = ours.recv()
        taken += some
        if broke:
            print(f"  {way.name}: a connection of {connections} ended early: {broke}")
        process.join(10)
    return taken


def _drive(way: Way, seconds: float, pipe: Connection) -> None:
    taken: list[float] = []
    broke = ""
    try:
        with connect(way) as sock:
            ask(sock)
            until = time.perf_counter() + seconds
            before = 0.0
            while before < until:
                before = time.perf_counter()
                ask(sock)
                taken.append(time.perf_counter() - before)
    except (OSError, EOFError) as error:
        broke = repr(error)
    pipe.send((taken, broke))


def new_host(way: Way, host: str) -> float:
    """Seconds from nothing to the first answer of a host that the proxy has not seen."""
    started = time.perf_counter()
    with connect(way, host) as sock:
        ask(sock, host)
    return time.perf_counter() - started


def download(way: Way, size: int, limit: float) -> float | None:
    """Bytes a second of one large answer; None when it did not arrive in `limit` seconds."""
    buffer = bytearray(1 << 18)
    started = time.perf_counter()
    with contextlib.suppress(OSError, EOFError), connect(way) as sock:
        sock.sendall(f"GET /open/{size} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        got = 0
        while got < size:
            count = sock.recv_into(buffer)
            if not count or time.perf_counter() - started > limit:
                return None
            got += count
        return size / (time.perf_counter() - started)
    return None
