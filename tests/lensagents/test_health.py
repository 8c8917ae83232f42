"""What `/readyz` says of the services that run in the same process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lensagents import health

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


async def ready() -> tuple[int, dict[str, Any]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    await health.readyz({}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["checks"]


async def test_a_dead_service_makes_it_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_services", {})
    # For tests the application may become the other roles; the real check has tests of its own.
    monkeypatch.setattr(health, "_isolated", True)
    lives = [True]
    health.watch("Watcher", lambda: lives[0])
    assert await ready() == (200, {"database": "ok", "Watcher": "ok"})
    lives[0] = False
    assert await ready() == (503, {"database": "ok", "Watcher": "not running"})
