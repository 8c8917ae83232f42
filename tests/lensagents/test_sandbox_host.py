"""`manage.py sandbox_host` fails when a part of it has died, so that it is started anew."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from django.core.management.base import CommandError

from apps.sandboxes.broker import Broker
from lensagents.management.commands import sandbox_host

if TYPE_CHECKING:
    from pathlib import Path


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
