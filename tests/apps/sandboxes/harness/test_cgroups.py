"""Control groups. Version 2's layout is checked on a folder of the same shape; the rest is real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import cgroups
from apps.sandboxes.harness.cgroups import Groups, Hierarchy
from apps.sandboxes.harness.config import Limits
from tests.apps.sandboxes.harness.conftest import CHECKOUT, CLEAN, cannot

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = Limits(memory_bytes=64 << 20, pids=20, cpu_percent=150)


def tree(path: Path, files: tuple[str, ...]) -> Path:
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_text("")
    return path


def test_limits_of_version_2(tmp_path: Path) -> None:
    base = tree(tmp_path / "base", ("cgroup.procs",))
    group = Hierarchy(2, frozenset({"memory", "pids", "cpu"}), base)
    made = tree(base / "box", ())
    cgroups._set_limits(group, made, LIMITS)
    assert {p.name: p.read_text() for p in made.iterdir()} == {
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "pids.max": "20",
        "cpu.max": "150000 100000",
    }


def test_limits_of_version_1(tmp_path: Path) -> None:
    for controller in ("memory", "pids", "cpu"):
        made = tree(tmp_path / controller, ())
        cgroups._set_limits(Hierarchy(1, frozenset({controller}), tmp_path), made, LIMITS)
    found = {p.name: p.read_text() for p in tmp_path.glob("*/*")}
    assert found == {
        "memory.limit_in_bytes": str(64 << 20),
        "memory.memsw.limit_in_bytes": str(64 << 20),
        "pids.max": "20",
        "cpu.cfs_quota_us": "150000",
    }


def test_without_a_share_of_the_processor_none_is_set(tmp_path: Path) -> None:
    cgroups._set_limits(Hierarchy(2, frozenset({"cpu"}), tmp_path), tmp_path, Limits())
    assert list(tmp_path.iterdir()) == []


def test_the_best_place_for_killing() -> None:
    old = Hierarchy(1, frozenset({"pids"}), Path("/old"))
    memory = Hierarchy(1, frozenset({"memory"}), Path("/memory"))
    new = Hierarchy(2, frozenset(), Path("/new"))
    assert Groups([old, memory, new]).killing is new
    assert Groups([memory, old]).killing is old
    assert Groups([memory]).killing is None
    assert not Groups([memory]).complete
    assert Groups([old, memory, new]).complete
    assert Groups([old, memory, new]).has("memory") == "v1"


def of_version(found: list[Hierarchy], version: int) -> Hierarchy:
    """The hierarchy to test with. A host without the one version has to have the other."""
    wanted = {h.version: h for h in found if h.kills}
    if not wanted:
        cannot("this host has no control groups that can kill")
    if version not in wanted:
        pytest.skip(f"this host's control groups are not of version {version}")
    return wanted[version]


def test_only_a_host_without_any_control_groups_fails_where_isolation_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = Hierarchy(1, frozenset({"pids"}), Path("/old"))
    useless = Hierarchy(1, frozenset({"memory"}), Path("/memory"))
    monkeypatch.setenv("LENS_REQUIRE_ISOLATION", "1")
    assert of_version([useless, old], 1) is old
    with pytest.raises(pytest.skip.Exception, match="version 2"):
        of_version([old], 2)
    with pytest.raises(pytest.fail.Exception, match="required"):
        of_version([useless], 1)
    monkeypatch.delenv("LENS_REQUIRE_ISOLATION")
    with pytest.raises(pytest.skip.Exception):
        of_version([], 1)


@pytest.fixture(params=[1, 2])
def hierarchy(request: pytest.FixtureRequest) -> Iterator[Hierarchy]:
    """Real groups of our own, one hierarchy at a time."""
    if os.geteuid() != 0:
        cannot("making control groups needs root")
    name = f"lens-test-{os.getpid()}"
    found = cgroups.discover(name)
    try:
        yield of_version(found, request.param)
    finally:
        Groups(found).remove_leftovers()
        Groups(found).remove()


@pytest.mark.isolation
def test_a_group_is_killed_whole(hierarchy: Hierarchy) -> None:
    """However it forks: session leaders, orphans, a loop of forks."""
    groups = Groups([hierarchy])
    box = groups.create("box", LIMITS)
    job = box.job()
    assert job is not None
    script = (
        "echo 0 > $PROCS; sleep 301 & setsid sleep 302 & (setsid sleep 303 &); "
        "while :; do (sleep 0.01 &); done"
    )
    environment = {"PATH": "/usr/bin:/bin", "PROCS": str(job.path / "cgroup.procs")}
    process = subprocess.Popen(["/bin/sh", "-c", script], env=environment)  # noqa: S603 as above
    deadline = time.monotonic() + 5
    while len(cgroups.members(job.path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    job.kill()
    # Version 1 lets no new process in, first: the shell may end by that before it is killed.
    assert process.wait(5) in (-signal.SIGKILL, 2)
    while cgroups.members(job.path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cgroups.members(job.path) == []
    box.finished(job)
    assert not job.path.exists()
    box.remove()
    assert [p for p in hierarchy.base.iterdir() if p.is_dir()] == []


@pytest.mark.isolation
def test_a_group_in_use_lingers_and_goes_later(hierarchy: Hierarchy) -> None:
    box = Groups([hierarchy]).create("box", LIMITS)
    job, other = box.job(), box.job()
    assert job is not None
    assert other is not None
    process = subprocess.Popen(["/bin/sleep", "60"])
    (job.path / "cgroup.procs").write_text(str(process.pid))
    box.finished(job)
    assert job.path.exists()
    job.kill()
    process.wait(5)
    box.finished(other)
    assert not job.path.exists()
    box.remove()


@pytest.mark.isolation
@pytest.mark.parametrize("hierarchy", [2], indirect=True)  # version 1 has no such thing
def test_a_child_is_born_into_its_group(hierarchy: Hierarchy) -> None:
    """And Python in it works on: it forks, and its clean-up runs."""
    box = Groups([hierarchy]).create("box", LIMITS)
    job = box.job()
    assert job is not None
    procs, directory = job.open()
    program = (
        "import os, sys; from apps.sandboxes.harness import syscalls\n"
        "pid = syscalls.fork_into(int(sys.argv[1]))\n"
        "if pid == 0:\n"
        "    print(open('/proc/self/cgroup').read().splitlines()[-1], flush=True)\n"
        "    if (grandchild := os.fork()) == 0: os._exit(3)\n"
        "    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run(  # noqa: S603 our own interpreter
        [sys.executable, "-c", program, str(directory)],
        cwd=CHECKOUT, env=CLEAN, pass_fds=[directory], capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    group, code = done.stdout.decode().splitlines()
    assert group.endswith("/box/job-1")
    assert code == "3"
    os.close(procs)
    os.close(directory)
    box.finished(job)
    box.remove()


def test_paths_below_a_mount_that_shows_a_part() -> None:
    assert cgroups._inside("/", "/a/b") == "a/b"
    assert cgroups._inside("/a", "/a/b") == "b"
    assert cgroups._inside("/docker/x", "/docker/x") == ""
