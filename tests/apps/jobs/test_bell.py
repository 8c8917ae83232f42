"""The bell: a broker that is away costs the caller next to nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from apps.common.ids import uuid7
from apps.jobs.bell import Bell
from lensagents.celery import app
from lensagents.settings.base import REDIS_BROKER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def dead_broker() -> Iterator[None]:
    """A current Celery app whose broker refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dead = Celery("dead", broker=f"redis://127.0.0.1:{port}/0", set_as_current=True)
    dead.conf.broker_transport_options = REDIS_BROKER_OPTIONS
    yield
    app.set_current()


def test_a_dead_broker_raises_nothing_and_is_then_left_alone(
    dead_broker: None, caplog: pytest.LogCaptureFixture
) -> None:
    bell = Bell()
    assert bell.ring([uuid7() for _ in range(1_000)]) == 0
    assert bell.ring([uuid7()]) == 0
    assert len(caplog.records) == 1
