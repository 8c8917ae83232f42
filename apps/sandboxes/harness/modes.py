"""The modes of isolation, seen from sandboxd: what a sandbox of the present one is made of.

`namespace` needs nothing of this. The other two share the host's files and network: a sandbox is
then a folder, a user, a port for its proxy, and a first process (`shared`) that holds it together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.sandboxes.harness import ipc, places, shared
from apps.sandboxes.harness.config import DEGRADED, NAMESPACE, OWNER_RULES

if TYPE_CHECKING:
    import socket

    from apps.sandboxes.harness.config import Config
    from apps.sandboxes.harness.forker import Client
    from apps.sandboxes.harness.sandbox import Sandbox
    from apps.sandboxes.harness.spawn import Spawner

_SILENCE_SECONDS = 30.0


@dataclass(slots=True)
class Home:
    """The folder of one sandbox, and how to clear up behind it."""

    forker: Client
    spec: shared.Spec
    answers: socket.socket | None = None

    def make(self) -> None:
        """Root's, to be passed by the sandbox's user; workspace and tmp are that user's own."""
        spec, home = self.spec, Path(self.spec.home)
        home.mkdir()
        if not spec.rootless:
            os.chown(home, 0, spec.gid)
        home.chmod(0o750)
        for name in places.FOLDERS:
            folder = home / name
            folder.mkdir()
            if name != "etc" and not spec.rootless:
                os.chown(folder, spec.uid, spec.gid)
            folder.chmod(0o755 if name == "etc" else 0o700)

    def end(self) -> socket.socket:
        """End what is left of its processes; the folder is emptied behind that. OSError if not."""
        ours, theirs = ipc.pair()
        try:
            self.forker.request(clearing(self.spec), [theirs.fileno()])
            theirs.close()
            _await(ours, "ended")
        except ipc.IpcError as error:
            ours.close()
            raise OSError(f"a sandbox's processes could not be ended: {error}") from error
        finally:
            theirs.close()
        self.answers = ours
        return ours

    def clear(self) -> None:
        """Remove the folder, which takes as long as it is full. OSError if it cannot be done."""
        answers = self.answers or self.end()
        self.answers = None
        with answers:
            try:
                _await(answers, "cleared")
            except ipc.IpcError as error:
                raise OSError(f"the folder of a sandbox could not be cleared: {error}") from error
        _remove(Path(self.spec.home))


def clearing(spec: shared.Spec) -> dict[str, Any]:
    """The request to clear up behind a sandbox."""
    return {"shared": "clear", "spec": shared.to_message(spec), "born": False}


def _await(answers: socket.socket, event: str) -> None:
    """Until the child that clears up says so; it may be busy for long, but never silent."""
    while True:
        message, fds = ipc.receive(answers, _SILENCE_SECONDS)
        ipc.close_all(fds)
        if message.get("event") == event:
            return
        if message.get("event") not in ("forked", "clearing"):
            raise ipc.IpcError(str(message.get("message", "unexpected message")))


def _remove(home: Path) -> None:
    """What is left is ours: empty folders, and the certificates."""
    with contextlib.suppress(FileNotFoundError):
        for file in (home / "etc").iterdir():
            file.unlink()
    for folder in (*(home / name for name in places.FOLDERS), home):
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def furnish(spawner: Spawner, sandbox: Sandbox) -> dict[str, Any]:
    """Make the sandbox's folder; the request for its first process."""
    spec = _spec(spawner, sandbox)
    home = Home(spawner.forker, spec)
    sandbox.home, sandbox.places = home, spec.places
    home.make()
    return {"shared": "start", "spec": shared.to_message(spec)}


def _spec(spawner: Spawner, sandbox: Sandbox) -> shared.Spec:
    config, limits, slot = spawner.config, sandbox.limits, sandbox.slot
    return shared.Spec(
        home=str(config.home_root / sandbox.id),
        uid=os.geteuid() if spawner.rootless else config.sandbox_uid_base + slot,
        gid=os.getegid() if spawner.rootless else config.sandbox_uid_base + slot,
        proxy_uid=spawner.proxy_ids(slot)[0],
        rootless=spawner.rootless,
        rules=spawner.mode == OWNER_RULES,
        port=config.proxy_port_base + slot,
        system_paths=config.system_paths,
        pids=limits.pids,
        memory_bytes=limits.memory_bytes,
        file_bytes=limits.workspace_bytes,
        open_files=limits.open_files,
        grouped=spawner.groups.complete,
    )


