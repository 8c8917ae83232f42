"""What a child of pid 1 does: become the agent, then run the one job it was forked for.

Descriptors arrive in a fixed order: status, request, output, errors, then an input if the message
says so, and `cgroup.procs` of the job's group where there are groups. The request is read only
after everything is dropped, so no privileged process ever parses what an agent wrote.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from apps.sandboxes.harness import confine, fetch, files, ipc, landlock, selftest, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.sandboxes.harness.confine import Identity

_CANNOT_EXECUTE = 126
_OOM_SCORE = "900"


def run(
    message: dict[str, Any], fds: list[int], identity: Identity, restriction: int | None
) -> NoReturn:
    """Never returns: ends in execve or _exit. A step that fails is told over the status socket."""
    status = socket.socket(fileno=fds[0])
    try:
        _confine(fds, identity, restriction, has_input=message["input"])
        request = _read_request(fds[1])
        KINDS[message["kind"]](request)
        os._exit(0)
    except JobError as error:
        _tell(status, {"error": error.code, "message": str(error)})
    except OSError as error:
        _tell(status, {"error": "job_failed", "message": f"{error}"})
    finally:
        os._exit(_CANNOT_EXECUTE)


class JobError(Exception):
    """The job cannot start; `code` is what the caller sees."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _tell(status: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(ipc.IpcError):
        ipc.send(status, message)


def _confine(
    fds: list[int], identity: Identity, restriction: int | None, *, has_input: bool
) -> None:
    """Own session and control group, standard streams, nothing else open, nothing else allowed."""
    status, request, output, errors, *rest = fds
    source = rest.pop(0) if has_input else os.open("/dev/null", os.O_RDONLY)
    for group in rest:
        os.write(group, b"0")
    os.setsid()
    confine.reset_signals()
    with contextlib.suppress(OSError):  # rootless: our /proc belongs to root; the score stays 500
        _prefer_for_oom()
    for stream, descriptor in enumerate((source, output, errors)):
        os.dup2(descriptor, stream)
    syscalls.close_all_but({0, 1, 2, status, request, *([restriction] if restriction else [])})
    confine.become(identity)
    if restriction:
        landlock.restrict(restriction)
        os.close(restriction)
    os.umask(0o022)


def _prefer_for_oom() -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)


def _read_request(descriptor: int) -> dict[str, Any]:
    with open(descriptor, "rb") as file:
        request: dict[str, Any] = json.loads(file.read())
    return request


def _execute(request: dict[str, Any]) -> None:
    """`sh -c command` in `workdir`; JobError `workdir_not_found`, `command_too_long`."""
    try:
        os.chdir(request["workdir"])
    except OSError as error:
        raise JobError("workdir_not_found", f"workdir: {error.strerror}") from error
    command = [os.fsencode(part) for part in ("sh", "-c", request["command"])]
    try:
        os.execve("/bin/sh", command, request["env"])
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise JobError(
                "command_too_long", "the command and its environment are too long"
            ) from error
        raise


KINDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "exec": _execute,
    "files.read": files.read,
    "files.write": files.write,
    "files.list": files.listing,
    "fetch": fetch.run,
    "selftest": selftest.run,
}
