"""Process 1 of a sandbox: builds it from the inside, then starts what sandboxd asks for.

It reads two things: short messages of sandboxd (never an agent's bytes, which only the children
see, after they have dropped everything) and the end of its children. When sandboxd's end of the
control socket closes, for whatever reason, it exits, and the kernel ends every process of the
namespace with it.

Messages in: `trust` (with the authority's certificate), then any number of `prepare` (with the
descriptors of a job to come; `later`: when the present one has ended or takes long) and `kill`.
Out, while it is being built: `listeners`, `ready`, or `failed` with the step and errno.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import resource
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.sandboxes.harness import (
    confine,
    env,
    fetch,
    forker,
    ipc,
    job,
    landlock,
    rootfs,
    seccomp,
    syscalls,
)
from apps.sandboxes.harness.confine import Identity
from apps.sandboxes.harness.forker import FailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BUILD_TIMEOUT = 20.0
_FILTER = seccomp.build() if syscalls.supported_machine() else b""
# How long the spare child waits for a running command to end, with which it would compete.
_BUSY_MS = 5
_OOM_SCORE = b"300"  # after the agent's processes, before anything of the host's
_OOM_SCORE_OF_JOBS = b"900"
# The control groups' namespace is made later, when the groups are joined.
_NAMESPACES = (
    syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
)


@dataclass(frozen=True, slots=True)
class Spec:
    """What one sandbox is made of, as sandboxd sends it to the forker."""

    layout: rootfs.Layout
    outer_uid: int
    outer_gid: int
    rootless: bool
    pids: int
    memory_bytes: int
    open_files: int
    grouped: bool

    @property
    def identity(self) -> Identity:
        """The user of every command."""
        return Identity(self.layout.uid, self.layout.gid, drop_user=not self.rootless)


def to_message(spec: Spec) -> dict[str, Any]:
    """A Spec as JSON values."""
    return dataclasses.asdict(spec)


def from_message(message: dict[str, Any]) -> Spec:
    """The Spec of a message; KeyError or TypeError on a foreign one."""
    return Spec(**{**message, "layout": rootfs.Layout(**message["layout"])})


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Turn what goes wrong within into a FailedError that names the step."""
    try:
        yield
    except (OSError, ValueError, ipc.IpcError) as error:
        raise FailedError(name, error) from error


def prepare() -> forker.Children:
    """What the forker does first: load and initialise all that a sandbox's children use."""
    fetch.preload()
    rootfs.system_bundle()
    return forker.Children(start, fork)


def fork(message: dict[str, Any], fds: list[int]) -> int:
    """Fork pid 1 into its namespaces and, if `born` says that the last of `fds` is the directory
    of a control group, into that group, which then needs no joining."""
    spec = message["spec"]
    group = fds.pop() if message["born"] else None
    try:
        if not spec["rootless"]:
            _have_template(spec["layout"]["mount_point"], tuple(spec["layout"]["system_paths"]))
        with step("namespaces"):
            return _fork(
                _NAMESPACES | (syscalls.CLONE_NEWUSER if spec["rootless"] else 0), group, fds
            )
    finally:
        if group is not None:
            os.close(group)


def _fork(namespaces: int, group: int | None, fds: list[int]) -> int:
    if group is not None:
        with contextlib.suppress(OSError):  # an old kernel; a limit is told by the other way too
            pid = syscalls.fork_into(group, namespaces)
            os.close(fds.pop())
            return pid
    return syscalls.fork_into(None, namespaces)


@functools.cache
def _have_template(mount_point: str, system_paths: tuple[str, ...]) -> None:
    """Once in the life of the forker: a mount namespace of its own, and the template in it."""
    with step("namespaces"):
        syscalls.unshare(syscalls.CLONE_NEWNS)
    with step("root"):
        os.umask(0o022)
        rootfs.template(mount_point, system_paths)


def start(message: dict[str, Any], fds: list[int]) -> None:
    """Pid 1: join the groups, build, then serve. Leaves by _exit only, which ends the namespace.

    `fds`: the control socket, then the entrance of each group to join.
    """
    code = 1
    control = socket.socket(fileno=fds[0])
    try:
        os.setsid()
        confine.name_process("lens-init")
        spec = from_message(message["spec"])
        _arrive(spec, fds[1:])
        score = _build(control, spec)
        ipc.send(control, {"event": "ready", "landlock": landlock.abi()})
        Init(control, spec, score).serve()
    except FailedError as error:
        with contextlib.suppress(ipc.IpcError):
            ipc.send(control, error.message)
    except ipc.IpcError:
        code = 0
    finally:
        os._exit(code)


def _arrive(spec: Spec, groups: list[int]) -> None:
    """Join the control groups, whose namespace begins where we are; then be somebody."""
    with step("cgroup"):
        for descriptor in groups:
            os.write(descriptor, b"0")
            os.close(descriptor)
    if spec.rootless:
        with step("user namespace"):
            _own_users(spec)
    with step("namespaces"):
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)


