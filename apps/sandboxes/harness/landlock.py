"""Landlock: what the sandbox may write, whatever the permission bits say.

Everything below `/` may be read and executed (the root holds only what we put there); writing is
for the paths named. Network rules are not used: the namespace has no way out, and servers on the
private loopback are wanted. Source: Documentation/userspace-api/landlock.rst.
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
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ABI_1 = (1 << 13) - 1  # execute … make_sym
_READ = EXECUTE | READ_FILE | READ_DIR
_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # what a rule on a file may name
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


def ruleset(writable: Iterable[str], *, version: int) -> int:
    """A ruleset descriptor: read and execute everywhere, all rights below `writable`.

    Signals and abstract sockets are confined to the domain too (ABI 6). Paths that are not there
    are left out. The caller closes the descriptor.
    """
    rights = handled(version)
    scope = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if version >= 6 else 0
    attributes = struct.pack("=QQQ", rights, 0, scope)
    length = 24 if version >= 6 else 8
    descriptor = syscalls.call("landlock_create_ruleset", attributes, length, 0)
    _allow(descriptor, "/", rights & _READ)
    for path in writable:
        if Path(path).exists():
            _allow(descriptor, path, rights if Path(path).is_dir() else rights & _FILE)
    return descriptor


def _allow(descriptor: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, parent)
        syscalls.call("landlock_add_rule", descriptor, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(parent)


def restrict(descriptor: int) -> None:
    """Put the caller and its children under the ruleset, for good. Needs no_new_privs."""
    syscalls.call("landlock_restrict_self", descriptor, 0)
