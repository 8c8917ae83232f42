"""A single-threaded process that forks on request: once for sandboxes, once for proxies.

sandboxd serves its API from threads, and neither `unshare` nor a fork of a threaded process is
sound. So two small processes are forked before its first thread: the *forker*, whose children begin
in namespaces of their own, and the *zygote*, whose children become egress proxies. Both inherit
what they loaded and nothing of the API: no request, token or certificate is ever in their memory.

Nothing is answered on the socket of the requests, which sandboxd's threads share: the first
descriptor of a request is a socket of the caller's own, on which the server tells whom it forked
and the child speaks from then on. So no two requests can get each other's answer, and a caller may
do something else meanwhile.

They end with sandboxd: its end of the socket closes, they exit.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from apps.sandboxes.harness import confine, ipc, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable


def _fork(_: dict[str, Any], __: list[int]) -> int:
    return os.fork()


@dataclass(frozen=True, slots=True)
class Children:
    """How a server's children come about and what they do; both get the request and its
    descriptors, of which `fork` may take away (and close) those that only it uses."""

    run: Callable[[dict[str, Any], list[int]], None]
    fork: Callable[[dict[str, Any], list[int]], int] = _fork


class FailedError(Exception):
    """A step of making or building a child failed; `message` is how sandboxd is told."""

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(step)
        self.message = ipc.failure(step, error)


def fork(
    name: str, prepare: Callable[[], Children], inherited: tuple[socket.socket, ...]
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


def _serve(name: str, requests: socket.socket, prepare: Callable[[], Children]) -> NoReturn:
    """First message out: `ready`, or `failed` with a reason. Then one fork per message in."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # ends with sandboxd, not before it
        confine.name_process(name)
        children = prepare()
        gc.collect()
        gc.freeze()
        ipc.send(requests, {"event": "ready"})
        _loop(requests, children)
    except ipc.IpcError:
        os._exit(0)
    except Exception as error:  # noqa: BLE001 whatever it is, sandboxd must hear and refuse
        with contextlib.suppress(ipc.IpcError):
            ipc.send(requests, {"event": "failed", "message": f"{type(error).__name__}: {error}"})
        os._exit(1)


def _loop(requests: socket.socket, children: Children) -> NoReturn:
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    handled = confine.handled_signals()
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
            _fork_one(children, handled, message, fds)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork_one(
    children: Children,
    handled: tuple[signal.Signals | int, ...],
    message: dict[str, Any],
    fds: list[int],
) -> None:
    """Fork, and tell the caller; one that has given up meanwhile costs nothing but the child."""
    answers = socket.socket(fileno=os.dup(fds[0]))
    try:
        pid = children.fork(message, fds)
    except (FailedError, OSError) as error:
        told = error.message if isinstance(error, FailedError) else ipc.failure("fork", error)
        _tell(answers, told)
        ipc.close_all(fds)
        return
    if pid == 0:
        try:
            confine.reset_signals(handled)
            syscalls.close_all_but({0, 1, 2, *fds})
            children.run(message, fds)
        finally:
            os._exit(1)
    handle = os.pidfd_open(pid)
    ipc.close_all(fds)
    _tell(answers, {"event": "forked", "pid": pid}, handle)
    os.close(handle)


def _tell(answers: socket.socket, message: dict[str, Any], *handles: int) -> None:
    with contextlib.suppress(ipc.IpcError):
        ipc.send(answers, message, handles)
    answers.close()


class Client:
    """sandboxd's side of one server. Requests may come from any thread."""

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

    def request(self, message: dict[str, Any], fds: list[int]) -> None:
        """Have one child forked; what becomes of it is told on `fds[0]`. Raises IpcError."""
        ipc.send(self.sock, message, fds)

    def close(self) -> None:
        """Let it end."""
        self.sock.close()
