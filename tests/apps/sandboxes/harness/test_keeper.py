"""The keeper starts a sandboxd that died anew, and ends with it where it should."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import keeper, sandboxd
from tests.apps.sandboxes.harness.conftest import Daemon, answers, program, start, until
from tests.apps.sandboxes.harness.test_lifecycle import alive, groups, named, processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.isolation

MODULE = ("apps.sandboxes.harness.keeper",)


@pytest.fixture
def kept(isolation: None, folder: Path) -> Iterator[Daemon]:
    """A keeper whose standard input is ours, as in the embedded default."""
    running = start(folder, module=MODULE, stop_on_stdin_eof=True)
    yield running
    running.stop()


def instance(kept: Daemon) -> str:
    return str(kept.call("GET", "/v1/activity")[1]["instance"])


def kill_sandboxd(kept: Daemon, number: signal.Signals) -> None:
    (pid,) = named(kept, "lens-sandboxd")
    os.kill(pid, number)
    assert until(lambda: not alive(pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_sandboxd_that_died_is_started_anew(kept: Daemon, number: signal.Signals) -> None:
    box = kept.create()
    box.run("sleep 100 >/dev/null 2>&1 & setsid sleep 100 >/dev/null 2>&1 &")
    before, pids = instance(kept), processes(kept) - {kept.process.pid}
    kill_sandboxd(kept, number)
    assert until(lambda: not any(alive(pid) for pid in pids))  # everything ended with it
    assert until(lambda: answers(kept))
    assert instance(kept) != before
    assert kept.call("GET", f"/v1/sandboxes/{box.id}")[0] == 404
    assert groups(kept) == []
    assert kept.create().run("echo 1").text == "1"
    assert "it is started anew in 0.2 s" in kept.log()


def test_pauses_grow(kept: Daemon) -> None:
    for pause in ("0.2", "0.4", "0.8"):
        kill_sandboxd(kept, signal.SIGKILL)
        assert until(lambda: f"signal 9); it is started anew in {pause} s" in kept.log())  # noqa: B023  used at once
        assert until(lambda: answers(kept))


def test_it_ends_with_its_parent(kept: Daemon) -> None:
    kept.create()
    pids = processes(kept)
    assert kept.process.stdin is not None
    kept.process.stdin.close()
    assert kept.process.wait(10) == 0
    assert until(lambda: not any(alive(pid) for pid in pids))


def test_it_ends_with_its_parent_also_in_a_pause(kept: Daemon) -> None:
    for _ in range(3):
        kill_sandboxd(kept, signal.SIGKILL)
        assert until(lambda: answers(kept))
    kill_sandboxd(kept, signal.SIGKILL)
    assert until(lambda: "anew in 1.6 s" in kept.log())
    assert kept.process.stdin is not None
    kept.process.stdin.close()
    assert kept.process.wait(1) == 0


def test_it_ends_when_it_is_told_to(kept: Daemon) -> None:
    kept.create()
    pids = processes(kept)
    kept.process.terminate()
    assert kept.process.wait(10) == 0
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert groups(kept) == []


def test_no_sandboxd_outlives_its_keeper(kept: Daemon) -> None:
    kept.create()
    pids = processes(kept)
    kept.process.kill()
    kept.process.wait(10)
    assert until(lambda: not any(alive(pid) for pid in pids))


def test_a_wrong_configuration_is_no_reason_to_try_again(folder: Path) -> None:
    config = folder / "sandboxd.json"
    config.write_text('{"max_sandboxes": "many"}')
    ended = program("-m", *MODULE, "--config", str(config))
    assert ended.returncode == 2
    assert b"configuration: " in ended.stderr
    assert b"anew" not in ended.stderr


def test_a_folder_that_cannot_be_used_is_no_reason_either(folder: Path) -> None:
    """What the configuration names is looked at in the fork."""
    config = folder / "sandboxd.json"
    paths = {"socket": "/proc/nowhere/d.sock", "spool_root": str(folder), "broker_socket": "/x"}
    config.write_text(json.dumps(paths))
    ended = program("-m", *MODULE, "--config", str(config))
    assert ended.returncode == 2
    assert b"anew" not in ended.stderr


@pytest.mark.parametrize("other", ["link", "file", "second name"])
def test_only_a_socket_of_ours_is_given_away(tmp_path: Path, other: str) -> None:
    """At a later start the folder is the control plane's, and it may be hostile."""
    place, victim = tmp_path / "d.sock", tmp_path / "victim"
    with socket.socket(socket.AF_UNIX) as listener:
        if other == "second name":
            listener.bind(str(victim))
            place.hardlink_to(victim)
        else:
            victim.touch(0o600)
            getattr(place, "symlink_to" if other == "link" else "hardlink_to")(victim)
        before = victim.stat()
        settings = SimpleNamespace(socket=place, control_uid=1234, control_gid=1234)
        with pytest.raises(OSError, match="the socket"):
            sandboxd.open_to_control_plane(settings)  # type: ignore[arg-type]
    after = victim.stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


def test_who_ran_for_long_begins_with_short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ends in a row: the pauses are bounded, and short again after a long run."""
    pauses: list[float] = []
    ran = iter([1.0] * 9 + [61.0, 1.0])
    now = [0.0]

    def wait(child: int | None, *, tied: bool, seconds: float | None = None) -> int:
        assert tied
        if child is None:
            pauses.append(seconds or 0)
            return 0
        now[0] += next(ran, 0.0)
        if len(pauses) == 11:
            raise keeper._ToldToEnd
        return -9

    monkeypatch.setattr(keeper, "start", lambda _: 1)
    monkeypatch.setattr(keeper, "wait", wait)
    monkeypatch.setattr(keeper, "end", lambda _: 0)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    settings = SimpleNamespace(stop_on_stdin_eof=True)
    assert keeper.keep(settings) == 0  # type: ignore[arg-type]
    assert pauses[:9] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    assert pauses[9:] == [0.2, 0.4]


def test_a_host_that_cannot_fork_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[bool] = []

    def start_or_not(_: object) -> int:
        started.append(True)
        if len(started) == 1:
            raise BlockingIOError(errno.EAGAIN, "no process left")
        return 1

    def wait(child: int | None, **_: object) -> int:
        return 0 if child is None else sandboxd.BAD_CONFIG

    monkeypatch.setattr(keeper, "start", start_or_not)
    monkeypatch.setattr(keeper, "wait", wait)
    settings = SimpleNamespace(stop_on_stdin_eof=True)
    assert keeper.keep(settings) == sandboxd.BAD_CONFIG  # type: ignore[arg-type]
    assert "could not be started (no process left)" in capsys.readouterr().err
