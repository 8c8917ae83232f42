"""The probes that run inside every new sandbox, as its user, before anyone gets it.

Each asks the kernel for something that must fail (or must work), so the report says what *is*, not
what was set up. A probe that comes out wrong makes the creation fail. Cheap: a few dozen calls.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from apps.common.frames import encode_frame
from apps.sandboxes.harness import env, syscalls

# TEST-NET-1, the metadata service, documentation IPv6: never ours, so only a route could answer.
OUTSIDE_4 = ("192.0.2.1", 443)
METADATA_4 = ("169.254.169.254", 80)
OUTSIDE_6 = ("2001:db8::1", 443)
METADATA_6 = ("fd00:ec2::254", 80)
_TIMEOUT = 0.25
LONG = 5.0  # for what must work, on a busy host too


@dataclass(frozen=True, slots=True)
class Probe:
    """One line of the report."""

    probe: str
    ok: bool
    detail: str

    @property
    def line(self) -> dict[str, Any]:
        """As the report has it."""
        return {"probe": self.probe, "ok": self.ok, "detail": self.detail}


Check = Callable[[], str]


class OpenError(Exception):
    """Something that must be refused was not."""


def _refused(*allowed: int | None) -> Callable[[OSError], str]:
    def judge(error: OSError) -> str:
        if error.errno not in allowed:
            raise OpenError(f"unexpected {errno.errorcode.get(error.errno or 0, error.errno)}")
        return errno.errorcode[error.errno] if error.errno else "no answer"

    return judge


def must_fail(action: Callable[[], object], *errnos: int | None) -> Callable[[], str]:
    """The check that `action` ends in one of `errnos`; None among them: in no answer in time."""

    def check() -> str:
        try:
            action()
        except OSError as error:
            return _refused(*errnos)(error)
        raise OpenError("it worked")

    return check


def connect(family: int, address: tuple[str, int], timeout: float = _TIMEOUT) -> Callable[[], None]:
    """The attempt to make a TCP connection."""

    def action() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(address)

    return action


def _send_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"probe", OUTSIDE_4)


def make_socket(family: int, kind: int, protocol: int = 0) -> Callable[[], None]:
    """The attempt to make a socket."""

    def action() -> None:
        socket.socket(family, kind, protocol).close()

    return action


@functools.cache
def own_status() -> dict[str, str]:
    """What the kernel says of this process, which changes nothing about itself any more."""
    lines = read("/proc/thread-self/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def read(path: str) -> str:
    """A small file of /proc. Without the layers of `open`, which a fresh child would pay for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while chunk := os.read(descriptor, 65_536):
            found += chunk
    finally:
        os.close(descriptor)
    return found.decode()


def equals(name: str, wanted: str) -> Callable[[], str]:
    """The check that a line of `own_status` is as wanted."""

    def check() -> str:
        found = own_status()[name].strip()
        if found != wanted:
            raise OpenError(f"{name} is {found}")
        return found

    return check


def _no_capabilities() -> str:
    status = own_status()
    held = [n for n in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[n], 16)]
    if held:
        raise OpenError(f"{', '.join(held)} not empty")
    return "all five sets empty"


def _not_root() -> str:
    ids = {*os.getresuid(), *os.getresgid()}
    if 0 in ids or 0 in os.getgroups():
        raise OpenError("user or group 0")
    if set(os.getgroups()) - {os.getgid()} and os.getuid() not in _single_user():
        raise OpenError("supplementary groups are left")
    return f"uid {os.getuid()} gid {os.getgid()}"


def _single_user() -> set[int]:
    """Rootless: the one user of our map. Its supplementary groups cannot be dropped (they map
    to the overflow group and open nothing that is in the sandbox)."""
    rows = [line.split() for line in read("/proc/self/uid_map").splitlines()]
    return {int(rows[0][0])} if len(rows) == 1 and rows[0][2] == "1" else set()


def _no_foreign_processes() -> str:
    """hidepid shows us our own; pid 1 of this namespace is the harness, not the host's."""
    pids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  names only
    limit = 16
    if os.getpid() > limit or len(pids) > limit:
        raise OpenError(f"pid {os.getpid()}, {len(pids)} processes in sight")
    return f"{len(pids)} in sight"


def _no_host_files(system_paths: Sequence[str]) -> str:
    lines = read("/proc/self/mountinfo").splitlines()
    kinds = {line.split()[4]: line.split(" - ")[1].split()[0] for line in lines}
    if kinds.get("/") != "tmpfs" or "/sys" in kinds:
        raise OpenError(f"the root is {kinds.get('/')}")
    expected = _EXPECTED | {path.split("/")[1] for path in system_paths}
    found = sorted({*os.listdir("/")} - expected)  # noqa: PTH208  names only
    if found:
        raise OpenError(f"unexpected: {', '.join(found)[:80]}")
    return f"root is tmpfs, {len(kinds)} mounts"


_EXPECTED = {
    "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var",
    "workspace",
}  # fmt: skip


