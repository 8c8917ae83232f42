"""Messages with descriptors: whole or not at all, bounded in size and time."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from apps.sandboxes.harness import ipc
from tests.apps.sandboxes.harness.conftest import open_descriptors


def test_a_message_and_its_descriptors_arrive() -> None:
    ours, theirs = ipc.pair()
    with ours, theirs:
        read_end, write_end = os.pipe()
        ipc.send(ours, {"op": "x"}, [write_end])
        message, fds = ipc.receive(theirs, 1)
        assert message == {"op": "x"}
        assert not os.get_inheritable(fds[0])
        os.write(fds[0], b"hi")
        assert os.read(read_end, 9) == b"hi"
        ipc.close_all([read_end, write_end, *fds])


def test_a_silent_peer_costs_only_the_timeout() -> None:
    ours, theirs = ipc.pair()
    with ours, theirs:
        started = time.monotonic()
        with pytest.raises(ipc.IpcError):
            ipc.receive(ours, 0.05)
        assert time.monotonic() - started < 2


def test_a_peer_that_is_gone() -> None:
    ours, theirs = ipc.pair()
    theirs.close()
    with ours:
        with pytest.raises(ipc.IpcError, match="closed"):
            ipc.receive(ours, 1)
        with pytest.raises(ipc.IpcError, match="gone"):
            ipc.send(ours, {})


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"1"])
def test_what_is_no_message_leaks_no_descriptor(body: bytes) -> None:
    ours, theirs = ipc.pair()
    with ours, theirs, Path("/dev/null").open() as null:
        before = open_descriptors()
        socket.send_fds(ours, [body], [null.fileno()])
        with pytest.raises(ipc.IpcError):
            ipc.receive(theirs, 1)
        assert open_descriptors() == before


def test_more_descriptors_or_bytes_than_allowed() -> None:
    ours, theirs = ipc.pair()
    with ours, theirs, Path("/dev/null").open() as null:
        with pytest.raises(ipc.IpcError, match="limit"):
            ipc.send(ours, {}, [null.fileno()] * 9)
        with pytest.raises(ipc.IpcError, match="limit"):
            ipc.send(ours, {"x": "y" * ipc.MAX_MESSAGE})
        before = open_descriptors()
        socket.send_fds(ours, [b"{}"], [null.fileno()] * 40)
        with pytest.raises(ipc.IpcError, match="cut"):
            ipc.receive(theirs, 1)
        assert open_descriptors() == before


def test_a_memory_file_holds_its_content() -> None:
    blob = os.urandom(3_000_000)
    with os.fdopen(ipc.memory_file(blob, "test"), "rb") as file:
        assert file.read() == blob
