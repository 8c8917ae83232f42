"""A sandbox on a host that gives no namespaces: its first process, which builds and then serves it.

It shares files, processes and network with what else runs in the container, and is kept apart by a
user of its own, Landlock (reading, writing, signals, TCP ports), seccomp (no Unix or datagram
socket, no server, no object of System V), limits per process, and in `owner-rules` by packet rules
that it has tried before it is ready. The files of a sandbox are a folder on the host.

What it does for sandboxd is what process 1 of a namespace does, with two differences: it adopts the
orphans of its commands, and when it is told to end, or sandboxd has gone, it ends them itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import resource
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.sandboxes.harness import (
    confine,
    forker,
    init,
    ipc,
    landlock,
    places,
    rootfs,
    seccomp,
    shared_probe,
    shared_selftest,
    syscalls,
    tree,
)
from apps.sandboxes.harness.confine import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable

_FILTERS = (
    (seccomp.build(), seccomp.build_for_shared()) if syscalls.supported_machine() else (b"", b"")
)
_LAST_SECONDS = 3.0
# What programs read of the system. Nothing here holds a secret on a sound host, and the rest of
# /etc, /home, /root, /run, /var and /srv stays closed.
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc")
_SETTINGS = (
    "/etc/alternatives", "/etc/debian_version", "/etc/group", "/etc/host.conf", "/etc/hosts",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd", "/etc/pki/tls",
    "/etc/protocols", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/timezone",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
_READ_DEVICES = ("/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Spec:
    """What one sandbox is made of, as sandboxd sends it to the forker.

    `rootless`: everything is one user, ours. `rules`: packet rules by user must be in force.
    """

    home: str
    uid: int
    gid: int
    proxy_uid: int
    rootless: bool
    rules: bool
    port: int
    system_paths: tuple[str, ...]
    pids: int
    memory_bytes: int
    file_bytes: int
    open_files: int
    grouped: bool

    @property
    def identity(self) -> Identity:
        """The user of every command."""
        return Identity(self.uid, self.gid, drop_user=not self.rootless)

    @property
    def places(self) -> places.Places:
        """Where its commands find things."""
        return places.of_home(self.home, self.port)


def to_message(spec: Spec) -> dict[str, Any]:
    """A Spec as JSON values."""
    return dataclasses.asdict(spec)


def from_message(message: dict[str, Any]) -> Spec:
    """The Spec of a message; KeyError or TypeError on a foreign one."""
    return Spec(**{**message, "system_paths": tuple(message["system_paths"])})


def prepare() -> forker.Children:
    """What the forker does first, for both kinds of sandboxes."""
    init.prepare()
    return forker.Children(run, fork)


def fork(message: dict[str, Any], fds: list[int]) -> int:
    """Fork a first process as its kind wants to be."""
    if "shared" not in message:
        return init.fork(message, fds)
    if not message["born"]:
        return os.fork()
    group = fds.pop()
    try:
        with contextlib.suppress(OSError):  # an old kernel: join by writing, as in version 1
            pid = syscalls.fork_into(group)
            os.close(fds.pop())
            return pid
        return os.fork()
    finally:
        os.close(group)


def run(message: dict[str, Any], fds: list[int]) -> None:
    """In the child: be the first process of a sandbox, or clear up behind one."""
    if "shared" not in message:
        init.start(message, fds)
    elif message["shared"] == "clear":
        _clear(socket.socket(fileno=fds[0]), from_message(message["spec"]))
    else:
        _start(socket.socket(fileno=fds[0]), from_message(message["spec"]), fds[1:])


def _clear(answers: socket.socket, spec: Spec) -> None:
    """End what is left of a sandbox (`ended`) and empty its folders, as its user (`cleared`). How
    long that takes is up to who filled them: `clearing` says now and then that it goes on."""
    try:
        if not spec.rootless:
            tree.kill_user(spec.identity)
            tree.await_end(spec.uid)
            tree.become(spec.identity, syscalls.ALL_CAPABILITIES)
        ipc.send(answers, {"event": "ended"})
        alive = _Alive(answers)
        for folder in (spec.places.workspace, spec.places.tmp):
            with contextlib.suppress(FileNotFoundError):
                tree.empty(folder, alive)
        ipc.send(answers, {"event": "cleared"})
    except (OSError, tree.StillRootError) as error:
        with contextlib.suppress(ipc.IpcError):
            ipc.send(answers, ipc.failure("clear", error))
    except ipc.IpcError:
        pass
    finally:
        os._exit(0)


class _Alive:
    """Says so, about once a second of those in which it is called. Raises IpcError when nobody
    listens any more: who comes next begins anew."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self._told = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._told > 1:
            self._told = now
            ipc.send(self._answers, {"event": "clearing"})


def _start(control: socket.socket, spec: Spec, groups: list[int]) -> None:
    """Build, then serve until sandboxd's end closes; nothing of it lives on. Never returns."""
    code = 1
    try:
        os.setsid()
        confine.name_process("lens-init")
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        with init.step("cgroup"):
            for descriptor in groups:
                os.write(descriptor, b"0")
                os.close(descriptor)
        if spec.rootless:
            _leave_to_a_child(control)
        score = _build(control, spec)
        ipc.send(control, {"event": "ready", "landlock": landlock.abi()})
        Resident(control, spec, score).serve()
    except forker.FailedError as error:
        with contextlib.suppress(ipc.IpcError):
            ipc.send(control, error.message)
    except ipc.IpcError:
        code = 0
    finally:
        with contextlib.suppress(Exception):
            end_everything(spec)
        os._exit(code)


