"""A network made for the run: a name server, and a public address behind a real link.

The run happens in network and mount namespaces of its own. `World` adds one more network, joined by
a virtual cable, that holds the address 93.184.215.14 and answers https there. So names are looked
up, vetted and connected to as on a real host, and nothing can leave the machine.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.twins.dns import DnsTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    import contextlib

PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f::14"
_NEAR, _NEAR_6 = "93.184.215.1", "2606:2800:21f::1"
_CLONE_NEWNET = 0x40000000
_ENTERED = "LENS_ATTACKS_INSIDE"


def enter(module: str) -> int | None:
    """Run `module` again inside namespaces of its own; its exit code, or None when inside."""
    if os.environ.get(_ENTERED):  # noqa: TID251  a switch of this run's own
        return None
    with tempfile.TemporaryDirectory(prefix="lens-attacks-") as name:
        Path(name).chmod(0o755)
        resolver = Path(name, "resolv.conf")
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolver.chmod(0o644)
        target = Path("/etc/resolv.conf").resolve()
        script = f'ip link set lo up && mount --bind {resolver} {target} && exec "$@"'
        command = ["unshare", "-nm", "sh", "-c", script, "sh", sys.executable, "-m", module]
        environment = {**os.environ, _ENTERED: "1"}  # noqa: TID251  same
        return subprocess.run(  # noqa: S603  ourselves
            [*command, *sys.argv[1:]], env=environment, check=False
        ).returncode


class World:
    """The network outside: `names` is its name server, `upstream` the server at PUBLIC."""

    def __init__(self, stack: contextlib.ExitStack, pem: Path) -> None:
        holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])  # noqa: S607
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        self._wait_for(holder.pid)
        for command in _cable(holder.pid):
            subprocess.run(command.split(), check=True, capture_output=True)  # noqa: S603
        space = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
        try:
            listener = socket_in(space, socket.AF_INET6)
        finally:
            os.close(space)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 443))
        listener.listen(64)
        self.upstream = stack.enter_context(UpstreamTwin(pem, listener=listener))
        self.names = stack.enter_context(DnsTwin())
        stack.callback(subprocess.run, ["ip", "link", "del", "lensw0"], check=False)

    @staticmethod
    def _wait_for(pid: int) -> None:
        ours, until = Path("/proc/self/ns/net").readlink(), time.monotonic() + 10
        while Path(f"/proc/{pid}/ns/net").readlink() == ours:
            assert time.monotonic() < until, "no second network"
            time.sleep(0.01)


def _cable(pid: int) -> list[str]:
    inside = f"nsenter -t {pid} -n ip"
    return [
        f"ip link add lensw0 type veth peer name lensw1 netns {pid}",
        f"ip addr add {_NEAR}/24 dev lensw0",
        f"ip addr add {_NEAR_6}/64 dev lensw0 nodad",
        "ip link set lensw0 up",
        f"{inside} addr add {PUBLIC}/24 dev lensw1",
        f"{inside} addr add {PUBLIC_6}/64 dev lensw1 nodad",
        f"{inside} link set lensw1 up",
    ]


def socket_in(space: int, family: int = socket.AF_INET) -> socket.socket:
    """A socket belongs to the network in which it was made, whoever uses it later."""
    libc = ctypes.CDLL(None, use_errno=True)  # 3.11 has no os.setns
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.setns(space, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            return socket.socket(family)
        finally:
            assert not libc.setns(home, _CLONE_NEWNET)
    finally:
        os.close(home)
