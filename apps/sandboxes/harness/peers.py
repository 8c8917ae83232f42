"""Whose socket is at the other end of a TCP connection of this host, as the kernel knows it.

Where sandboxes share one network, a proxy serves its own sandbox's user and nobody else, whatever
the packet rules let through. TCP has no SO_PEERCRED: the kernel is asked for the owner of the
peer's socket, by sock_diag where it has that, else by its table of connections.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from pathlib import Path
from typing import Any

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")  # inet_diag_req_v2 before its socket id
_NO_COOKIE = b"\xff" * 8
_UID_OFFSET = _HEADER.size + 4 + 48 + 12  # inet_diag_msg: four bytes, the id, then three u32
_TIMEOUT = 1.0
_UNKNOWN = -1
_TABLE_COLUMNS = 8


def owner(conn: socket.socket) -> int:
    """The user that owns the peer's socket; -1 where the kernel does not say.

    The peer of an accepted loopback connection has our address as its peer. A socket that nobody
    holds any more (closed while we looked) has no owner.
    """
    # The first two of an address: IPv6 has flow and scope behind them.
    ours, theirs = conn.getsockname()[:2], conn.getpeername()[:2]
    try:
        return _by_netlink(theirs, ours)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return _UNKNOWN
    with contextlib.suppress(OSError, ValueError):
        return _by_table(theirs, ours)
    return _UNKNOWN


def _by_netlink(local: tuple[str, int], remote: tuple[str, int]) -> int:
    """Ask for the one socket whose ends are `local` and `remote`."""
    source, target = (ipaddress.ip_address(end[0].partition("%")[0]) for end in (local, remote))
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    ports = struct.pack("!HH", local[1], remote[1])
    ends = source.packed.ljust(16, b"\0") + target.packed.ljust(16, b"\0")
    identity = ports + ends + bytes(4) + _NO_COOKIE
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + identity
    head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_TIMEOUT)
        sock.send(head + body)
        answer = sock.recv(4096)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        raise OSError(number, f"sock_diag: {os.strerror(number)}")
    return int(struct.unpack_from("=I", answer, _UID_OFFSET)[0])


def _by_table(local: tuple[str, int], remote: tuple[str, int]) -> int:
    """Look for it in /proc/net/tcp and tcp6, where IPv4 may stand in IPv6's clothes."""
    wanted = {_shown(local, 4) + _shown(remote, 4), _shown(local, 6) + _shown(remote, 6)}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), Path("/proc/net", name).open() as table:
            for line in table:
                columns = line.split()
                if len(columns) > _TABLE_COLUMNS and columns[1] + columns[2] in wanted:
                    return int(columns[7])
    return _UNKNOWN


def _shown(end: tuple[str, int], version: int) -> str:
    """An end as the kernel prints it: 32-bit words in the machine's order, then the port."""
    address = ipaddress.ip_address(end[0].partition("%")[0])
    packed = address.packed
    if address.version == 4 and version == 6:
        packed = bytes(10) + b"\xff\xff" + packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{end[1]:04X}"


class OwnedListener(socket.socket):
    """A listening socket that accepts the connections of one user and closes all others."""

    def __init__(self, fileno: int, uid: int) -> None:
        super().__init__(fileno=fileno)
        self._uid = uid

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection of that user."""
        while True:
            conn, address = super().accept()
            with contextlib.suppress(OSError):  # gone already
                if owner(conn) == self._uid:
                    return conn, address
            conn.close()
