"""`manage.py sandbox_host` fails when a part of it has died, so that it is started anew."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.management.base import CommandError

from apps.sandboxes.broker import Broker
from apps.sandboxes.client import Sandboxd
from apps.sandboxes.harness import syscalls
from lensagents.embedded.sandbox_host import SandboxHost
from lensagents.management.commands import sandbox_host
from tests.apps.sandboxes.harness import launch
from tests.apps.sandboxes.harness.conftest import CHECKOUT, cannot

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    return Broker(tmp_path / "broker.sock")


def test_it_runs_until_it_is_told_to_end(broker: Broker) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    sandbox_host.run([broker], stop)
    assert not broker.alive()


def test_it_fails_when_a_service_has_died(broker: Broker) -> None:
    threading.Timer(0.2, broker._listener.shutdown, [socket.SHUT_RDWR]).start()
    with pytest.raises(CommandError, match="Broker"):
        sandbox_host.run([broker], threading.Event())


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can pass."""
    place = Path(tempfile.mkdtemp(prefix="lens-test-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


def test_sandboxd_starts_where_root_of_a_container_becomes_a_user(folder: Path) -> None:
    """Without CAP_SYS_PTRACE, root may not look at what processes of other users have open."""
    if os.geteuid() != 0:
        cannot("giving up root needs root")
    config = {
        "socket": str(folder / "sandboxd.sock"),
        "spool_root": str(folder / "spool"),
        "broker_socket": str(folder / "broker.sock"),
        "control_uid": launch.USER,
        "force_unavailable": "a test",
        "stop_on_stdin_eof": True,
    }
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            kept = launch._OF_CONTAINERS
            syscalls.drop_bounding(c for c in syscalls.ALL_CAPABILITIES if c not in kept)
            syscalls.set_capabilities(kept)
            host = SandboxHost(CHECKOUT)
            host.start(config)
            os.setgroups([])
            os.setresgid(launch.USER, launch.USER, launch.USER)
            os.setresuid(launch.USER, launch.USER, launch.USER)
            client = Sandboxd(folder / "sandboxd.sock")
            client.wait(20)
            code = 0 if "a test" in client.health()["remedy"] else 2
            host.stop()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
