"""Length-prefixed JSON over a stream socket: the control channels between our own processes.

A frame is a 4-byte big-endian length and a UTF-8 JSON object. Both ends are ours, yet a frame is
bounded, so that a confused peer costs memory nowhere.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

MAX_FRAME = 16 * 1024 * 1024
_HEAD = struct.Struct("!I")


class FrameError(Exception):
    """The peer sent something that is no frame, or one that is too large."""


def encode_frame(message: dict[str, Any]) -> bytes:
    """One frame as bytes; raises FrameError above MAX_FRAME."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise FrameError(f"frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return _HEAD.pack(len(body)) + body


def decode_body(body: bytes) -> dict[str, Any]:
    """The object in a frame's body; raises FrameError when it is none."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError("frame is not JSON") from error
    if not isinstance(message, dict):
        raise FrameError("frame is not an object")
    return message


def send_frame(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send one frame whole; OSError as the socket raises it."""
    sock.sendall(encode_frame(message))


def recv_frame(sock: socket.socket, limit: int = MAX_FRAME) -> dict[str, Any] | None:
    """The next frame, or None at a clean end; raises FrameError on a cut or oversized frame."""
    head = _recv_exactly(sock, _HEAD.size)
    if not head:
        return None
    (length,) = _HEAD.unpack(head)
    if length > limit:
        raise FrameError(f"frame of {length} bytes is over the limit of {limit}")
    body = _recv_exactly(sock, length)
    if len(body) < length:
        raise FrameError("connection ended within a frame")
    return decode_body(body)


def _recv_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes, or b"" when the peer ended before the first; FrameError when cut within."""
    parts = bytearray()
    while len(parts) < count:
        chunk = sock.recv(count - len(parts))
        if not chunk:
            if parts:
                raise FrameError("connection ended within a frame")
            return b""
        parts += chunk
    return bytes(parts)
