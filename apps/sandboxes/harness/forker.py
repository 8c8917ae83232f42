"""A single-threaded process that forks on request: once for sandboxes, once for proxies.

sandboxd serves its API from threads, and neither `unshare` nor a fork of a threaded process is
sound. So two small processes are forked before its first thread: the *forker*, whose children leave
for their own namespaces, and the *zygote*, whose children become egress proxies. Both inherit what
they loaded and nothing of the API: no request, token or certificate is ever in their memory.

They end with sandboxd: its end of the socket closes, they exit.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from apps.sandboxes.harness import confine, ipc, syscalls

if TYPE_CHECKING:
    import socket

Child = Callable[[dict[str, Any], list[int]], None]


def fork(
    name: str, prepare: Callable[[], Child], inherited: tuple[socket.socket, ...]
) -> tuple[int, socket.socket]:
    """Fork a server whose children run what `prepare` returns; (its pid, our socket to it).

    `inherited` are sockets of the parent that the server must not keep open.
    """
    ours, theirs = ipc.pair()
    pid = os.fork()
    if pid == 0:
        for sock in (ours, *inherited):
            sock.close()
        _serve(name, theirs, prepare)
    theirs.close()
    return pid, ours


def _serve(name: str, requests: socket.socket, prepare: Callable[[], Child]) -> NoReturn:
    """First message out: `ready`, or `failed` with a reason. Then one fork per message in."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # ends with sandboxd, not before it
        confine.name_process(name)
        # A sandbox's first process is forked twice; it is collected here all the same.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        child = prepare()
        gc.collect()
        gc.freeze()
        ipc.send(requests, {"event": "ready"})
        _loop(requests, child)
    except ipc.IpcError:
        os._exit(0)
    except Exception as error:  # noqa: BLE001 whatever it is, sandboxd must hear and refuse
        with contextlib.suppress(ipc.IpcError):
            ipc.send(requests, {"event": "failed", "message": f"{type(error).__name__}: {error}"})
        os._exit(1)


def _loop(requests: socket.socket, child: Child) -> NoReturn:
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap()
        if requests.fileno() in ready:
            message, fds = ipc.receive(requests, None)
            _fork_one(requests, child, message, fds)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork_one(
    requests: socket.socket, child: Child, message: dict[str, Any], fds: list[int]
) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        ipc.send(requests, {"event": "failed", "message": f"fork: {error.strerror}"})
        ipc.close_all(fds)
        return
    if pid == 0:
        try:
            confine.reset_signals()
            syscalls.close_all_but({0, 1, 2, *fds})
            child(message, fds)
        finally:
            os._exit(1)
    handle = os.pidfd_open(pid)
    ipc.close_all(fds)
    try:
        ipc.send(requests, {"event": "forked", "pid": pid}, [handle])
    finally:
        os.close(handle)


class Client:
    """sandboxd's side of one server: requests go one at a time."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock

    def wait_ready(self, timeout: float) -> str:
        """ "" once the server is ready, else why it is not."""
        try:
            message, _ = ipc.receive(self.sock, timeout)
        except ipc.IpcError as error:
            return str(error)
        return "" if message.get("event") == "ready" else str(message.get("message", "failed"))

    def request(self, message: dict[str, Any], fds: list[int], timeout: float) -> tuple[int, int]:
        """Have one child forked; (its pid, a pidfd that the caller owns). Raises IpcError."""
        ipc.send(self.sock, message, fds)
        answer, handles = ipc.receive(self.sock, timeout)
        if answer.get("event") != "forked" or len(handles) != 1:
            ipc.close_all(handles)
            raise ipc.IpcError(str(answer.get("message", "no child was forked")))
        return answer["pid"], handles[0]