def _own_users(spec: Spec) -> None:
    """In our user namespace there is the one user we have, under the number it has inside."""
    # The map files belong to root while we are not dumpable.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{spec.layout.uid} {spec.outer_uid} 1"),
        ("gid_map", f"{spec.layout.gid} {spec.outer_gid} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(line)


def _build(control: socket.socket, spec: Spec) -> int:
    """Everything from an empty namespace to a closed sandbox; returns our own OOM score, open."""
    gc.disable()
    os.umask(0o022)
    with step("loopback"):
        socket.sethostname("sandbox")
        syscalls.loopback_up()
        opened = listeners(env.PROXY_PORT)
    hand_over(control, opened)
    root = spec.layout.mount_point
    with step("root"):
        if spec.rootless:
            rootfs.template(root, spec.layout.system_paths)
        rootfs.build(spec.layout)
    authority = await_trust(control)
    with step("certificates"):
        rootfs.trust(root, authority)
    with step("pivot_root"):
        rootfs.enter(root)
        forget_streams()
    with step("limits"):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        lower_limits(spec.open_files)
        if not spec.grouped:
            confine.lower_limit(resource.RLIMIT_NPROC, spec.pids)
            confine.lower_limit(resource.RLIMIT_DATA, spec.memory_bytes)
    with step("privileges"):
        # One domain for all commands: they may see and signal each other, and nothing else.
        domain = functools.partial(landlock.ruleset, confine.WRITABLE)
        kept = frozenset[int]() if spec.rootless else confine.PID_1_CAPABILITIES
        syscalls.drop_bounding(c for c in syscalls.ALL_CAPABILITIES if c not in kept)
        close(kept, domain, _FILTER)
    return score


def hand_over(control: socket.socket, opened: list[socket.socket]) -> None:
    """Send the proxy's listeners on their way, and forget them."""
    ipc.send(control, {"event": "listeners"}, [s.fileno() for s in opened])
    for listener in opened:
        listener.close()


def await_trust(control: socket.socket) -> bytes:
    """The certificate authority that the proxy has made meanwhile."""
    message, fds = ipc.receive(control, _BUILD_TIMEOUT)
    ipc.close_all(fds)
    if message.get("op") != "trust":
        raise ipc.IpcError("expected the certificate authority")
    return bytes(message["authority"].encode())


def listeners(port: int) -> list[socket.socket]:
    """The proxy's sockets, opened here so that they are in this network namespace for ever."""
    found = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").exists():
            continue
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        found.append(listener)
    return found


def forget_streams() -> None:
    """Let go of the host's log: the sandbox holds no descriptor of the host's."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)


def lower_limits(open_files: int) -> None:
    """Limits that everything inherits, whatever the control groups count."""
    confine.lower_limit(resource.RLIMIT_CORE, 0)
    confine.lower_limit(resource.RLIMIT_NOFILE, open_files)
    confine.lower_limit(resource.RLIMIT_MEMLOCK, 1 << 20)
    confine.lower_limit(resource.RLIMIT_MSGQUEUE, 1 << 18)


def close(kept: frozenset[int], domain: Callable[..., int], *filters: bytes) -> None:
    """Drop what pid 1 does not need; Landlock and seccomp are on for all that it will fork.

    `domain` makes the Landlock ruleset for a `version`.
    """
    syscalls.set_capabilities(kept)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if version := landlock.abi():
        descriptor = domain(version=version)
        landlock.restrict(descriptor)
        os.close(descriptor)
    for program in filters:
        seccomp.install(program)


class Init:
    """The loop of pid 1: start jobs, collect the dead, tell sandboxd how each job ended."""

    def __init__(self, control: socket.socket, spec: Spec, score: int) -> None:
        self.control = control
        self.spec = spec
        self.score = score
        self.jobs: dict[int, socket.socket] = {}
        self.later: list[list[int]] = []
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Until sandboxd's end closes, which raises IpcError."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while True:
            patience = _BUSY_MS if self.later else None
            ready = {descriptor for descriptor, _ in poll.poll(patience)}
            if self.wake_read in ready:
                os.read(self.wake_read, 4096)
                self.reap()
            if self.control.fileno() in ready:
                message, fds = ipc.receive(self.control, _BUILD_TIMEOUT)
                self.handle(message, fds)
            elif self.later:
                self.prepare(self.later.pop(0))

    def handle(self, message: dict[str, Any], fds: list[int]) -> None:
        """One request of sandboxd."""
        if message.get("op") == "prepare" and message.get("later"):
            self.later.append(fds)
        elif message.get("op") == "prepare":
            self.prepare(fds)
        else:
            ipc.close_all(fds)
            self.kill_everything()

    def prepare(self, fds: list[int]) -> None:
        """Fork a child that confines itself and waits for its job; see `job` for the descriptors.

        A fork that the limits refuse is told as the end of that job.
        """
        status = socket.socket(fileno=fds[0])
        try:
            pid, joined = self.fork(fds[3] if len(fds) > 3 else None)
        except OSError as error:
            self.report(status, {"error": "process_limit", "errno": error.errno})
            ipc.close_all(fds[1:])
            return
        if pid == 0:
            job.run(fds[:2] if joined else fds[:3], self.spec.identity)
        ipc.close_all(fds[1:])
        self.jobs[pid] = status

    def fork(self, group: int | None) -> tuple[int, bool]:
        """Fork a child, if possible into `group`; (as fork does, whether it is in the group).

        The kernel takes it before us when memory runs out.

        A score is inherited, so ours is raised for the moment of the fork; Landlock forbids the
        child to write its own.
        """
        os.write(self.score, _OOM_SCORE_OF_JOBS)
        try:
            if group is not None:
                with contextlib.suppress(OSError):  # an old kernel; a limit is told by fork too
                    return syscalls.fork_into(group), True
            return os.fork(), False
        finally:
            os.write(self.score, _OOM_SCORE)

    def reap(self) -> None:
        """Collect every dead process; orphans of any command end up here too."""
        while True:
            try:
                pid, result = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            status = self.jobs.pop(pid, None)
            if status is not None:
                code = os.waitstatus_to_exitcode(result)
                self.report(status, {"exit_code": code} if code >= 0 else {"signal": -code})

    def report(self, status: socket.socket, message: dict[str, Any]) -> None:
        """Answer a job and close its socket; sandboxd may have given up on it."""
        with contextlib.suppress(ipc.IpcError):
            ipc.send(status, message)
        status.close()

    def kill_everything(self) -> None:
        """Without control groups a job's descendants cannot be told apart, so all jobs end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
