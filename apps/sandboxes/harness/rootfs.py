"""The file tree of a sandbox: a tmpfs that holds the system read-only and nothing of the host.

What is the same in every sandbox is built once, as a template: `/usr`, devices, settings, empty
places to mount on. The forker has it mounted, read-only to the superblock, in a mount namespace of
its own, of which each sandbox begins with a copy. `build` mounts what is a sandbox's own: its
processes, terminals, workspace, trust. `enter` makes the tree the root and lets go of the host's.
What is not put here does not exist inside: no /sys, no host directory, no socket of the host.

Without root there is no such namespace to copy, and each sandbox builds the template for itself.
"""

from __future__ import annotations

import contextlib
import errno
import functools
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
    MS_SLAVE,
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
_OWN = "/etc/lens"  # what of /etc is the sandbox's own
_USERS, _GROUPS = f"{_OWN}/passwd", f"{_OWN}/group"
_SETTINGS = {
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "hostname": "sandbox\n",
    # No resolver: names are looked up by the proxy. Files only, so that a look-up fails at once.
    "resolv.conf": "",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_ROOT_USER = "root:x:0:0:root:/nonexistent:/usr/sbin/nologin"
_NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
_QUIET = MS_NOSUID | MS_NODEV
_CLOSED = _QUIET | MS_NOEXEC


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


@functools.cache
def system_bundle() -> bytes:
    """The host's certificate bundle, empty when it has none; read once."""
    for path in _SYSTEM_BUNDLES:
        with contextlib.suppress(OSError):
            return Path(path).read_bytes()
    return b""


def template(root: str, system_paths: Sequence[str]) -> None:
    """Mount at `root` what all sandboxes share.

    What the host unmounts must go from this namespace too, or it would stay in use for as long as
    sandboxd runs; but nothing that it mounts may ever turn up in the tree.
    """
    syscalls.mount("none", "/", None, MS_REC | MS_SLAVE)
    syscalls.mount("root", root, "tmpfs", _QUIET, "mode=0755,size=4m,nr_inodes=1024")
    for path in system_paths:
        _bind_read_only(path, root)
    for path in _LINKED:
        _link_or_bind(path, root)
    for path in ("proc", "tmp", "var", env.WORKSPACE.strip("/")):
        Path(root, path).mkdir()
    Path(root, "var/tmp").symlink_to("/tmp")  # noqa: S108 the sandbox's own
    _devices(root)
    _etc(root)
    syscalls.mount("none", root, None, MS_REC | MS_PRIVATE)
    syscalls.mount("none", root, None, MS_REMOUNT | MS_RDONLY | _QUIET)


def build(layout: Layout) -> None:
    """Mount below `layout.mount_point`, where the template is, what is one sandbox's own."""
    root = layout.mount_point
    _proc(f"{root}/proc")
    options = "newinstance,ptmxmode=0666,mode=0620"
    syscalls.mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    own = f"mode=0700,uid={layout.uid},gid={layout.gid}"
    for place, size, inodes, flags in (
        ("dev/shm", layout.shm_bytes, 1024, _CLOSED),
        ("workspace", layout.workspace_bytes, layout.workspace_inodes, _QUIET),
        ("tmp", layout.tmp_bytes, layout.tmp_inodes, _QUIET),
    ):
        options = f"{own},size={size},nr_inodes={inodes}"
        syscalls.mount("tmpfs", f"{root}/{place}", "tmpfs", flags, options)
    syscalls.mount("lens", root + _OWN, "tmpfs", _CLOSED, "mode=0755,size=4m,nr_inodes=16")
    agent = f"agent:x:{layout.uid}:{layout.gid}:agent:{env.WORKSPACE}:/bin/sh"
    _write(root + _USERS, f"{_ROOT_USER}\n{agent}\n{_NOBODY}\n".encode())
    _write(root + _GROUPS, f"root:x:0:\nagent:x:{layout.gid}:\nnogroup:x:65534:\n".encode())


def trust(root: str, authority: bytes) -> None:
    """Write the sandbox's authority, alone and behind the host's; nothing is written after it."""
    _write(root + env.SANDBOX_CA, authority)
    _write(root + env.CA_BUNDLE, system_bundle() + b"\n" + authority)
    syscalls.mount("none", root + _OWN, None, MS_REMOUNT | MS_RDONLY | _CLOSED)


def enter(root: str) -> None:
    """Make the tree the root of this mount namespace and drop the host's."""
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.unmount(".")
    os.chdir("/")


def _bind_read_only(source: str, root: str) -> None:
    """A recursive bind that is read-only, without set-uid programs and devices, all the way."""
    target = root + source
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
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


def _link_or_bind(source: str, root: str) -> None:
    """/bin and its like: a link into /usr on a merged system, else a directory of their own."""
    place = Path(source)
    if place.is_symlink():
        Path(root + source).symlink_to(place.readlink())
    elif place.is_dir():
        _bind_read_only(source, root)


def _devices(root: str) -> None:
    """A few nodes of the host's /dev, and places for terminals and shared memory."""
    dev = Path(root, "dev")
    dev.mkdir()
    flags = MS_NOSUID | MS_NOEXEC
    syscalls.mount("dev", str(dev), "tmpfs", flags, "mode=0755,size=64k,nr_inodes=64")
    for name in _DEVICES:
        _write(f"{dev}/{name}", b"")
        syscalls.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    (dev / "pts").mkdir()
    (dev / "shm").mkdir()
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    syscalls.mount("none", str(dev), None, MS_REMOUNT | MS_RDONLY | flags)


def _etc(root: str) -> None:
    """Settings of the host that tools need, ours for names and users, and who is trusted."""
    Path(root + _OWN).mkdir(parents=True)
    for path in _COPIED:
        with contextlib.suppress(OSError):
            _write_below(root, path, Path(path).read_bytes())
    for path in _BOUND:
        if Path(path).is_dir():
            _bind_read_only(path, root)
    for name, text in _SETTINGS.items():
        _write_below(root, f"/etc/{name}", text.encode())
    links = dict.fromkeys(_TRUST_LINKS, env.CA_BUNDLE)
    for link, place in {**links, "/etc/passwd": _USERS, "/etc/group": _GROUPS}.items():
        Path(root + link).parent.mkdir(parents=True, exist_ok=True)
        Path(root + link).symlink_to(place)


def _proc(proc: str) -> None:
    """The processes of this pid namespace, each user seeing its own only."""
    syscalls.mount("proc", proc, "proc", _CLOSED, "hidepid=2")
    for name in _PROC_READ_ONLY:
        with contextlib.suppress(FileNotFoundError):
            syscalls.mount(f"{proc}/{name}", f"{proc}/{name}", None, MS_BIND)
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | _CLOSED
            syscalls.mount("none", f"{proc}/{name}", None, flags)
    for name in _PROC_HIDDEN:
        with contextlib.suppress(FileNotFoundError):
            syscalls.mount("/dev/null", f"{proc}/{name}", None, MS_BIND)


def _write_below(root: str, path: str, content: bytes) -> None:
    Path(root + path).parent.mkdir(parents=True, exist_ok=True)
    _write(root + path, content)


def _write(path: str, content: bytes) -> None:
    """Make a file that is not there yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
