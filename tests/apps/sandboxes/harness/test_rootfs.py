"""The tree of a sandbox: what all share, what is its own, and what the host does meanwhile."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import syscalls
from tests.apps.sandboxes.harness.conftest import Daemon, start
from tests.apps.sandboxes.harness.test_lifecycle import named, proc_file

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.isolation

DEVICES = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}


def test_sandboxes_share_nothing_that_one_of_them_may_write(daemon: Daemon) -> None:
    """The read-only part of the tree is one for all; everything else is each sandbox's own."""
    one, other = daemon.create(), daemon.create()
    places = "/workspace /tmp /dev/shm"
    assert one.run(f"for p in {places}; do echo x > $p/mine || exit 1; done").code == 0
    assert other.run(f"for p in {places}; do ls -A $p; done").text == ""
    devices = f"stat -c %d {places} /etc/lens /dev/pts /proc"
    assert not {*one.run(devices).text.split()} & {*other.run(devices).text.split()}
    writable = "awk '$6 ~ /^rw/ && $5 !~ /^.(proc|dev.pts)/ {print $5}' /proc/self/mountinfo"
    assert {*other.run(writable).text.split()} <= {*places.split(), *DEVICES}
    one.delete()
    other.delete()


@pytest.fixture
def tools() -> Iterator[Path]:
    """A folder of the host that is not below /usr."""
    place = Path(tempfile.mkdtemp(prefix="lens-tools-", dir="/run"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def test_a_tool_chain_of_its_own(isolation: None, folder: Path, tools: Path) -> None:
    (tools / "version").write_text("7")
    daemon = start(folder, system_paths=["/usr", str(tools)])
    try:
        box = daemon.create()
        assert box.run(f"cat {tools}/version").text == "7"
        assert box.run(f"echo 8 > {tools}/version").code != 0
    finally:
        daemon.stop()


def test_what_the_host_mounts_and_unmounts(isolation: None, folder: Path, tools: Path) -> None:
    """The forker keeps nothing in use that the host lets go of; nothing new turns up inside."""
    shared, system = tools, tools / "system"
    syscalls.mount("test", str(shared), "tmpfs")
    syscalls.mount("none", str(shared), None, 1 << 20)  # MS_SHARED
    system.mkdir()
    for name in ("before", "system/later"):
        (shared / name).mkdir()
    syscalls.mount("test", str(shared / "before"), "tmpfs")
    daemon = start(folder, system_paths=["/usr", str(system)])
    try:
        daemon.create().delete()
        (forker,) = named(daemon, "lens-forker")
        assert f" {shared}/before " in proc_file(forker, "mountinfo")
        syscalls.unmount(str(shared / "before"))
        syscalls.mount("test", str(system / "later"), "tmpfs")
        (system / "later" / "file").touch()
        assert f" {shared}/before " not in proc_file(forker, "mountinfo")
        assert daemon.create().run(f"ls {system}; ls {system}/later").text == "later"
    finally:
        daemon.stop()
        syscalls.unmount(str(shared))
