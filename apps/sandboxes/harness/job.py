"""What a child of pid 1 does: become the agent, wait for its job, run it.

It is forked ahead of the job, so that what takes time (the fork, the control group, giving up
everything) is done when a command comes. And so nothing privileged ever parses what an agent wrote:
the request arrives, over a socket of this job alone, in a process that can do nothing any more.

Descriptors from pid 1: the status socket, on which a job that cannot start says why; the request
socket; and `cgroup.procs` of the job's group, where there are groups and the child is not in its
own by birth. With the request come: the
request itself (a memory file), output, errors, and the input if there is any.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from apps.sandboxes.harness import (
    confine,
    fetch,
    files,
    ipc,
    places,
    seccomp,
    selftest,
    shared_selftest,
    syscalls,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.sandboxes.harness.confine import Identity

_CANNOT_EXECUTE = 126
_FILTER = seccomp.build_for_jobs() if syscalls.supported_machine() else b""


def run(fds: list[int], identity: Identity) -> NoReturn:
    """Never returns: ends in execve or _exit."""
    status, requests = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
    try:
        _confine(fds, identity)
        message, received = ipc.receive(requests, None)
        requests.close()
        _tell(status, {"began": True})
        descriptor, *streams = received
        _place(streams)
        syscalls.close_all_but({0, 1, 2, status.fileno(), descriptor})
        KINDS[message["kind"]](_read_request(descriptor))
        os._exit(0)
    except JobError as error:
        _tell(status, {"error": error.code, "message": str(error)})
    except ipc.IpcError:
        os._exit(0)  # sandboxd does not want it any more
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


def _confine(fds: list[int], identity: Identity) -> None:
    """Own control group and session, no privilege, nothing open that is not for this job.

    Landlock and seccomp are on already: pid 1 is under them, and so is all that it forks. Only
    clone3 is left to refuse.
    """
    confine.name_process("lens-job")
    for group in fds[2:]:
        os.write(group, b"0")
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the only one that pid 1 handles
    syscalls.close_all_but({0, 1, 2, *fds[:2]})
    confine.become(identity, sorted(confine.PID_1_CAPABILITIES))
    seccomp.install(_FILTER)
    os.umask(0o022)


def _place(streams: list[int]) -> None:
    """Output, errors and input become 1, 2 and 0. Without input, 0 stays /dev/null."""
    output, errors, *source = streams
    os.dup2(output, 1)
    os.dup2(errors, 2)
    if source:
        os.dup2(source[0], 0)


def _read_request(descriptor: int) -> dict[str, Any]:
    with open(descriptor, "rb") as file:
        request: dict[str, Any] = json.loads(file.read())
    return request


def _execute(request: dict[str, Any]) -> None:
    """`sh -c command` in `workdir`; JobError `workdir_not_found`, `command_too_long`."""
    try:
        os.chdir(places.here().resolved(request["workdir"]))
    except OSError as error:
        raise JobError("workdir_not_found", f"workdir: {error.strerror}") from error
    command = [os.fsencode(part) for part in ("sh", "-c", request["command"])]
    try:
        os.execve("/bin/sh", command, request["env"])  # noqa: S606 a shell is what was asked for
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
    "selftest.shared": shared_selftest.run,
}
