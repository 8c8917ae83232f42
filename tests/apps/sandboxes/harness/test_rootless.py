"""The same code for an ordinary user: a user namespace first, limits by rlimits or by a control
group that was delegated. What all modes have in common: see test_modes."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import cgroups
from tests.apps.sandboxes.harness import kinds
from tests.apps.sandboxes.harness.conftest import Daemon, until
from tests.apps.sandboxes.harness.test_modes import marked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.isolation, pytest.mark.usefixtures("isolation")]


@pytest.fixture
def rootless(folder: Path) -> Iterator[Daemon]:
    daemon = kinds.run("rootless", folder)
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture
def group() -> Iterator[Path]:
    """A place for a control group of version 2, which is emptied afterwards."""
    mounts = [mount for mount, _, kind, _ in cgroups._mounts() if kind == "cgroup2"]
    if not mounts:
        pytest.skip("this host has no control groups of version 2")
    place = mounts[0] / f"lens-test-{os.getpid()}"
    yield place
    for below in sorted(place.rglob("*"), reverse=True):
        if below.is_dir():
            with contextlib.suppress(OSError):
                below.rmdir()
    assert until(lambda: _removed(place), 5)


def _removed(place: Path) -> bool:
    with contextlib.suppress(OSError):
        place.rmdir()
    return not place.exists()


def test_a_rootless_sandbox(rootless: Daemon) -> None:
    health = rootless.call("GET", "/v1/health")[1]
    states = {layer["name"]: layer["state"] for layer in health["layers"]}
    assert states["network namespace"] == states["seccomp"] == "active"
    assert states["user of its own"] == "missing"
    box = rootless.create(limits={"pids": 64})
    told = box.run("id -u; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status").text
    assert told.startswith("200000\n")
    assert "CapBnd:\t0000000000000000" in told
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/root", "/proc/1/fd/0"):
        assert box.run(f"head -c1 {path} >/dev/null").code != 0
    box.delete()


@pytest.mark.parametrize("name", ["rootless", "degraded-rootless"])
def test_a_delegated_group_ends_one_command_and_no_other(
    name: str, folder: Path, group: Path
) -> None:
    daemon = kinds.run(name, folder, delegated=group)
    try:
        layers = daemon.call("GET", "/v1/health")[1]["layers"]
        states = {layer["name"]: layer["detail"] for layer in layers if layer["state"] == "active"}
        assert states["a group per command"] == "v2"
        box = daemon.create(allow_degraded=True)
        missing = {line["probe"] for line in box.created["report"] if not line["ok"]}
        assert "group_per_command" not in missing
        box.run("setsid sleep 4541 >/dev/null 2>&1 &")
        late = box.run("trap '' TERM; setsid sleep 4542 & sleep 4543", timeout_ms=500)
        assert late.raw["timed_out"] is True
        assert until(lambda: not marked(4542) and not marked(4543), 2)
        assert marked(4541)
        box.delete()
        assert until(lambda: not marked(4541), 2)
    finally:
        assert daemon.stop() == 0
