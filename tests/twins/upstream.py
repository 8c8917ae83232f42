"""A real upstream server for tests: it records every byte of every request that reaches it.

Its reading is lenient on purpose: an attack that gets through a proxy must be seen here, whatever
its form. It speaks HTTP/1.1 over TLS (with a CA of its own) or in the clear, one thread for each
connection, and answers by path; see `_routes`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import socket
import ssl
import threading
import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass
class Seen:
    """One request as it arrived."""

    head: bytes
    body: bytes
    sni: str | None
    connection: int

    @cached_property
    def line(self) -> str:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @cached_property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @cached_property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """All fields in order, names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return [(name.lower(), value.strip()) for name, _, value in pairs]

    def header(self, name: str) -> str | None:
        """The only value of a field; fails when there are several."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


class UpstreamTwin:
    """The server. Use as a context manager; `seen` holds the requests, `opened` the connections."""

    def __init__(
        self,
        pem: Path | None = None,
        address: str = "127.0.0.1",
        listener: socket.socket | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = listener or socket.create_server((address, 0), family=family, backlog=128)
        named = self.listener.getsockname()
        self.port: int = named[1] if isinstance(named, tuple) else 0  # a Unix socket has a path
        self.address = address
        self.seen: list[Seen] = []
        self.opened = 0
        self.raw = bytearray()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        if pem is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(pem)
            self._context.sni_callback = self._remember_name
        self._sni: dict[int, str | None] = {}

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.drop()

    def drop(self) -> None:
        """Close every open connection, as a restarting server would."""
        with self._lock:
            sockets = list(self._open)
        for sock in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def reset(self) -> None:
        """End every connection and start anew; what still comes over old ones is not recorded."""
        self.drop()
        self.seen, self.raw, self.opened = [], bytearray(), 0

    def _remember_name(self, sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        self._sni[id(sock)] = name

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            self.opened += 1
            threading.Thread(target=self._serve, args=(conn, self.opened), daemon=True).start()

    def _serve(self, conn: socket.socket, number: int) -> None:
        sock, seen, raw = conn, self.seen, self.raw
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._context is not None:
                sock.settimeout(20)
                sock = self._context.wrap_socket(sock, server_side=True)
            sock.settimeout(60)
            with self._lock:
                self._open.add(sock)
            self._requests(sock, number, seen, raw)
        except (OSError, ValueError, EOFError):
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _requests(
        self, sock: socket.socket, number: int, requests: list[Seen], raw: bytearray
    ) -> None:
        stream = _Stream(sock, raw)
        while True:
            head = stream.until(b"\r\n\r\n")
            seen = Seen(head, b"", self._sni.get(id(sock)), number)
            if seen.target.startswith("/early"):
                requests.append(seen)
                sock.sendall(_response(413, b"too large", "Connection: close"))
                return
            seen.body = _body(stream, seen)
            requests.append(seen)
            if seen.target.startswith("/ws/") and seen.header("upgrade"):
                _websocket(sock, stream, seen)
                return
            for part in self.answer(seen):
                sock.sendall(part)
            if ("connection", "close") in seen.headers or seen.target.startswith("/close"):
                return

    def answer(self, seen: Seen) -> Iterator[bytes]:
        """The parts of the response, by the first segment of the path."""
        name, _, rest = seen.target.partition("?")[0].lstrip("/").partition("/")
        return _ROUTES.get(name, _echo)(seen, rest)


class _Stream:
    def __init__(self, sock: socket.socket, raw: bytearray) -> None:
        self._sock = sock
        self._raw = raw
        self._held = b""

    def _more(self) -> None:
        data = self._sock.recv(262144)
        if not data:
            raise EOFError
        if len(self._raw) < 1 << 20:
            self._raw += data
        self._held += data

    def until(self, end: bytes) -> bytes:
        while end not in self._held:
            self._more()
        found, _, self._held = self._held.partition(end)
        return found

    def rest(self) -> bytes:
        if not self._held:
            self._more()
        data, self._held = self._held, b""
        return data

    def exactly(self, count: int) -> bytes:
        parts = [self._held[:count]]
        self._held = self._held[count:]
        have = len(parts[0])
        while have < count:
            self._more()
            parts.append(self._held[: count - have])
            self._held = self._held[count - have :]
            have += len(parts[-1])
        return b"".join(parts)


def _say_first(sock: socket.socket, protocol: ServerProtocol, seen: Seen) -> None:
    secret = (seen.header("authorization") or "").encode()
    if seen.target == "/ws/leak":
        protocol.send_text(secret)
    elif seen.target == "/ws/drip":
        _drip_frames(sock, protocol, secret)
    elif seen.target == "/ws/masked":
        sock.sendall(b"".join(protocol.data_to_send()) + b"\x81\x81\0\0\0\0a")


def _drip_frames(sock: socket.socket, protocol: ServerProtocol, text: bytes) -> None:
    """A message in frames of five bytes with pings between them, then messages of five bytes."""
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    for number, piece in enumerate(pieces):
        if number:
            protocol.send_continuation(piece, fin=piece is pieces[-1])
        else:
            protocol.send_text(piece, fin=False)
        protocol.send_ping(b"between")
    for piece in pieces:
        protocol.send_text(piece)
        sock.sendall(b"".join(protocol.data_to_send()))
        time.sleep(0.01)


def _websocket(sock: socket.socket, stream: _Stream, seen: Seen) -> None:
    """Echo messages; `/ws/leak` says the credential first, `/ws/bye` closes after the first."""
    protocol = ServerProtocol(max_size=None)
    protocol.receive_data(seen.head + b"\r\n\r\n")
    (opening,) = protocol.events_received()
    assert isinstance(opening, Request)
    answer = protocol.accept(opening)
    if seen.target == "/ws/wrong-accept":
        del answer.headers["Sec-WebSocket-Accept"]
        answer.headers["Sec-WebSocket-Accept"] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    if seen.target == "/ws/other-protocol":
        del answer.headers["Upgrade"]
        answer.headers["Upgrade"] = "h2c"
    protocol.send_response(answer)
    _say_first(sock, protocol, seen)
    while True:
        sock.sendall(b"".join(protocol.data_to_send()))
        if protocol.close_expected():
            return
        protocol.receive_data(stream.rest())
        for frame in protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode is Opcode.CONT:
                protocol.send_continuation(frame.data, fin=frame.fin)
            if isinstance(frame, Frame) and frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                protocol.send_binary(frame.data, fin=frame.fin)
                if seen.target == "/ws/bye":
                    protocol.send_close(1000)


def _body(stream: _Stream, seen: Seen) -> bytes:
    if "chunked" in (dict(seen.headers).get("transfer-encoding") or ""):
        parts = []
        while size := int(stream.until(b"\r\n"), 16):
            parts.append(stream.exactly(size))
            stream.exactly(2)
        while stream.until(b"\r\n"):
            pass
        return b"".join(parts)
    return stream.exactly(int(dict(seen.headers).get("content-length") or 0))


def _response(status: int, content: bytes, *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Twin", f"Content-Length: {len(content)}", *fields, "\r\n"]
    return "\r\n".join(lines).encode("latin-1") + content


def pattern(size: int) -> bytes:
    """Bytes that repeat nowhere near each other."""
    block = hashlib.sha512(b"twin").digest() * 1021
    return (block * (size // len(block) + 1))[:size]


def _noise(size: int) -> bytes:
    """Bytes that do not become fewer when they are compressed."""
    return hashlib.shake_128(b"twin").digest(size)


def _echo(seen: Seen, _: str) -> Iterator[bytes]:
    shown = {
        "method": seen.method,
        "target": seen.target,
        "headers": seen.headers,
        "body": seen.body[:4096].decode("latin-1"),
        "sha256": hashlib.sha256(seen.body).hexdigest(),
        "size": len(seen.body),
    }
    yield _response(200, json.dumps(shown).encode(), "Content-Type: application/json")


def _bytes(_: Seen, rest: str) -> Iterator[bytes]:
    size = int(rest)
    yield f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    block = pattern(1 << 20)
    for at in range(0, size, len(block)):
        yield block[: size - at]


def _chunked(_: Seen, rest: str) -> Iterator[bytes]:
    size = int(rest)
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = pattern(size)
    for at in range(0, size, 10_007):
        piece = data[at : at + 10_007]
        yield b"%X\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\nX-Trailer: dropped\r\n\r\n"


def _close(_: Seen, __: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil "
    yield b"the end"


def _gzip(_: Seen, __: str) -> Iterator[bytes]:
    yield _response(200, gzip.compress(b"compressed " * 50), "Content-Encoding: gzip")


def _packed(seen: Seen, rest: str) -> Iterator[bytes]:
    """Give back the credential it got, compressed, byte by byte in chunks."""
    text = b"before " + (seen.header("authorization") or "").encode() + b" after. " * 20
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(text),
        "part": gzip.compress(text),
        "deflate": zlib.compress(text),
        "raw": raw.compress(text) + raw.flush(),
        "cut": gzip.compress(text + _noise(100_000))[:-5],
        "bomb": gzip.compress(b"\0" * 30_000_000) if rest == "bomb" else b"",
        "lie": b"not compressed at all",
    }.get(rest, b"x")
    coding = {"raw": "deflate", "cut": "gzip", "bomb": "GZIP", "lie": "gzip", "part": "gzip"}.get(
        rest, rest.replace("%20", " ")
    )
    status = 206 if rest == "part" else 200
    yield f"HTTP/1.1 {status} OK\r\nContent-Encoding: {coding}\r\nContent-MD5: x\r\n".encode()
    yield b"Transfer-Encoding: chunked\r\n\r\n"
    step = 1 if len(packed) < 1000 else 5000
    for at in range(0, len(packed), step):
        piece = packed[at : at + step]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _status(seen: Seen, rest: str) -> Iterator[bytes]:
    status = int(rest)
    if status in (204, 304):
        yield f"HTTP/1.1 {status} Twin\r\nETag: x\r\n\r\n".encode()
    elif seen.method == "HEAD":
        yield f"HTTP/1.1 {status} Twin\r\nContent-Length: 1234\r\n\r\n".encode()
    else:
        yield _response(status, b"status")


def _slow(_: Seen, rest: str) -> Iterator[bytes]:
    time.sleep(float(rest))
    yield _response(200, b"late")


def _drip(_: Seen, rest: str) -> Iterator[bytes]:
    """A stream that goes on for `rest` seconds, ten events a second."""
    yield _CHUNKED_HEAD
    for number in range(int(float(rest) * 10)):
        event = f"data: {number}\n\n".encode()
        yield b"%x\r\n%s\r\n" % (len(event), event)
        time.sleep(0.1)
    yield b"0\r\n\r\n"


def _interim(_: Seen, __: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    yield _response(200, b"final")


def _switch(_: Seen, __: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw"


def _leak(seen: Seen, rest: str) -> Iterator[bytes]:
    """Give back the credential it got: in a header, whole, in chunks of `rest` bytes, as base64."""
    secret = (seen.header("authorization") or seen.header("x-api-key") or "").encode()
    text = b"before " + secret + b" after"
    yield b"HTTP/1.1 200 " + secret[-40:] + b"\r\nX-Echo: " + secret + b"\r\nSet-Cookie: a="
    yield secret + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    step = int(rest or 7)
    for at in range(0, len(text), step):
        piece = text[at : at + step]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _redirect(seen: Seen, _: str) -> Iterator[bytes]:
    secret = seen.header("authorization") or ""
    yield _response(302, b"", f"Location: https://elsewhere.test/?t={secret.split(' ')[-1]}")


def _raw(_: Seen, rest: str) -> Iterator[bytes]:
    """Answers that are none, or not whole."""
    yield _ODD[rest]


_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_EMPTY = b"Content-Length: 0\r\n\r\n"
_ODD = {
    "garbage": b"\x00\x01\x02 not http\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "both": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n" + _CHUNKED_HEAD[17:] + b"0\r\n\r\n",
    "bad-chunk": _CHUNKED_HEAD + b"-5\r\nhello\r\n0\r\n\r\n",
    "fold": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "large": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "split": b"HTTP/1.1 200 OK\r\nX-A: b\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "padded": _CHUNKED_HEAD + b"5  ;x=y\r\nhello\r\n0\r\n\r\n",
    "alt-svc": b'HTTP/1.1 200 OK\r\nAlt-Svc: h3=":443"\r\nX-Lens-Decision: x\r\n' + _EMPTY,
}


def _truncate(_: Seen, __: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    raise EOFError


def _silent(_: Seen, __: str) -> Iterator[bytes]:
    yield b""
    raise EOFError


_ROUTES: dict[str, Callable[[Seen, str], Iterator[bytes]]] = {
    "bytes": _bytes,
    "chunked": _chunked,
    "close": _close,
    "gzip": _gzip,
    "packed": _packed,
    "status": _status,
    "slow": _slow,
    "drip": _drip,
    "interim": _interim,
    "switch": _switch,
    "leak": _leak,
    "redirect": _redirect,
    "raw": _raw,
    "truncate": _truncate,
    "silent": _silent,
}
