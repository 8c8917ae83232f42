"""Messages with descriptors between our own processes, over SOCK_SEQPACKET.

One packet is one JSON object and at most `MAX_FDS` descriptors. Nothing an agent wrote travels
here: commands, content and output have pipes and memory files of their own, passed as descriptors.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MESSAGE = 64 * 1024
MAX_FDS = 8


class IpcError(Exception):
    """The peer is gone, late, or sent something that is no message."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; both are closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; raises IpcError when the peer is gone or the message too large."""
    body = json.dumps(message).encode()
    if len(body) > MAX_MESSAGE or len(fds) > MAX_FDS:
        raise IpcError(f"message of {len(body)} bytes is over the limit")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([body], rights, socket.MSG_NOSIGNAL)
    except OSError as error:
        raise IpcError(f"peer is gone: {error}") from error


def receive(sock: socket.socket, timeout: float | None) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors (close-on-exec), which the caller owns.

    `timeout` in seconds; raises IpcError on a late, absent or broken peer.
    """
    sock.settimeout(timeout)
    try:
        body, ancillary, flags, _ = sock.recvmsg(
            MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
    except OSError as error:
        raise IpcError(f"no message: {error}") from error
    finally:
        sock.settimeout(None)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        return _decoded(body, flags), list(fds)
    except IpcError:
        close_all(fds)
        raise


def _decoded(body: bytes, flags: int) -> dict[str, Any]:
    if not body:
        raise IpcError("peer closed the connection")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise IpcError("message was cut")
    try:
        message = json.loads(body)
    except ValueError as error:
        raise IpcError("message is not JSON") from error
    if not isinstance(message, dict):
        raise IpcError("message is not an object")
    return message


def failure(step: str, error: BaseException) -> dict[str, Any]:
    """The message of a process of ours that cannot do a step of building a sandbox."""
    number = getattr(error, "errno", None) or 0
    return {"event": "failed", "step": step, "errno": number, "message": str(error)}


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors, whatever state they are in."""
    for descriptor in fds:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def memory_file(content: bytes, name: str) -> int:
    """A sealed, anonymous file that holds `content`, at offset 0; the caller closes it."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
