"""What sandboxd keeps account of, with sandboxes that are none."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from apps.common.errors import Unavailable
from apps.sandboxes.harness import ipc, manager, modes
from apps.sandboxes.harness.manager import Manager
from apps.sandboxes.harness.sandbox import Sandbox
from tests.apps.sandboxes.harness.conftest import until


class Home:
    """A folder that is full of files."""

    def __init__(self) -> None:
        self.empty = threading.Event()

    def clear(self) -> None:
        self.empty.wait(30)


def managed(home: Home) -> Manager:
    """One with room for one sandbox, which has that folder."""

    def create(wanted: Any, slot: int) -> Sandbox:
        made = Sandbox(wanted.id, slot, wanted.limits, {}, "")
        made.home, made.ready = home, True  # type: ignore[assignment]  # has what is asked of it
        return made

    spawner = SimpleNamespace(
        config=SimpleNamespace(max_sandboxes=1), create=create, discard=lambda _: None
    )
    return Manager(spawner, SimpleNamespace(refusal=lambda **_: ""))  # type: ignore[arg-type]


def wanted(name: str) -> Any:
    return SimpleNamespace(id=name, limits=None, allow_degraded=True)


def test_nobody_waits_for_a_full_folder_and_its_user_is_given_out_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manager, "_CLEAR_PATIENCE", 0.05)
    home = Home()
    one = managed(home)
    one.create(wanted("first"))
    assert one.delete("first") is True
    with pytest.raises(Unavailable, match="as many sandboxes as it may"):
        one.create(wanted("second"))
    home.empty.set()
    assert until(lambda: bool(one._free))
    one.create(wanted("second"))
    one.closing = True


def test_a_folder_is_cleared_for_as_long_as_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modes, "_SILENCE_SECONDS", 0.5)
    ours, theirs = ipc.pair()
    with ours, theirs:
        for event in ("forked", *["clearing"] * 20, "cleared"):
            ipc.send(theirs, {"event": event})
        modes._await(ours, "cleared")
        with pytest.raises(ipc.IpcError, match="no message"):
            modes._await(ours, "cleared")
        ipc.send(theirs, ipc.failure("clear", OSError(13, "it may not")))
        with pytest.raises(ipc.IpcError, match="it may not"):
            modes._await(ours, "cleared")
        theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ipc.IpcError, match="closed"):
            modes._await(ours, "cleared")
