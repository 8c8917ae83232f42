"""Are the packet rules by user in force? Asked of the kernel as the users that they are about.

Before Landlock and seccomp are on, which would refuse the same and so hide a missing rule. A
listener that belongs to the proxy's user is the target: that user must reach it, so it is there and
answers; the sandbox's user must not, and must reach the proxy's port beside it.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.sandboxes.harness import syscalls, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from apps.sandboxes.harness.confine import Identity

# A packet on the loopback is delivered within the call that sends it, but for a busy host: so what
# must not arrive is waited for ten times as long as what did, and what must arrive for long.
_PATIENCE = 0.05
_TIMES = 10
_LONG = 5.0
_NAME_SERVERS = (("127.0.0.53", 53), ("127.0.0.1", 53), ("192.0.2.1", 53))
_NAME_SERVERS_6 = (("::1", 53), ("2001:db8::1", 53))
_NO_WAY = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH)
_BACKLOG = 16


class NotInForceError(OSError):
    """A packet left that must not have, or did not arrive where it must."""


@dataclass(frozen=True, slots=True)
class _Family:
    kind: int
    local: str
    name_servers: tuple[tuple[str, int], ...]


def _families() -> list[_Family]:
    found = [_Family(socket.AF_INET, "127.0.0.1", _NAME_SERVERS)]
    if Path("/proc/net/if_inet6").exists():
        found.append(_Family(socket.AF_INET6, "::1", _NAME_SERVERS_6))
    return found


def require(
    identity: Identity, port: int, as_proxy: Callable[[], AbstractContextManager[None]]
) -> list[tuple[str, str]]:
    """(name, detail) of each rule that was seen to hold. Raises NotInForceError."""
    seen = []
    for family in _families():
        with as_proxy(), socket.socket(family.kind, socket.SOCK_STREAM) as target:
            target.bind((family.local, 0))
            target.listen(_BACKLOG)
            number = target.getsockname()[1]
            if not _reaches(family, number, _LONG):
                raise NotInForceError(
                    errno.EHOSTUNREACH, f"the proxy's user cannot reach {family.local}:{number}"
                )
            seen += _as(identity, family, port, number)
    return seen


def _as(identity: Identity, family: _Family, port: int, closed: int) -> list[tuple[str, str]]:
    """Try as the sandbox's user, in a child."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        answer: dict[str, object] = {"error": "the probe did not end"}
        try:
            os.seteuid(0)
            tree.become(identity, syscalls.ALL_CAPABILITIES)
            answer = {"seen": _try(family, port, closed)}
        except OSError as error:
            answer = {"error": error.strerror}
        except tree.StillRootError:
            answer = {"error": "the probe is still root"}
        finally:
            os.write(write, json.dumps(answer).encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        told = json.loads(file.read() or b"{}")
    os.waitpid(pid, 0)
    if "seen" not in told:
        raise NotInForceError(errno.EPERM, str(told.get("error", "the probe died")))
    return [(name, detail) for name, detail in told["seen"]]


def _try(family: _Family, port: int, closed: int) -> list[tuple[str, str]]:
    version = "ipv4" if family.kind == socket.AF_INET else "ipv6"
    # One processor delivers in turn: what was begun first and passes is there by the time that the
    # other connection is made, however busy the host is.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with socket.socket(family.kind, socket.SOCK_STREAM) as other:
        begun = _begin(other, (family.local, closed))
        started = time.monotonic()
        if not _reaches(family, port, _LONG):
            told = f"its own proxy, port {port}, is closed to the sandbox"
            raise NotInForceError(errno.EPERM, told)
        took = time.monotonic() - started
        if _is_made(other, begun, max(_PATIENCE, _TIMES * took)):
            told = f"the sandbox's user reached {family.local}:{closed}"
            raise NotInForceError(errno.EPERM, told)
    for server in family.name_servers:
        _refused_datagram(family.kind, server)
    return [
        (f"rule_drops_tcp_{version}", f"{family.local}: no port but {port}"),
        (f"rule_drops_dns_{version}", "loopback resolvers included"),
    ]


def _reaches(family: _Family, port: int, patience: float) -> bool:
    with socket.socket(family.kind, socket.SOCK_STREAM) as sock:
        return _is_made(sock, _begin(sock, (family.local, port)), patience)


def _begin(sock: socket.socket, place: tuple[str, int]) -> int:
    sock.settimeout(0)
    return sock.connect_ex(place)


def _is_made(sock: socket.socket, number: int, patience: float) -> bool:
    """Whether the connection that was begun with `number` is made."""
    if number == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        poll.poll(patience * 1000)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return number == 0 and _is_connected(sock)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _refused_datagram(kind: int, server: tuple[str, int]) -> None:
    with socket.socket(kind, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"\0", server)
        except OSError as error:
            if error.errno == errno.EPERM or error.errno in _NO_WAY:
                return
            raise
    raise NotInForceError(errno.EPERM, f"a datagram of the sandbox's user left for {server[0]}")
