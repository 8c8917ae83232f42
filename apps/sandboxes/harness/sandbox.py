"""One running sandbox, seen from sandboxd: its processes, its sockets, and how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.common.errors import Conflict, Invalid, NotFound, Unavailable
from apps.common.frames import FrameError, recv_frame, send_frame
from apps.sandboxes.harness import env, ipc
from apps.sandboxes.harness.config import NAMESPACE
from apps.sandboxes.harness.places import Places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.sandboxes.harness.cgroups import JobGroup, SandboxGroup
    from apps.sandboxes.harness.config import Limits
    from apps.sandboxes.harness.modes import Home

_PROXY_TIMEOUT = 5.0
_PROXY_GRACE = 0.75  # it writes its last audit events
_DEATH_TIMEOUT = 5.0


@dataclass(slots=True)
class Process:
    """A process of ours on the host: signalled and waited for without a race on its number."""

    pid: int
    handle: int

    def kill(self) -> None:
        """SIGKILL; nothing when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def ended(self, timeout: float) -> bool:
        """Whether it has ended, waiting up to `timeout` seconds."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def close(self) -> None:
        """Let go of the handle."""
        ipc.close_all([self.handle])


@dataclass(slots=True)
class Prepared:
    """A confined child of pid 1 that waits for a job on `requests`; its end comes on `status`."""

    status: socket.socket
    requests: socket.socket
    group: JobGroup | None

    def waits(self) -> bool:
        """False once it has ended: an agent may kill what runs as its user."""
        poll = select.poll()
        poll.register(self.status, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Let go of it; a child that still waits then ends."""
        self.requests.close()
        self.status.close()


