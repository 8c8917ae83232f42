"""The probes of a sandbox without namespaces; as in `selftest`, each asks the kernel for something
that must fail or must work, and the report says what *is*.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.common.frames import encode_frame
from apps.sandboxes.harness import landlock, places, selftest, syscalls
from apps.sandboxes.harness.selftest import (
    Check,
    OpenError,
    connect,
    equals,
    make_socket,
    must_fail,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.sandboxes.harness.shared import Spec

_MSG_FASTOPEN = 0x20000000
_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
_NO_FAMILY = (errno.EAFNOSUPPORT,)
_CLOSED = (errno.EACCES, errno.EPERM)
_READ_ONLY = (errno.EROFS, *_CLOSED)


class _Found:
    """Of the sandbox that this process is in; set by its first process."""

    spec: Spec
    rules: list[tuple[str, str]]
    keeper: int


def settle(spec: Spec, rules: list[tuple[str, str]]) -> None:
    """What the sandbox is, and which packet rules were seen to hold when it was built."""
    _Found.spec, _Found.rules = spec, rules
    _Found.keeper = os.getppid() if spec.rootless else os.getpid()


def _fast_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.sendto(b"x", _MSG_FASTOPEN, selftest.OUTSIDE_4)


def _listen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.listen()


def _bind() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))


def _shared_memory() -> None:
    syscalls.call("shmget", 0, 4096, 0o1600)


def _list(path: str) -> Callable[[], object]:
    return lambda: os.listdir(path)  # noqa: PTH208 fewer calls to go wrong


def _read(path: str) -> Callable[[], object]:
    return lambda: Path(path).read_bytes()[:1]


def _signal_keeper() -> None:
    os.kill(_Found.keeper, 0)


def _not_root() -> str:
    ids = {*os.getresuid(), *os.getresgid()}
    if 0 in ids or (not _Found.spec.rootless and ids != {_Found.spec.uid}):
        raise OpenError(f"user or group {sorted(ids)}")
    if not _Found.spec.rootless and set(os.getgroups()) - {os.getgid()}:
        raise OpenError("supplementary groups are left")
    return f"uid {os.getuid()} gid {os.getgid()}"


def _no_capabilities() -> str:
    """The bounding set of a user who is not root cannot be reduced; no_new_privs covers it."""
    sets = _SETS if _Found.spec.rootless else (*_SETS, "CapBnd")
    status = selftest.own_status()
    if held := [name for name in sets if int(status[name], 16)]:
        raise OpenError(f"{', '.join(held)} not empty")
    return f"{len(sets)} sets empty"


def _workspace_works() -> str:
    path = Path(places.here().workspace, ".selftest")
    write(str(path))()
    path.unlink()
    return "written and removed"


def _proxy(family: int, address: str) -> Check:
    def check() -> str:
        port = places.here().port
        connect(family, (address, port), selftest.LONG)()
        return f"{address}:{port}"

    return check


def _files() -> list[tuple[str, Check]]:
    homes = str(Path(_Found.spec.home).parent)
    return [
        ("system_read_only", must_fail(write("/usr/.selftest"), *_READ_ONLY)),
        ("root_read_only", must_fail(write("/.selftest"), *_READ_ONLY)),
        ("kernel_settings_read_only", must_fail(write(selftest.CORE_PATTERN), *_READ_ONLY)),
        ("landlock", must_fail(_list("/"), errno.EACCES)),
        ("no_other_sandbox", must_fail(_list(homes), errno.EACCES)),
        ("no_shared_tmp", must_fail(_list("/tmp"), errno.EACCES)),  # noqa: S108 that it is closed
        ("no_foreign_environment", must_fail(_read("/proc/1/environ"), *_CLOSED)),
        ("workspace_writable", _workspace_works),
    ]


def _processes() -> list[tuple[str, Check]]:
    return [
        ("not_root", _not_root),
        ("no_capabilities", _no_capabilities),
        ("no_new_privs", equals("NoNewPrivs", "1")),
        ("seccomp", equals("Seccomp", "2")),
        ("no_mount", must_fail(selftest.mount, errno.EPERM)),
        ("no_user_namespace", must_fail(selftest.new_users, errno.EPERM)),
        ("no_chroot", must_fail(selftest.change_root, errno.EPERM)),
        ("no_ptrace", must_fail(selftest.trace, errno.EPERM)),
        ("no_shared_memory", must_fail(_shared_memory, errno.EPERM)),
        ("no_foreign_signal", must_fail(_signal_keeper, errno.EPERM)),
    ]


def _network(version: int) -> list[tuple[str, Check]]:
    """By Landlock where it governs TCP, else by packet rules, which answer nothing at all."""
    refused: tuple[int | None, ...] = (
        (errno.EACCES,) if version >= landlock.NETWORK_ABI else (None,)
    )
    four, six = socket.AF_INET, socket.AF_INET6
    checks = [
        ("no_route_ipv4", must_fail(connect(four, selftest.OUTSIDE_4), *refused)),
        ("no_metadata_ipv4", must_fail(connect(four, selftest.METADATA_4), *refused)),
        ("no_other_port", must_fail(connect(four, ("127.0.0.1", 22)), *refused)),
        ("no_datagram", must_fail(make_socket(four, socket.SOCK_DGRAM), errno.EPERM)),
        ("no_unix_socket", must_fail(make_socket(1, socket.SOCK_STREAM), *_NO_FAMILY)),
        ("no_raw_socket", must_fail(make_socket(four, socket.SOCK_RAW, 1), errno.EPERM)),
        ("no_packet_socket", must_fail(make_socket(17, socket.SOCK_RAW), *_NO_FAMILY)),
        ("no_vsock", must_fail(make_socket(40, socket.SOCK_STREAM), *_NO_FAMILY)),
        ("no_fast_open", must_fail(_fast_open, errno.EOPNOTSUPP)),
        ("no_server", must_fail(_listen, errno.EPERM)),
        ("proxy_reachable_ipv4", _proxy(four, "127.0.0.1")),
    ]
    if version >= landlock.NETWORK_ABI:
        checks.append(("no_bind", must_fail(_bind, errno.EACCES)))
    if Path("/proc/net/if_inet6").exists():
        checks += [
            ("no_route_ipv6", must_fail(connect(six, selftest.OUTSIDE_6), *refused)),
            ("no_metadata_ipv6", must_fail(connect(six, selftest.METADATA_6), *refused)),
            ("proxy_reachable_ipv6", _proxy(six, "::1")),
        ]
    return checks


def run(_: dict[str, Any]) -> None:
    """Answer a frame {report}."""
    version = landlock.abi()
    checks = [*_network(version), *_processes(), *_files()]
    report = [selftest.probe(name, check).line for name, check in checks]
    report += [{"probe": name, "ok": True, "detail": told} for name, told in _Found.rules]
    os.write(1, encode_frame({"report": report}))
