"""What a domain keeps, by each version of the interface that this kernel has."""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import landlock, syscalls
from tests.apps.sandboxes.harness.conftest import cannot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.isolation


def outcome(work: Callable[[], object]) -> str:
    """What it came to: ok, or the name of the errno."""
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def inside(descriptor: int, work: Callable[[], list[str]]) -> list[str]:
    """What `work` finds in a child under the ruleset."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            landlock.restrict(descriptor)
            os.write(write, " ".join(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as file:
        return file.read().split()


def connected(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 2).close()


def bound() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


@pytest.mark.parametrize("version", range(1, 8))
def test_paths_ports_and_signals(version: int, tmp_path: Path) -> None:
    if landlock.abi() < version:
        if version == 1:
            cannot("this kernel has no Landlock")
        pytest.skip(f"this kernel's Landlock is older than {version}")
    for name in ("read", "write", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = one.getsockname()[1], two.getsockname()[1]
        descriptor = landlock.ruleset(
            [str(tmp_path / "write"), "/nonexistent"],
            version=version,
            readable=[str(tmp_path / "read")],
            port=ports[0],
        )
        us = os.getpid()
        found = inside(
            descriptor,
            lambda: [
                outcome((tmp_path / "read/file").read_text),
                outcome(lambda: (tmp_path / "read/file").write_text("y")),
                outcome(lambda: (tmp_path / "write/file").write_text("y")),
                outcome((tmp_path / "closed/file").read_text),
                outcome(lambda: os.listdir("/")),  # noqa: PTH208  as short as it gets
                outcome(lambda: connected(ports[0])),
                outcome(lambda: connected(ports[1])),
                outcome(bound),
                outcome(lambda: os.kill(us, signal.SIG_DFL)),
            ],
        )
        os.close(descriptor)
    network = "EACCES" if version >= landlock.NETWORK_ABI else "ok"
    signals = "EPERM" if version >= landlock.SCOPE_ABI else "ok"
    files = ["ok", "EACCES", "ok", "EACCES", "EACCES"]
    assert found == [*files, "ok", network, network, signals]