@dataclass(slots=True, eq=False)
class Sandbox:
    """`failure` is "" while it runs, else why it is over. Methods are safe to call from threads.

    `jobs` is how many run now, `used` (monotonic) when the last one began or ended that a caller
    asked for. `sentinels` are what commands find in the environment in place of credentials, by the
    policy of now.
    """

    id: str
    slot: int
    limits: Limits
    env: Mapping[str, str]
    spool: str
    group: SandboxGroup | None = None
    init: Process | None = None
    proxy: Process | None = None
    control: socket.socket | None = None
    proxy_control: socket.socket | None = None
    report: list[dict[str, Any]] = field(default_factory=list)
    landlock: int = 0
    created_ms: float = 0.0
    failure: str = ""
    ready: bool = False
    jobs: int = 0
    used: float | None = None
    sentinels: Mapping[str, str] = field(default_factory=dict)
    mode: str = NAMESPACE
    places: Places = field(default_factory=Places)
    home: Home | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    _claimed: bool = False
    _spare: Prepared | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _proxy_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> str:
        """creating, ready or failed."""
        if self.failure:
            return "failed"
        return "ready" if self.ready else "creating"

    def claim_end(self, reason: str) -> bool:
        """Whether the caller is the one who ends it: true once, whoever comes first."""
        with self._lock:
            self.failure = self.failure or reason
            first, self._claimed = not self._claimed, True
        return first

    def take(self) -> Prepared:
        """A child for one job: the spare one, or one that pid 1 forks now. Raises Conflict."""
        with self._lock:
            prepared = self._next()
            self._count(1)
            return prepared

    def _next(self) -> Prepared:
        spare, self._spare = self._spare, None
        if spare is not None:
            if spare.waits():
                return spare
            self._drop(spare)
        return self._prepare()

    def refill(self, *, later: bool = False) -> None:
        """Have the next job's child forked; `later`: not beside a job that has just begun."""
        with self._lock, contextlib.suppress(Conflict, OSError):
            if self._spare is None:
                self._spare = self._prepare(later=later)

    def _prepare(self, *, later: bool = False) -> Prepared:
        if self.control is None or self.failure:
            raise self.gone()
        group = self.group.job() if self.group else None
        joined = group.open() if group is not None else []
        (status, theirs), (requests, child) = ipc.pair(), ipc.pair()
        prepared = Prepared(status, requests, group)
        try:
            fds = [theirs.fileno(), child.fileno(), *joined]
            ipc.send(self.control, {"op": "prepare", "later": later}, fds)
        except ipc.IpcError as error:
            self._drop(prepared)
            raise self.gone() from error
        finally:
            ipc.close_all(joined)
            theirs.close()
            child.close()
        return prepared

    def release(self, prepared: Prepared) -> None:
        """A job is over; its group goes as soon as nothing that it started runs."""
        with self._lock:
            self._count(-1)
            self._drop(prepared)

    def _count(self, change: int) -> None:
        self.jobs += change
        if self.ready:  # before that, it is tested by itself
            self.used = time.monotonic()

    def quiet_seconds(self) -> float | None:
        """For how long nothing has run: 0 while something does, None if nothing ever has."""
        with self._lock:
            if self.jobs:
                return 0.0
            return None if self.used is None else time.monotonic() - self.used

    def _drop(self, prepared: Prepared) -> None:
        prepared.close()
        if prepared.group is not None and self.group is not None:
            self.group.finished(prepared.group)

    def gone(self) -> Conflict:
        """The error of a sandbox that has ended under a call."""
        reason = self.failure or "stopped"
        return Conflict(f"the sandbox is over: {reason}", code="sandbox_stopped")

    def kill_job(self, prepared: Prepared) -> None:
        """End a job and all it started; without groups, every job of the sandbox."""
        if prepared.group is not None:
            prepared.group.kill()
            return
        with self._lock, contextlib.suppress(ipc.IpcError):
            if self.control is not None:
                ipc.send(self.control, {"op": "kill"})

    def apply(self, bundle: dict[str, Any]) -> int:
        """Give the proxy a policy bundle; the version it now enforces.

        Raises Invalid `bundle_refused`; a proxy that does not answer ends the sandbox.
        """
        return self._took(bundle, self._ask_proxy({"op": "bundle", "bundle": bundle}))

    def offer(self, bundle: dict[str, Any]) -> None:
        """The first half of `apply`, for the one who creates: the proxy reads while we go on."""
        self._ask_proxy({"op": "bundle", "bundle": bundle}, answered=False)

    def accepted(self, bundle: dict[str, Any]) -> int:
        """The second half."""
        return self._took(bundle, self._ask_proxy())

    def _took(self, bundle: dict[str, Any], answer: dict[str, Any]) -> int:
        if answer.get("op") != "applied":
            reason = str(answer.get("reason", "the proxy refused the bundle"))
            raise Invalid(reason, field="bundle", code="bundle_refused")
        self.sentinels = env.sentinels(bundle)
        return int(answer["version"])

    def cut(self) -> None:
        """Close every connection that runs through the proxy."""
        self._ask_proxy({"op": "cut"}, {"op": "ping"})

    def _ask_proxy(self, *messages: dict[str, Any], answered: bool = True) -> dict[str, Any]:
        """Send messages, of which the last is answered unless told otherwise; the answer."""
        answer: dict[str, Any] | None = {}
        with self._proxy_lock:
            if self.proxy_control is None or self.failure:
                raise self.gone()
            try:
                self.proxy_control.settimeout(_PROXY_TIMEOUT)
                for message in messages:
                    send_frame(self.proxy_control, message)
                if answered:
                    answer = recv_frame(self.proxy_control)
            except (OSError, FrameError) as error:
                self._fail_closed()
                raise Unavailable("the proxy does not answer", code="sandbox_failed") from error
        if answer is None:
            self._fail_closed()
            raise Unavailable("the proxy has ended", code="sandbox_failed")
        return answer

    def _fail_closed(self) -> None:
        """End the processes; the monitor sees that and removes the rest."""
        self.failure = self.failure or "proxy_failed"
        for process in (self.init, self.proxy):
            if process is not None:
                process.kill()

    def stop(self) -> None:
        """End every process, then remove what is left but a folder: see `clear`. Idempotent; called
        once per sandbox.

        Raises OSError if the kernel does not let go of a process within five seconds.
        """
        self.ready = False
        if self.init is not None and self.home is None:
            self.init.kill()
        self._close_sockets()
        self._await_end()
        if self.proxy is not None and not self.proxy.ended(_PROXY_GRACE):
            self.proxy.kill()
            self.proxy.ended(_DEATH_TIMEOUT)
        for process in (self.init, self.proxy):
            if process is not None:
                process.close()
        self.init = self.proxy = None
        if self.home is not None:
            self.home.end()
        with self._lock:
            group, self.group = self.group, None
        if group is not None:
            group.remove()

    def clear(self) -> None:
        """After `stop`: remove its folder, if it has one. OSError if that cannot be done."""
        home, self.home = self.home, None
        if home is not None:
            home.clear()

    def _await_end(self) -> None:
        """Without namespaces process 1 ends the others when its socket closes, and is given time
        for that; what it leaves all the same is ended when the folder is cleared."""
        if self.init is None or self.init.ended(_DEATH_TIMEOUT):
            return
        self.init.kill()
        if not self.init.ended(_DEATH_TIMEOUT):
            raise OSError("the sandbox's processes do not end")

    def _close_sockets(self) -> None:
        """Shut both control sockets down, which also wakes whoever waits on one."""
        for sock in (self.control, self.proxy_control):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            if self.control is not None:
                self.control.close()
            self.control = None
            if self._spare is not None:
                self._spare.close()
            self._spare = None
        with self._proxy_lock:
            if self.proxy_control is not None:
                self.proxy_control.close()
            self.proxy_control = None


def spool_directory(path: str, uid: int, gid: int) -> None:
    """Make the proxy's own audit folder: it writes, the control plane's group reads and deletes."""
    Path(path).mkdir(mode=0o700, exist_ok=True)
    folder = _open_folder(Path(path))
    try:
        _give_folder(folder, uid, gid)
    finally:
        os.close(folder)


def hand_over_spool(path: str, uid: int, gid: int) -> None:
    """After the proxy's end the folder is the control plane's; an empty one goes at once."""
    try:
        folder = _open_folder(Path(path))
    except OSError:
        return
    try:
        for name in os.listdir(folder):  # noqa: PTH208  of a descriptor
            if not os.stat(name, dir_fd=folder, follow_symlinks=False).st_size:
                os.unlink(name, dir_fd=folder)
        with contextlib.suppress(OSError):
            Path(path).rmdir()
            return
        _give_folder(folder, uid, gid)
    finally:
        os.close(folder)


def _open_folder(path: Path) -> int:
    """The folder itself. The one above belongs to the control plane, which could put a link to any
    folder of the host in its place: we are root and must not follow."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _give_folder(folder: int, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.fchown(folder, uid, gid)
    os.fchmod(folder, 0o2770)  # the group is the writer of the audit trail


def milliseconds_since(start: float) -> float:
    """Elapsed time for answers, from `time.monotonic()`."""
    return round((time.monotonic() - start) * 1000, 3)


def absent(sandbox_id: str) -> NotFound:
    """The error of an id that we do not have."""
    return NotFound(f"there is no sandbox {sandbox_id}", code="sandbox_not_found")
