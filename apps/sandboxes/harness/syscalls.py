"""The kernel calls that the standard library does not offer, by ctypes, each with its errno.

Every function raises OSError with the call's name; none of them has a policy of its own.
Sources: the man pages of the calls; numbers from the kernel's `unistd.h` of both machines.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_SECCOMP = 22
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
ALL_CAPABILITIES = range(64)

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_BITS = {MS_RDONLY: 0x1, MS_NOSUID: 0x2, MS_NODEV: 0x4, MS_NOEXEC: 0x8}
_CAP_VERSION_3 = 0x20080522
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

# The number on x86_64, then on aarch64.
_NUMBERS = {
    "shmget": (29, 194),
    "clone": (56, 220),
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "seccomp": (317, 277),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "openat2": (437, 437),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())

_CLONE_INTO_CGROUP = 0x200000000

_libc = ctypes.CDLL(None, use_errno=True)
_holding_gil = ctypes.PyDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def supported_machine() -> bool:
    """Whether the numbers above (and the seccomp list) are known for this processor."""
    return _COLUMN is not None


def call(name: str, *args: Any) -> int:
    """A raw system call by name; returns its value, raises OSError with its errno."""
    if _COLUMN is None:
        raise OSError(errno.ENOSYS, f"{name}: unknown machine {platform.machine()}")
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result: int = _libc.syscall(ctypes.c_long(_NUMBERS[name][_COLUMN]), *arguments)
    return _checked(result, name)


def _checked(result: int, name: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def fork_into(group: int | None, namespaces: int = 0) -> int:
    """os.fork(), but the child begins in `namespaces` (CLONE_NEW* flags) of its own and in the v2
    control group of the directory `group`.

    Moving a process into a group waits for every processor (an RCU grace period), during which no
    process of the host can fork or exit; being born there waits for nothing. Only for a process of
    one thread, since the C library's fork handlers do not run; Python's do.

    Raises OSError: EAGAIN and ENOMEM as fork does, else the kernel cannot (groups are of Linux 5.7)
    or may not.
    """
    if _COLUMN is None:
        raise OSError(errno.ENOSYS, "clone3")
    arguments: tuple[int | bytes, ...]
    if group is None:
        # The older call: every kernel has it, and it makes the same namespaces.
        name, arguments = "clone", (namespaces | signal.SIGCHLD, 0, 0, 0, 0)
    else:
        name, flags = "clone3", namespaces | _CLONE_INTO_CGROUP
        wanted = struct.pack("=11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group)
        arguments = (wanted, len(wanted))
    number = ctypes.c_long(_NUMBERS[name][_COLUMN])
    passed = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _holding_gil.syscall(number, *passed)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _checked(pid, name)


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str = "") -> None:
    """mount(2); the target is named in the error, since a root has many."""
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _checked(result, f"mount {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def mount_attributes(target: str, flags: int) -> None:
    """Set MS_* `flags` on `target` and every mount below it (mount_setattr, Linux 5.12)."""
    bits = sum(bit for flag, bit in _MOUNT_ATTR_BITS.items() if flags & flag)
    attributes = struct.pack("=QQQQ", bits, 0, 0, 0)
    path = ctypes.c_char_p(os.fsencode(target))
    call("mount_setattr", _AT_FDCWD, path, _AT_RECURSIVE, attributes, len(attributes))


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2); with `"."` twice the old root ends up stacked on the new one."""
    call("pivot_root", ctypes.c_char_p(os.fsencode(new)), ctypes.c_char_p(os.fsencode(old)))


def prctl(operation: int, *args: int) -> int:
    """prctl(2)."""
    return _checked(_libc.prctl(operation, *(*args, 0, 0, 0, 0)[:4]), f"prctl {operation}")


def set_name(name: str) -> None:
    """The name of the calling thread, cut at 15 bytes."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(text))


def set_capabilities(capabilities: frozenset[int]) -> None:
    """Make these the permitted and effective set; the inheritable set becomes empty."""
    mask = sum(1 << c for c in capabilities)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    head = struct.pack("=Ii", _CAP_VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _checked(_libc.capset(head, data), "capset")


def drop_bounding(dropped: Iterable[int] = ALL_CAPABILITIES) -> None:
    """Take capabilities out of the bounding set, and all out of the ambient set."""
    for capability in dropped:
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past this kernel's last capability
                break
            raise
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for descriptor in sorted(keep):
        if descriptor > first:
            _close_range(first, descriptor - 1)
        first = descriptor + 1
    _close_range(first, 0x7FFFFFFF)


def _close_range(first: int, last: int) -> None:
    try:
        call("close_range", first, last, 0)
    except OSError:
        os.closerange(first, min(last, os.sysconf("SC_OPEN_MAX")) + 1)


def open_beneath(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """openat2 with RESOLVE_BENEATH: EXDEV when any step would leave `directory`.

    A relative `path`; symbolic links are followed as long as they stay below.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    name = ctypes.c_char_p(os.fsencode(path))
    return call("openat2", directory, name, how, len(how))


def loopback_up() -> None:
    """Bring `lo` up in the present network namespace; 127.0.0.1 and ::1 follow by themselves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
