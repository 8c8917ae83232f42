"""What ends and empties a sandbox where no namespace does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import confine, tree
from apps.sandboxes.harness.confine import Identity
from tests.apps.sandboxes.harness.conftest import cannot

if TYPE_CHECKING:
    from pathlib import Path


def test_emptying_knows_no_mode_name_or_depth(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top = tmp_path / "top"
    deep = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=deep)
    below = os.open("top", os.O_RDONLY, dir_fd=deep)
    os.close(deep)
    for _ in range(3000):  # far beyond a path's length, and Python's recursion
        os.mkdir("d", dir_fd=below)
        following = os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = following
    os.close(below)
    (top / ".gone-1").mkdir()
    (top / ".gone-2").write_text("a name that we would take")
    (top / ".gone-1" / "file").write_text("x")
    (top / "closed").mkdir()
    (top / "closed" / "inner").mkdir()
    (top / "closed" / "inner").chmod(0)
    (top / "closed").chmod(0)
    (top / "link").symlink_to(outside)
    (top / "bad\udcff\nname").write_text("x")
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(top / "sock"))
    seen: list[None] = []
    tree.empty(str(top), lambda: seen.append(None))
    assert list(top.iterdir()) == []
    assert len(seen) > 3000
    assert (outside / "kept").read_text() == "x"


def test_emptying_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match=r"directory|symbolic"):
        tree.empty(str(tmp_path / "link"))


def test_descendants_are_ended_however_they_fork() -> None:
    """Session leaders, orphans that a subreaper adopted, a loop of forks; not its siblings."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        from apps.sandboxes.harness import syscalls  # noqa: PLC0415  in the child only

        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        script = "sleep 701 & setsid sleep 702 & (setsid sleep 703 &); while :; do (:); done"
        subprocess.Popen(["/bin/sh", "-c", script])  # noqa: S603  a constant
        time.sleep(0.3)
        tree.kill_descendants(os.getpid())
        os.write(write, str(len(list(tree._descendants(os.getpid())))).encode())
        os._exit(0)
    sibling = subprocess.Popen(["/bin/sleep", "60"])
    os.waitpid(pid, 0)
    assert os.read(read, 9) == b"0"
    assert sibling.poll() is None
    sibling.kill()
    sibling.wait()
    for descriptor in (read, write):
        os.close(descriptor)


def test_a_user_is_ended_and_nobody_else() -> None:
    if os.geteuid() != 0:
        cannot("processes of other users need root")
    uid = 1_900_000 + os.getpid() % 10_000
    own, other = (
        subprocess.Popen(["/bin/sh", "-c", "sleep 60 & wait"], user=user, group=user)
        for user in (uid, uid + 20_000)
    )
    assert tree._runs_as(own.pid, uid)
    assert not tree._runs_as(other.pid, uid)
    tree.kill_user(Identity(uid, uid, drop_user=True))
    tree.await_end(uid)
    assert own.wait(5) == -signal.SIGKILL
    assert other.poll() is None
    tree.kill_user(Identity(uid + 20_000, uid + 20_000, drop_user=True))
    assert other.wait(5) == -signal.SIGKILL


def test_nothing_is_done_in_the_name_of_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever went wrong with giving up the user, `kill(-1)` must not be called then."""
    killed = tmp_path / "killed"
    monkeypatch.setattr(os, "kill", lambda *_: killed.write_text("all"))
    identity = Identity(1_950_000, 1_950_000, drop_user=True)
    with monkeypatch.context() as broken:
        broken.setattr(confine, "become", lambda *_: None)
        with pytest.raises(tree.StillRootError):
            tree.become(identity, ())
    for name, wrong in (("setresuid", lambda *_: None), ("setgroups", lambda *_: 1 / 0)):
        with monkeypatch.context() as broken:
            broken.setattr(os, name, wrong)
            with pytest.raises(tree.StillRootError):
                tree.kill_user(identity)
    with pytest.raises(tree.StillRootError):
        tree.kill_user(Identity(0, 0, drop_user=True))
    assert not killed.exists()


FIGHTERS = {
    # A thread that kills spares its own process, so several of them are one fighter.
    "kills": "fight(signal.SIGKILL)",
    "stops": "fight(signal.SIGSTOP)",
    "hides": "ctypes.CDLL(None).prctl(4, 0); fight(signal.SIGKILL)",
    "runs away": "run_away()",
}
FIGHT = """
import ctypes, os, signal, threading
kill = ctypes.CDLL(None).kill
def loop(number):
    while True: kill(-1, number)
def fight(number):
    for _ in range(3): threading.Thread(target=loop, args=(number,)).start()
    print("ready", flush=True)
    loop(number)
def run_away():
    print("ready", flush=True)
    while True:
        if os.fork(): os._exit(0)
        kill(-1, signal.SIGKILL)
"""


@pytest.mark.parametrize("fighter", FIGHTERS)
def test_a_user_that_fights_back_is_ended(fighter: str) -> None:
    """Who ends a user's processes is one of them for a moment, and they may end it first."""
    if os.geteuid() != 0:
        cannot("processes of other users need root")
    uid = 1_970_000 + os.getpid() % 10_000
    for _ in range(5):
        started = subprocess.Popen(  # noqa: S603  constants
            ["/usr/bin/python3", "-I", "-c", FIGHT + FIGHTERS[fighter]],
            user=uid, group=uid, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        try:
            tree.kill_user(Identity(uid, uid, drop_user=True))
            tree.await_end(uid)
            assert not tree._runs_as(started.pid, uid)
        finally:
            started.kill()
            started.stdout.close()
            started.wait()
