"""End all that runs as a sandbox's user, and empty its folders: where no namespace does it for us.

A user that belongs to one sandbox is the best handle there is: one `kill(-1)` as that user reaches
every process of it at once, and none can be forked meanwhile. Where all is one user, the
descendants of the sandbox's first process are ended, who adopts what loses its parent.

Both run as the sandbox's user and without a capability: root never walks a tree that an agent made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from apps.sandboxes.harness import confine, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from apps.sandboxes.harness.confine import Identity

_ROUNDS = 200
_ROUND_SECONDS = 0.002
_END_SECONDS = 5.0
_ASKED = (b"State:", b"Uid:")


class StillRootError(Exception):
    """The user was not given up, so nothing is done in its name."""


def become(identity: Identity, bounding: Iterable[int]) -> None:
    """confine.become, and a second look before something is done to all of a user's processes."""
    confine.become(identity, bounding)
    ids = {*os.getresuid()}
    if ids != {identity.uid} or 0 in ids or _effective_capabilities():
        raise StillRootError


def _effective_capabilities() -> int:
    with Path("/proc/thread-self/status").open() as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))


def kill_user(identity: Identity) -> None:
    """SIGKILL to every process of the user, by a child that has become it.

    What runs as that user can end or stop the child first (`kill(-1)` in a loop). So it comes back
    until it has done its work, and between its tries root ends what it finds, one by one: whatever
    keeps still for long enough to defend itself. Raises StillRootError, OSError.
    """
    for _ in range(_ROUNDS):
        pid = os.fork()
        if pid == 0:
            _strike(identity)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        elif status == 0:
            return
        elif os.WIFEXITED(status):
            raise StillRootError
        _kill_found(identity.uid)
    raise OSError(errno.EBUSY, "the processes of a sandbox's user do not end")


def _strike(identity: Identity) -> NoReturn:
    """Become the user as the last step but one, since from then on the user's processes reach us.

    The only capability left by then is the one to change user; it goes with the change, and it does
    not make `kill(-1)` reach further. Exit code 1: nothing was done.
    """
    code = 1
    try:
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        syscalls.set_capabilities(frozenset({syscalls.CAP_SETUID}))
        if identity.uid and _effective_capabilities() == 1 << syscalls.CAP_SETUID:
            os.setresuid(identity.uid, identity.uid, identity.uid)
            if os.getresuid() == (identity.uid,) * 3:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
                code = 0
    finally:
        os._exit(code)


def _kill_found(uid: int) -> None:
    """SIGKILL to each process of the user, one by one."""
    for pid in _numbers():
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                # Read while we hold it, so that it is not another process's by now.
                if _runs_as(pid, uid):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def await_end(uid: int) -> None:
    """Until none of the user's processes, to each of which SIGKILL was sent, can do anything any
    more: one that is in the kernel first ends what it does there. Raises OSError after seconds."""
    until = time.monotonic() + _END_SECONDS
    while any(_runs_as(pid, uid) for pid in _numbers()):
        if time.monotonic() > until:
            raise OSError(errno.EBUSY, "the processes of a sandbox's user do not end")
        time.sleep(_ROUND_SECONDS)


def users() -> set[int]:
    """Who runs something."""
    return {uid for pid in _numbers() if (uid := _user(pid)) is not None}


def _runs_as(pid: int, uid: int) -> bool:
    return _user(pid) == uid


def _user(pid: int) -> int | None:
    """Whose it is; None where it is gone or a zombie. Not by the owner of its folder in /proc,
    which is root for one that is not dumpable."""
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/status").open("rb") as file:
        found = dict(line.split(None, 2)[:2] for line in file if line.startswith(_ASKED))
        return None if found[b"State:"] in b"ZX" else int(found[b"Uid:"])
    return None


def _numbers() -> list[int]:
    return [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]


def reaches(pid: int) -> bool:
    """Whether we may signal that process."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def kill_domain() -> None:
    """SIGKILL to all of our Landlock domain and those below it, at once. For a caller who has seen
    that the domain keeps its signals inside: without that, to all that runs as its user."""
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)


def kill_descendants(root: int) -> None:
    """SIGKILL to all that descends from `root`, until nothing of it is left that is no zombie."""
    for _ in range(_ROUNDS):
        running = list(_descendants(root))
        if not running:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_ROUND_SECONDS)


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name, in brackets, may hold anything.
                state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(place.name))
    waiting = [root]
    while waiting:
        found = children.get(waiting.pop(), [])
        yield from found
        waiting += found


def empty(folder: str, alive: Callable[[], None] = lambda: None) -> None:
    """Remove all that is below `folder`, whatever its modes, names and depth; `alive` is called for
    each thing.

    A folder within a folder is moved up before it is emptied, so depth costs neither stack nor
    descriptors nor a long path.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        moved = 0
        while names := os.listdir(top):  # noqa: PTH208 of a descriptor
            for name in names:
                alive()
                if not _is_folder(top, name):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    moved = _lift(below, top, moved, alive)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _lift(below: int, top: int, moved: int, alive: Callable[[], None]) -> int:
    """Unlink the files of `below` and move its folders up to `top`; how many were moved so far."""
    for name in os.listdir(below):
        alive()
        if not _is_folder(below, name):
            os.unlink(name, dir_fd=below)
            continue
        os.chmod(name, 0o700, dir_fd=below)
        while True:
            moved += 1
            try:
                os.rename(name, f".gone-{moved}", src_dir_fd=below, dst_dir_fd=top)
                break
            except (FileExistsError, NotADirectoryError):
                continue  # the agent has used that name
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
    return moved


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
