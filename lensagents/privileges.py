"""Who the platform runs as. Started by root, it keeps root for nothing but its sandbox host.

Standard library only: settings use it before Django is there.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Final

# No distribution hands this id out: users end at 60000, systemd's dynamic ones begin at 61184.
SERVICE_UID: Final = 60_700


def service_user(data_dir: Path) -> tuple[int, int]:
    """Whom root should become: the owner of the data folder, or a service id when that is root."""
    status = data_dir.stat()
    return (status.st_uid, status.st_gid) if status.st_uid else (SERVICE_UID, SERVICE_UID)


def can_run_as(uid: int, gid: int, paths: list[Path]) -> str:
    """Empty when that user can read the interpreter and all `paths`, else the first it cannot.

    Asked of the kernel in a forked child, so that ACLs and mount options count too. Call it before
    the first thread starts.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _become(uid, gid)
            os.write(writer, _first_refused(paths).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def give(path: Path, uid: int, gid: int) -> None:
    """Let that user own a file or folder that root made; anything else is left alone.

    The folder may be writable by that user, who could have put a link in place of a file: links are
    not followed, and a file with a second name is not given away.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(descriptor)
        plain = stat.S_ISDIR(status.st_mode) or (
            stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        )
        if plain and status.st_uid == 0:
            os.fchown(descriptor, uid, gid)
    finally:
        os.close(descriptor)


def drop_to(uid: int, gid: int) -> None:
    """Give up root for good: no supplementary groups, and no way back."""
    _become(uid, gid)


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _first_refused(paths: list[Path]) -> str:
    """The interpreter's library counts too: it may lie in a home that only root enters."""
    for path in (Path(sys.executable), Path(str(os.__file__)), *paths):
        if not os.access(path, os.R_OK):
            return str(path)
    return ""