def _no_network() -> str:
    names = sorted(name for _, name in socket.if_nameindex())
    if names != ["lo"]:
        raise OpenError(f"interfaces: {', '.join(names)}")
    return "lo only"


def _landlocked() -> str:
    """A device that anyone may write by its mode, on a mount that does not matter to devices."""
    if not os.stat("/dev/urandom").st_mode & 0o002:  # noqa: PTH116  as in `read`
        raise OpenError("cannot tell: /dev/urandom is not writable by its mode")
    return must_fail(write("/dev/urandom"), errno.EACCES)()


def write(path: str) -> Callable[[], None]:
    """The attempt to open a file for writing, made if it is not there."""

    def action() -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    return action


def mount() -> None:
    """The attempt to mount something."""
    syscalls.mount("none", "/tmp", "tmpfs")  # noqa: S108 the sandbox's own


def trace() -> None:
    """The attempt to be traced."""
    syscalls.call("ptrace", 0, 0, 0, 0)


def _proxy(family: int, address: str) -> Callable[[], str]:
    def check() -> str:
        connect(family, (address, env.PROXY_PORT), LONG)()
        return f"{address}:{env.PROXY_PORT}"

    return check


def _workspace_works() -> str:
    path = f"{env.WORKSPACE}/.selftest"
    write(path)()
    os.unlink(path)  # noqa: PTH108  as in `read`
    return "written and removed"


def new_users() -> None:
    """The attempt to have a user namespace."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)


def change_root() -> None:
    """The attempt to have another root."""
    os.chroot("/tmp")  # noqa: S108 the sandbox's own


CORE_PATTERN = "/proc/sys/kernel/core_pattern"
_UNREACHABLE = (errno.ENETUNREACH, errno.EADDRNOTAVAIL)
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPERM, errno.EPROTONOSUPPORT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

CHECKS: tuple[tuple[str, Check], ...] = (
    ("no_route_ipv4", must_fail(connect(socket.AF_INET, OUTSIDE_4), *_UNREACHABLE)),
    ("no_metadata_ipv4", must_fail(connect(socket.AF_INET, METADATA_4), *_UNREACHABLE)),
    ("no_route_udp", must_fail(_send_datagram, *_UNREACHABLE)),
    ("loopback_only", _no_network),
    ("no_raw_socket", must_fail(make_socket(socket.AF_INET, socket.SOCK_RAW, 1), *_NO_FAMILY)),
    ("no_packet_socket", must_fail(make_socket(17, socket.SOCK_RAW), *_NO_FAMILY)),
    ("no_vsock", must_fail(make_socket(40, socket.SOCK_STREAM), *_NO_FAMILY)),
    ("not_root", _not_root),
    ("no_capabilities", _no_capabilities),
    ("no_new_privs", equals("NoNewPrivs", "1")),
    ("seccomp", equals("Seccomp", "2")),
    ("no_mount", must_fail(mount, errno.EPERM)),
    ("no_user_namespace", must_fail(new_users, errno.EPERM)),
    ("no_chroot", must_fail(change_root, errno.EPERM)),
    ("no_ptrace", must_fail(trace, errno.EPERM)),
    ("system_read_only", must_fail(write("/usr/.selftest"), *_READ_ONLY)),
    ("root_read_only", must_fail(write("/.selftest"), *_READ_ONLY)),
    ("kernel_settings_read_only", must_fail(write(CORE_PATTERN), *_READ_ONLY)),
    ("no_host_processes", _no_foreign_processes),
    ("workspace_writable", _workspace_works),
    ("proxy_reachable_ipv4", _proxy(socket.AF_INET, "127.0.0.1")),
)  # fmt: skip
_CHECKS_6: tuple[tuple[str, Check], ...] = (
    ("no_route_ipv6", must_fail(connect(socket.AF_INET6, OUTSIDE_6), *_UNREACHABLE)),
    ("no_metadata_ipv6", must_fail(connect(socket.AF_INET6, METADATA_6), *_UNREACHABLE)),
    ("proxy_reachable_ipv6", _proxy(socket.AF_INET6, "::1")),
)


def probe(name: str, check: Check) -> Probe:
    """Run one check; anything unexpected counts as failed."""
    try:
        return Probe(name, ok=True, detail=check())
    except (OpenError, OSError, ValueError, KeyError) as error:
        return Probe(name, ok=False, detail=f"{error}"[:200])


def run(request: dict[str, Any]) -> None:
    """Answer a frame {report}; `request` says whether Landlock is to be expected, and which
    folders of the host were asked for."""
    no_host_files = functools.partial(_no_host_files, request["system_paths"])
    checks: list[tuple[str, Check]] = [*CHECKS, ("no_host_files", no_host_files)]
    if os.access("/proc/net/if_inet6", os.F_OK):
        checks += _CHECKS_6
    if request["landlock"]:
        checks.append(("landlock", _landlocked))
    report = [probe(name, check).line for name, check in checks]
    os.write(1, encode_frame({"report": report}))
