"""Control groups, both versions: limits for a sandbox, and one group a command to end it whole.

Groups are made below our own (or below `cgroup_parent`), named after this sandboxd, and only those
are ever written or removed. On a hybrid host the controllers are in v1 while v2 has `cgroup.kill`:
each job takes what it needs from where it is.

A command's group is how its children are found, however often they fork, change session or lose
their parent. v2 kills a group in one write; in v1 no new process is let in, then each is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.sandboxes.harness.config import Limits

_CONTROLLERS = ("memory", "pids", "cpu")
_CPU_PERIOD_US = 100_000
_MICROSECONDS_PER_PERCENT = _CPU_PERIOD_US // 100
_Settings = dict[str, tuple[tuple[str, str], ...]]
_REMOVE_SECONDS = 3.0
_KILL_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree and the directory in it under which this sandboxd makes its groups."""

    version: int
    controllers: frozenset[str]
    base: Path

    @property
    def kills(self) -> bool:
        """Whether a group here can be ended as a whole."""
        return self.version == 2 or "pids" in self.controllers

    @property
    def entrance(self) -> str:
        """The file of a group in which a process of one thread writes 0 to join it.

        In v1 that is `tasks`: a write to `cgroup.procs` waits for every processor.
        """
        return "cgroup.procs" if self.version == 2 else "tasks"


def _mounts() -> Iterator[tuple[Path, str, str, frozenset[str]]]:
    """(mount point, root within the tree, type, super options) of each control group mount."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = left.split()
            yield Path(fields[4]), fields[3], kind, frozenset(options.split(","))


def _own_groups() -> dict[str, str]:
    """Controller (or "" for v2) → our path in its tree."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _inside(root: str, path: str) -> str:
    """`path` as seen below a mount that shows only `root` of its tree."""
    if root not in ("", "/") and path.startswith(root):
        path = path[len(root) :]
    return path.strip("/")


def discover(name: str, parent: str = "") -> list[Hierarchy]:
    """The hierarchies in which we may make groups, with `base` made; empty when there are none."""
    own = _own_groups()
    found = []
    for mount, root, kind, options in _mounts():
        if kind == "cgroup2":
            below = parent or _inside(root, own.get("", "/"))
            hierarchy = _version_2(mount, mount / below.strip("/"), name)
        else:
            controllers = frozenset(options & set(_CONTROLLERS))
            below = parent or _inside(root, own.get(next(iter(controllers), ""), "/"))
            hierarchy = _version_1(controllers, mount / below.strip("/") / name)
        if hierarchy is not None:
            found.append(hierarchy)
    return found


def _made(path: Path) -> bool:
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(path / "cgroup.procs", os.W_OK)


def _version_1(controllers: frozenset[str], base: Path) -> Hierarchy | None:
    return Hierarchy(1, controllers, base) if controllers and _made(base) else None


def _version_2(mount: Path, own: Path, name: str) -> Hierarchy | None:
    """v2 forbids controllers to the children of a group that holds processes, so below our own
    group they work only where it was delegated to us; as root the top of the tree will do.

    Takes the place with the most controllers; one without any still has `cgroup.kill`.
    """
    best: Hierarchy | None = None
    for directory in dict.fromkeys((own, mount)):
        base = directory / name
        if not _made(base):
            continue
        wanted = _words(directory / "cgroup.controllers") & set(_CONTROLLERS)
        _hand_down(directory, wanted)
        held = _hand_down(base, wanted & _words(base / "cgroup.controllers"))
        if best is None or len(held) > len(best.controllers):
            if best is not None:
                best.base.rmdir()
            best = Hierarchy(2, frozenset(held), base)
        else:
            base.rmdir()
        if len(best.controllers) == len(wanted):
            break
    return best


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _hand_down(directory: Path, wanted: set[str]) -> set[str]:
    """Give `wanted` controllers to the children of `directory`; which of them they now have."""
    control = directory / "cgroup.subtree_control"
    missing = wanted - _words(control)
    if missing:
        with contextlib.suppress(OSError):
            control.write_text(" ".join(f"+{c}" for c in sorted(missing)))
    return _words(control) & wanted


