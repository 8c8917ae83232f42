"""The file tree of a sandbox: a tmpfs that holds the system read-only and nothing of the host.

`build` runs in the sandbox's own mount namespace, in two steps around the arrival of the
certificate authority, and `enter` makes it the root and lets go of the old one. What is not put
here does not exist inside: no /sys, no host directory, no socket of the host.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.sandboxes.harness import env, syscalls
from apps.sandboxes.harness.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_COPIED = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/mime.types",
    "/etc/ssl/openssl.cnf",
    "/etc/debian_version",
)
_BOUND = ("/etc/alternatives", "/etc/ld.so.conf.d")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# Kernel knobs and windows in /proc: root-owned already, made unreachable all the same.
_PROC_READ_ONLY = ("sys", "bus", "fs", "irq", "sysrq-trigger")
_PROC_HIDDEN = ("kcore", "keys", "key-users", "kallsyms", "timer_list", "sched_debug", "kmsg")
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_TRUST_LINKS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
)
_QUIET = MS_NOSUID | MS_NODEV


@dataclass(frozen=True, slots=True)
class Layout:
    """What the tree of one sandbox depends on. Sizes in bytes."""

    mount_point: str
    system_paths: Sequence[str]
    uid: int
    gid: int
    workspace_bytes: int
    workspace_inodes: int
    tmp_bytes: int
    tmp_inodes: int
    shm_bytes: int


def system_bundle() -> bytes:
    """The host's certificate bundle, empty when it has none."""
    for path in _SYSTEM_BUNDLES:
        with contextlib.suppress(OSError):
            return Path(path).read_bytes()
    return b""


def build(layout: Layout) -> None:
    """Mount the tree below `layout.mount_point`; everything but the certificates."""
    syscalls.mount("none", "/", None, MS_REC | MS_PRIVATE)
    root = layout.mount_point
    syscalls.mount("root", root, "tmpfs", _QUIET, "mode=0755,size=4m,nr_inodes=1024")
    for path in layout.system_paths:
        _bind_read_only(path, root + path)
    for path in _LINKED:
        _link_or_bind(path, root + path)
    _devices(root, layout)
    _proc(root)
    _etc(root, layout)
    _writable(root, layout)


def trust(root: str, authority: bytes, bundle: bytes) -> None:
    """Write the sandbox's authority, alone and behind the host's `bundle`."""
    _write(root + env.SANDBOX_CA, authority)
    _write(root + env.CA_BUNDLE, bundle + b"\n" + authority)
    for link in _TRUST_LINKS:
        os.makedirs(os.path.dirname(root + link), exist_ok=True)
        os.symlink(env.CA_BUNDLE, root + link)


def enter(root: str) -> None:
    """Make the tree the root of this mount namespace, read-only, and drop the host's."""
    os.chdir(root)
    syscalls.mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _QUIET)
    syscalls.pivot_root(".", ".")
    syscalls.unmount(".")
    os.chdir("/")


def _bind_read_only(source: str, target: str) -> None:
    """A recursive bind that is read-only, without set-uid programs and devices, all the way."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        _write(target, b"")
    flags = MS_RDONLY | _QUIET
    syscalls.mount(source, target, None, MS_BIND | MS_REC)
    try:
        syscalls.mount_attributes(target, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        # Before Linux 5.12 only the top mount can be changed, so only it is brought along.
        syscalls.unmount(target)
        syscalls.mount(source, target, None, MS_BIND)
        syscalls.mount("none", target, None, MS_REMOUNT | MS_BIND | flags)


def _link_or_bind(source: str, target: str) -> None:
    """/bin and its like: a link into /usr on a merged system, else a directory of their own."""
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        _bind_read_only(source, target)


def _devices(root: str, layout: Layout) -> None:
    """A few nodes of the host's /dev, terminals of our own, and shared memory."""
    dev = root + "/dev"
    os.mkdir(dev)
    flags = MS_NOSUID | MS_NOEXEC
    syscalls.mount("dev", dev, "tmpfs", flags, "mode=0755,size=64k,nr_inodes=64")
    for name in _DEVICES:
        _write(f"{dev}/{name}", b"")
        syscalls.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    os.mkdir(dev + "/pts")
    syscalls.mount("devpts", dev + "/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    os.symlink("pts/ptmx", dev + "/ptmx")
    os.symlink("/proc/self/fd", dev + "/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")
    _tmpfs(dev + "/shm", layout, size=layout.shm_bytes, inodes=1024, flags=_QUIET | MS_NOEXEC)
    syscalls.mount("none", dev, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _proc(root: str) -> None:
    """The processes of this pid namespace, each user seeing its own only."""
    proc = root + "/proc"
    os.mkdir(proc)
    syscalls.mount("proc", proc, "proc", _QUIET | MS_NOEXEC, "hidepid=2")
    for name in _PROC_READ_ONLY:
        path = f"{proc}/{name}"
        if os.path.exists(path):
            syscalls.mount(path, path, None, MS_BIND)
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | _QUIET | MS_NOEXEC
            syscalls.mount("none", path, None, flags)
    for name in _PROC_HIDDEN:
        if os.path.exists(f"{proc}/{name}"):
            syscalls.mount("/dev/null", f"{proc}/{name}", None, MS_BIND)


def _etc(root: str, layout: Layout) -> None:
    for path in _COPIED:
        with contextlib.suppress(OSError):
            _write(root + path, Path(path).read_bytes())
    for path in _BOUND:
        if os.path.isdir(path):
            _bind_read_only(path, root + path)
    _write(
        root + "/etc/passwd",
        b"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
        + f"agent:x:{layout.uid}:{layout.gid}:agent:{env.WORKSPACE}:/bin/sh\n".encode()
        + b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    )
    _write(
        root + "/etc/group",
        f"root:x:0:\nagent:x:{layout.gid}:\nnogroup:x:65534:\n".encode(),
    )
    _write(root + "/etc/hosts", b"127.0.0.1 localhost sandbox\n::1 localhost sandbox\n")
    _write(root + "/etc/hostname", b"sandbox\n")
    # No resolver: names are looked up by the proxy. Files only, so that a look-up fails at once.
    _write(root + "/etc/resolv.conf", b"")
    _write(root + "/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n")


def _writable(root: str, layout: Layout) -> None:
    """The three places that the agent may write: workspace, /tmp and (made above) /dev/shm."""
    _tmpfs(
        root + env.WORKSPACE,
        layout,
        size=layout.workspace_bytes,
        inodes=layout.workspace_inodes,
        flags=_QUIET,
    )
    _tmpfs(root + "/tmp", layout, size=layout.tmp_bytes, inodes=layout.tmp_inodes, flags=_QUIET)
    os.makedirs(root + "/var", exist_ok=True)
    os.symlink("/tmp", root + "/var/tmp")  # noqa: S108 the sandbox's own


def _tmpfs(path: str, layout: Layout, *, size: int, inodes: int, flags: int) -> None:
    os.mkdir(path)
    options = f"mode=0700,uid={layout.uid},gid={layout.gid},size={size},nr_inodes={inodes}"
    syscalls.mount("tmpfs", path, "tmpfs", flags, options)


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
