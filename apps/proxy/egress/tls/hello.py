"""The server name in a TLS ClientHello, for tunnels that are not intercepted.

Sources: RFC 8446 section 4.1.2 and 5.1 (records), RFC 6066 section 3 (server_name), RFC 9849 (ECH).
Only a hello that fits one TLS record and names exactly one host in the clear is accepted.
"""

from __future__ import annotations

import struct

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ENCRYPTED_CLIENT_HELLO = 0xFE0D
MAX_RECORD = 16384
RECORD_HEADER = 5


class HelloError(Exception):
    """Not a ClientHello that says where it goes; the message says why."""


class _Bytes:
    """A cursor over bytes that raises HelloError where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise HelloError("the ClientHello is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> bytes:
        return self.take(self.left)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> _Bytes:
        return _Bytes(self.take(self.number(size)))


def record_length(header: bytes) -> int:
    """The payload length from a 5-byte TLS record header; raises HelloError."""
    kind, major, _, length = struct.unpack("!BBBH", header)
    if kind != _HANDSHAKE or major != 3 or not 0 < length <= MAX_RECORD:
        raise HelloError("not TLS")
    return int(length)


def server_name(payload: bytes) -> str:
    """The host named by the ClientHello in one record's payload; raises HelloError."""
    message = _Bytes(payload)
    if message.number(1) != _CLIENT_HELLO:
        raise HelloError("not a ClientHello")
    hello = message.vector(3)
    if message.left:
        raise HelloError("bytes after the ClientHello")
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    names: list[str] = []
    extensions = hello.vector(2)
    while extensions.left:
        kind, value = extensions.number(2), extensions.vector(2)
        if kind == _ENCRYPTED_CLIENT_HELLO:
            raise HelloError("encrypted ClientHello (ECH) hides where it goes")
        if kind == _SERVER_NAME:
            names += _names(value)
    if len(names) != 1:
        raise HelloError("the ClientHello must name exactly one host")
    return names[0]


def _names(value: _Bytes) -> list[str]:
    names = []
    entries = value.vector(2)
    while entries.left:
        if entries.number(1) != 0:
            raise HelloError("an unknown kind of server name")
        try:
            names.append(entries.vector(2).rest().decode("ascii").lower())
        except UnicodeDecodeError:
            raise HelloError("the server name is not ASCII") from None
    return names
