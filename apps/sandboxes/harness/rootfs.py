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
_ROOT_USER = "root:x:0:0:root:/nonexistent:/usr/sbin/nologin"
_NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
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
        _bind_read_only(path, root)
    for path in _LINKED:
        _link_or_bind(path, root)
    _devices(root, layout)
    _proc(root)
    _etc(root, layout)
    _writable(root, layout)


def trust(root: str, authority: bytes, bundle: bytes) -> None:
    """Write the sandbox's authority, alone and behind the host's `bundle`."""
    _write(Path(root + env.SANDBOX_CA), authority)
    _write(Path(root + env.CA_BUNDLE), bundle + b"\n" + authority)
    for link in _TRUST_LINKS:
        place = Path(root + link)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(env.CA_BUNDLE)


def enter(root: str) -> None:
    """Make the tree the root of this mount namespace, read-only, and drop the host's."""
    os.chdir(root)
    syscalls.mount("none", root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _QUIET)
    syscalls.pivot_root(".", ".")
    syscalls.unmount(".")
    os.chdir("/")


def _bind_read_only(source: str, root: str) -> None:
    """A recursive bind that is read-only, without set-uid programs and devices, all the way."""
    target = root + source
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        _write(Path(target), b"")
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


def _link_or_bind(source: str, root: str) -> None:
    """/bin and its like: a link into /usr on a merged system, else a directory of their own."""
    place = Path(source)
    if place.is_symlink():
        Path(root + source).symlink_to(place.readlink())
    elif place.is_dir():
        _bind_read_only(source, root)


def _devices(root: str, layout: Layout) -> None:
    """A few nodes of the host's /dev, terminals of our own, and shared memory."""
    dev = Path(root, "dev")
    dev.mkdir()
    flags = MS_NOSUID | MS_NOEXEC
    syscalls.mount("dev", str(dev), "tmpfs", flags, "mode=0755,size=64k,nr_inodes=64")
    for name in _DEVICES:
        _write(dev / name, b"")
        syscalls.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    (dev / "pts").mkdir()
    syscalls.mount("devpts", f"{dev}/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620")
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    _tmpfs(dev / "shm", layout, size=layout.shm_bytes, inodes=1024, flags=_QUIET | MS_NOEXEC)
    syscalls.mount("none", str(dev), None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _proc(root: str) -> None:
    """The processes of this pid namespace, each user seeing its own only."""
    proc = Path(root, "proc")
    proc.mkdir()
    syscalls.mount("proc", str(proc), "proc", _QUIET | MS_NOEXEC, "hidepid=2")
    for name in _PROC_READ_ONLY:
        if (proc / name).exists():
            path = f"{proc}/{name}"
            syscalls.mount(path, path, None, MS_BIND)
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | _QUIET | MS_NOEXEC
            syscalls.mount("none", path, None, flags)
    for name in _PROC_HIDDEN:
        if (proc / name).exists():
            syscalls.mount("/dev/null", f"{proc}/{name}", None, MS_BIND)


def _etc(root: str, layout: Layout) -> None:
    etc = Path(root, "etc")
    for path in _COPIED:
        with contextlib.suppress(OSError):
            _write(Path(root + path), Path(path).read_bytes())
    for path in _BOUND:
        if Path(path).is_dir():
            _bind_read_only(path, root)
    agent = f"agent:x:{layout.uid}:{layout.gid}:agent:{env.WORKSPACE}:/bin/sh"
    _write(etc / "passwd", f"{_ROOT_USER}\n{agent}\n{_NOBODY}\n".encode())
    _write(etc / "group", f"root:x:0:\nagent:x:{layout.gid}:\nnogroup:x:65534:\n".encode())
    _write(etc / "hosts", b"127.0.0.1 localhost sandbox\n::1 localhost sandbox\n")
    _write(etc / "hostname", b"sandbox\n")
    # No resolver: names are looked up by the proxy. Files only, so that a look-up fails at once.
    _write(etc / "resolv.conf", b"")
    _write(etc / "nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\n")


def _writable(root: str, layout: Layout) -> None:
    """The places that the agent may write: workspace and /tmp; /dev/shm was made above."""
    size, inodes = layout.workspace_bytes, layout.workspace_inodes
    _tmpfs(Path(root + env.WORKSPACE), layout, size=size, inodes=inodes, flags=_QUIET)
    size, inodes = layout.tmp_bytes, layout.tmp_inodes
    _tmpfs(Path(root, "tmp"), layout, size=size, inodes=inodes, flags=_QUIET)
    Path(root, "var").mkdir()
    Path(root, "var/tmp").symlink_to("/tmp")  # noqa: S108 the sandbox's own


def _tmpfs(path: Path, layout: Layout, *, size: int, inodes: int, flags: int) -> None:
    path.mkdir()
    options = f"mode=0700,uid={layout.uid},gid={layout.gid},size={size},nr_inodes={inodes}"
    syscalls.mount("tmpfs", str(path), "tmpfs", flags, options)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