def not_given(spawner: Spawner, sandbox: Sandbox) -> list[dict[str, Any]]:
    """What this mode cannot keep on this host, as lines of the self-test's report: not `ok`, and
    not a failure either, since nobody promised it."""
    found = [] if spawner.mode == NAMESPACE else [*_SHARED]
    if spawner.mode == DEGRADED:
        found.append(("addresses", f"{_ANY_ADDRESS} {sandbox.places.port}"))
    if spawner.rootless:
        found.append(("user_of_its_own", _ONE_USER[spawner.mode == NAMESPACE]))
    if not spawner.groups.complete:
        found.append(("memory_limit", "per process (RLIMIT_DATA), not of all together"))
    if spawner.groups.killing is None:
        found.append(("group_per_command", "a deadline ends all commands of the sandbox"))
    return [{"probe": n, "ok": False, "given": False, "detail": told} for n, told in found]


_SHARED = (
    ("root_of_its_own", "the container's system files can be read, names elsewhere looked up"),
    ("processes_of_its_own", "others' processes can be listed; not read, traced or signalled"),
    ("workspace_size", "a file is limited, the folder is not: limit the volume that it is on"),
    ("network_of_its_own", "interfaces and connections can be listed; no server can be started"),
)
_ANY_ADDRESS = (
    "no packet rules, and Landlock knows no addresses: a server anywhere can be reached, past the "
    "proxy, if it listens on port"
)
_ONE_USER = {
    True: "agent and proxy are one user, kept apart by the process table and by not being dumpable",
    False: "agent, proxy and sandboxd are one user: its files elsewhere can get other modes and "
    "times, its other processes lower priorities, and these may use the proxy",
}


def peer(spawner: Spawner, slot: int) -> int | None:
    """The one user whom the proxy of `slot` serves; None where its network has no other."""
    if spawner.mode == NAMESPACE:
        return None
    return os.geteuid() if spawner.rootless else spawner.config.sandbox_uid_base + slot


def prepare_homes(config: Config) -> None:
    """The folder of the folders, which each sandbox's user can pass and none can list.

    Raises OSError, also for a folder above that they cannot pass or that others could replace: as
    root we would then make and give away what a link of theirs points to.
    """
    _make(config.home_root)
    ours, root = {0, os.geteuid()}, os.geteuid() == 0
    for folder in (config.home_root, *config.home_root.parents):
        found = folder.lstat()
        writable = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if not stat.S_ISDIR(found.st_mode) or (root and (found.st_uid not in ours or writable)):
            raise OSError(errno.EPERM, f"others could put something in place of {folder}")
        if root and not found.st_mode & 0o001 and folder != config.home_root:
            raise OSError(errno.EACCES, f"other users cannot pass {folder}; chmod o+x {folder}")
    config.home_root.chmod(0o711)


def _make(folder: Path) -> None:
    """The folder and what is missing above it, whatever our umask."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir()
        folder.chmod(0o711)


def chosen(spawner: Spawner, mode: str) -> Spawner:
    """The spawner for `mode`, which was found to work; clears up behind a sandboxd before us."""
    if mode in ("", NAMESPACE):
        return spawner
    spawner = dataclasses.replace(spawner, mode=mode)
    remove_leftovers(spawner)
    return spawner


def remove_leftovers(spawner: Spawner) -> int:
    """Clear up behind the sandboxes of a sandboxd that was killed; how many they were.

    A folder's workspace says whose it was. What has another owner than a sandbox's is not ours.
    """
    count = 0
    homes = spawner.config.home_root
    for home in list(homes.iterdir()) if homes.exists() else []:
        try:
            owner = (home / "workspace").lstat()
        except FileNotFoundError:  # half made or half removed
            _remove(home)
            continue
        if _is_ours(spawner, owner.st_uid):
            Home(spawner.forker, _left(spawner, home, owner)).clear()
            count += 1
    return count


def _is_ours(spawner: Spawner, uid: int) -> bool:
    first = spawner.config.sandbox_uid_base
    if spawner.rootless:
        return uid == os.geteuid()
    return first <= uid < first + spawner.config.max_sandboxes


def _left(spawner: Spawner, home: Path, owner: os.stat_result) -> shared.Spec:
    return shared.Spec(
        home=str(home),
        uid=owner.st_uid,
        gid=owner.st_gid,
        proxy_uid=0,
        rootless=spawner.rootless,
        rules=False,
        port=0,
        system_paths=(),
        pids=0,
        memory_bytes=0,
        file_bytes=0,
        open_files=0,
        grouped=False,
    )