class Groups:
    """The control groups of one sandboxd."""

    def __init__(self, hierarchies: list[Hierarchy]) -> None:
        self.hierarchies = hierarchies
        killing = [h for h in hierarchies if h.kills]
        killing.sort(key=lambda h: h.version, reverse=True)
        self.killing = killing[0] if killing else None

    def has(self, controller: str) -> str:
        """Where `controller` is to be had ("v1", "v2"), "" for nowhere."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return f"v{hierarchy.version}"
        return ""

    @property
    def complete(self) -> bool:
        """Whether memory and process limits as well as whole-tree kills work through groups."""
        return bool(self.has("memory") and self.has("pids") and self.killing)

    def create(self, name: str, limits: Limits) -> SandboxGroup:
        """The groups of one sandbox with its limits set; OSError leaves none behind."""
        group = SandboxGroup(self, name)
        try:
            for hierarchy in self.hierarchies:
                (hierarchy.base / name).mkdir()
                _set_limits(hierarchy, hierarchy.base / name, limits)
        except OSError:
            group.remove()
            raise
        return group

    def remove_leftovers(self) -> int:
        """End and remove what a killed sandboxd of the same name left; how many groups it were."""
        count = 0
        for hierarchy in self.hierarchies:
            for path in [p for p in hierarchy.base.iterdir() if p.is_dir()]:
                kill(hierarchy, path)
                _remove_tree(path)
                count += 1
        return count

    def remove(self) -> None:
        """Remove the bases; they are empty when every sandbox is gone."""
        for hierarchy in self.hierarchies:
            with contextlib.suppress(OSError):
                hierarchy.base.rmdir()


def _set_limits(hierarchy: Hierarchy, path: Path, limits: Limits) -> None:
    held = hierarchy.controllers
    memory, pids, cpu = str(limits.memory_bytes), str(limits.pids), limits.cpu_percent
    quota = cpu * _MICROSECONDS_PER_PERCENT
    if hierarchy.version == 2:
        wanted: _Settings = {"memory": (("memory.max", memory),), "pids": (("pids.max", pids),)}
        wanted["cpu"] = (("cpu.max", f"{quota} {_CPU_PERIOD_US}"),) if cpu else ()
        optional: _Settings = {"memory": (("memory.swap.max", "0"),)}
    else:
        wanted = {"memory": (("memory.limit_in_bytes", memory),), "pids": (("pids.max", pids),)}
        wanted["cpu"] = (("cpu.cfs_quota_us", str(quota)),) if cpu else ()
        optional = {"memory": (("memory.memsw.limit_in_bytes", memory),)}
    for controller in held:
        for file, value in wanted[controller]:
            (path / file).write_text(value)
        for file, value in optional.get(controller, ()):
            with contextlib.suppress(OSError):  # the kernel may be built without swap accounting
                (path / file).write_text(value)


def members(path: Path) -> list[int]:
    """The processes of a group and of those below it."""
    found: list[int] = []
    for procs in (path / "cgroup.procs", *path.glob("*/cgroup.procs")):
        with contextlib.suppress(OSError):
            found += [int(line) for line in procs.read_text().split()]
    return found


def kill(hierarchy: Hierarchy, path: Path) -> None:
    """End every process of the group, and those that they fork meanwhile."""
    if hierarchy.version == 2:
        try:
            (path / "cgroup.kill").write_text("1")
        except OSError:
            pass  # before Linux 5.14: one by one
        else:
            return
    if "pids" in hierarchy.controllers:
        with contextlib.suppress(OSError):
            (path / "pids.max").write_text("0")
    for _ in range(_KILL_ROUNDS):
        running = members(path)
        if not running:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _remove_tree(path: Path) -> None:
    """rmdir the group and those below; a dead member may need a moment to leave."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        try:
            for below in [p for p in path.iterdir() if p.is_dir()]:
                below.rmdir()
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return


@dataclass
class SandboxGroup:
    """The groups of one sandbox, and below one of them a group per command."""

    groups: Groups
    name: str
    _next: int = 0
    _lingering: list[JobGroup] = field(default_factory=list)

    def open(self) -> tuple[list[int], bool]:
        """For the first process to join by: the entrance of each, v2's last; and behind them, if
        the second value is true, v2's directory. The caller closes them.
        """
        ordered = sorted(self.groups.hierarchies, key=lambda h: h.version)
        found = [_open_entrance(h, h.base / self.name) for h in ordered]
        born = bool(ordered) and ordered[-1].version == 2
        if born:
            found.append(_open_directory(ordered[-1].base / self.name))
        return found, born

    def job(self) -> JobGroup | None:
        """A new group for one command; None where groups cannot be had."""
        hierarchy = self.groups.killing
        if hierarchy is None:
            return None
        self._next += 1
        path = hierarchy.base / self.name / f"job-{self._next}"
        path.mkdir()
        return JobGroup(hierarchy, path)

    def finished(self, job: JobGroup) -> None:
        """Remove a command's group, now or, while something it left is running, later.

        One call per job; callers serialise.
        """
        self._lingering = [j for j in (*self._lingering, job) if not j.removed()]

    def remove(self) -> None:
        """Remove all; the sandbox's processes have ended. OSError when they have not."""
        for hierarchy in self.groups.hierarchies:
            _remove_tree(hierarchy.base / self.name)


@dataclass(frozen=True, slots=True)
class JobGroup:
    """The group of one command."""

    hierarchy: Hierarchy
    path: Path

    def open(self) -> list[int]:
        """Its entrance, and in v2 its directory, for pid 1; the caller closes them."""
        found = [_open_entrance(self.hierarchy, self.path)]
        if self.hierarchy.version == 2:
            found.append(_open_directory(self.path))
        return found

    def kill(self) -> None:
        """End all of it."""
        kill(self.hierarchy, self.path)

    def removed(self) -> bool:
        """Try to remove it; false while a process of it lives."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def _open_entrance(hierarchy: Hierarchy, path: Path) -> int:
    return os.open(path / hierarchy.entrance, os.O_WRONLY | os.O_CLOEXEC)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