def _leave_to_a_child(control: socket.socket) -> None:
    """Returns in a child only. We stay outside of the Landlock domain in which it and the commands
    will be: being the same user they could end it, but not us, who then end them. All are in one of
    ours, so that one `kill` ends them and nothing else, however fast they fork."""
    with init.step("landlock"):
        _keep_signals_inside()
    pid = os.fork()
    if pid == 0:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # not inherited
        return
    control.close()
    confine.name_process("lens-warden")
    confine.undumpable()
    os.waitpid(pid, 0)
    _kill_our_own()
    _reap()
    os._exit(0)


class _Domain:
    """Whether this process and its children are in a Landlock domain that was seen to keep their
    signals inside: else one `kill` for all would be one for all that runs as the user."""

    seen = False


def _keep_signals_inside() -> None:
    """Make such a domain, and see it by our parent, who is out of reach from then on."""
    parent = os.getppid()
    if landlock.abi() < landlock.SCOPE_ABI or not tree.reaches(parent):
        return
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    descriptor = landlock.signals_only()
    landlock.restrict(descriptor)
    os.close(descriptor)
    _Domain.seen = not tree.reaches(parent) and os.getppid() == parent


def _kill_our_own() -> None:
    """End what runs below us, where all is one user."""
    if _Domain.seen:
        tree.kill_domain()
    else:
        tree.kill_descendants(os.getpid())


def _build(control: socket.socket, spec: Spec) -> int:
    """Everything up to a closed sandbox; returns our own OOM score, open."""
    gc.disable()
    os.umask(0o022)
    bundle = rootfs.system_bundle()
    with init.step(f"listening on port {spec.port}"), _as_user(spec):
        opened = init.listeners(spec.port)
    seen = []
    if spec.rules:
        with init.step("owner rules"):
            as_proxy = functools.partial(_as_user, spec)
            seen = shared_probe.require(spec.identity, spec.port, as_proxy)
    init.hand_over(control, opened)
    authority = init.await_trust(control)
    with init.step("certificates"):
        Path(spec.places.authority).write_bytes(authority)
        Path(spec.places.bundle).write_bytes(bundle + b"\n" + authority)
    with init.step("limits"):
        init.forget_streams()
        if spec.rootless:  # else our own files in /proc belong to root
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        init.lower_limits(spec.open_files)
        _lower_limits(spec)
    with init.step("landlock"):
        _require_landlock(spec)
    with init.step("privileges"):
        os.chdir(spec.places.workspace)
        _close(spec)
    places.settle(spec.places)
    shared_selftest.settle(spec, seen)
    return score


@contextlib.contextmanager
def _as_user(spec: Spec) -> Any:
    """Open sockets as the proxy's user: packets go by who opened the socket they come from."""
    if spec.rootless:
        yield
        return
    os.seteuid(spec.proxy_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def _lower_limits(spec: Spec) -> None:
    """A file may be as large as the workspace; there is no better hold on the folder's size."""
    confine.lower_limit(resource.RLIMIT_FSIZE, spec.file_bytes)
    if spec.grouped:
        return
    confine.lower_limit(resource.RLIMIT_DATA, spec.memory_bytes)
    # Counted per user: where all is one user, on top of what that user runs already.
    running = _threads_of(os.getuid()) if spec.rootless else 0
    confine.lower_limit(resource.RLIMIT_NPROC, spec.pids + running)


def _threads_of(uid: int) -> int:
    count = 0
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and place.stat().st_uid == uid:
                count += sum(1 for _ in (place / "task").iterdir())
    return count


def _require_landlock(spec: Spec) -> None:
    """Files are guarded by nothing else here; without packet rules TCP is not either; and where
    all is one user, signals are not."""
    wanted = 1 if spec.rules else landlock.SCOPE_ABI if spec.rootless else landlock.NETWORK_ABI
    version = landlock.abi()
    if version < wanted:
        raise ValueError(f"this kernel has Landlock ABI {version}; this mode needs {wanted}")


def _close(spec: Spec) -> None:
    """As process 1 of a namespace; a user who is not root has no bounding set to reduce."""
    kept = frozenset[int]()
    if not spec.rootless:
        kept = confine.PID_1_CAPABILITIES
        syscalls.drop_bounding(c for c in syscalls.ALL_CAPABILITIES if c not in kept)
    domain = functools.partial(
        landlock.ruleset,
        writable(spec),
        readable=(*spec.system_paths, *_SYSTEM, *_SETTINGS, *_READ_DEVICES, f"{spec.home}/etc"),
        port=spec.port,
    )
    init.close(kept, domain, *_FILTERS)


def writable(spec: Spec) -> Iterable[str]:
    """The places that the agent may write."""
    return (spec.places.workspace, spec.places.tmp, *_DEVICES)


def end_everything(spec: Spec) -> None:
    """End all processes of the sandbox but ourselves, and see them gone."""
    _kill(spec)
    _reap()


def _reap() -> None:
    """Until no child is left: who loses its parent is ours."""
    until = time.monotonic() + _LAST_SECONDS
    while time.monotonic() < until:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.005)
        except ChildProcessError:
            return


def _kill(spec: Spec) -> None:
    if spec.rootless:
        _kill_our_own()
    else:
        tree.kill_user(spec.identity)


class Resident(init.Init):
    """The loop of process 1, for commands that no namespace holds together."""

    spec: Spec  # type: ignore[assignment]  # has what the loop asks of it

    def __init__(self, control: socket.socket, spec: Spec, score: int) -> None:
        super().__init__(control, spec, score)  # type: ignore[arg-type]  # same

    def kill_everything(self) -> None:
        """All commands of this sandbox, however they have forked and whom they belong to now."""
        _kill(self.spec)
