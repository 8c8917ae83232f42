"""Landlock: what the sandbox may read and write, whatever the permission bits say.

In a root of its own, everything may be read and executed (it holds only what we put there);
writing is for the paths named. Network rules are not used there: the namespace has no way out, and
servers on the private loopback are wanted. Where there are no namespaces, reading is for paths
named too, and TCP for the proxy's port. Source: Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from apps.sandboxes.harness import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
NETWORK_ABI = 4  # the first that governs TCP
SCOPE_ABI = 6  # the first that keeps signals inside
_ANYWHERE = ("/",)

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ABI_1 = (1 << 13) - 1  # execute … make_sym
_READ = EXECUTE | READ_FILE | READ_DIR
_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # what a rule on a file may name
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1 << 0, 1 << 1


def abi() -> int:
    """The kernel's Landlock version; 0 when it has none or it is not enabled at boot."""
    try:
        return syscalls.call("landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def handled(version: int) -> int:
    """The file rights that this ABI version can govern: all of them are."""
    rights = _ABI_1
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


def ruleset(
    writable: Iterable[str],
    *,
    version: int,
    readable: Iterable[str] = _ANYWHERE,
    port: int | None = None,
) -> int:
    """A ruleset descriptor: read and execute below `readable`, all rights below `writable`.

    With a `port`, TCP connections go to that port alone (at any address) and no port is bound
    (ABI 4). Signals and abstract sockets are confined to the domain too (ABI 6). Paths that are not
    there, or out of the caller's reach, are left out. The caller closes the descriptor.
    """
    rights = handled(version)
    network = _BIND_TCP | _CONNECT_TCP if port is not None and version >= NETWORK_ABI else 0
    scope = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if version >= SCOPE_ABI else 0
    attributes = struct.pack("=QQQ", rights, network, scope)
    length = 24 if version >= SCOPE_ABI else 16 if version >= NETWORK_ABI else 8
    descriptor = syscalls.call("landlock_create_ruleset", attributes, length, 0)
    for paths, granted in ((readable, rights & _READ), (writable, rights)):
        for path in paths:
            _allow(descriptor, path, granted)
    if network:
        rule = struct.pack("=QQ", _CONNECT_TCP, port)
        _add(descriptor, _RULE_NET_PORT, rule)
    return descriptor


def signals_only() -> int:
    """A ruleset descriptor that keeps signals inside (ABI 6) and changes nothing else."""
    attributes = struct.pack("=QQQ", 0, 0, _SCOPE_SIGNAL)
    return syscalls.call("landlock_create_ruleset", attributes, len(attributes), 0)


def _allow(descriptor: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return  # what the caller cannot get to needs no rule
    try:
        rights &= -1 if Path(path).is_dir() else _FILE
        _add(descriptor, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, parent))
    finally:
        os.close(parent)


def _add(descriptor: int, kind: int, rule: bytes) -> None:
    syscalls.call("landlock_add_rule", descriptor, kind, ctypes.c_char_p(rule), 0)


def restrict(descriptor: int) -> None:
    """Put the caller and its children under the ruleset, for good. Needs no_new_privs."""
    syscalls.call("landlock_restrict_self", descriptor, 0)
