"""The use of a sandbox is written down while it is used, not only afterwards."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from apps.common import clock
from apps.mcp import workplace
from apps.sandboxes import provisioning
from apps.sandboxes.models import Sandbox
from tests.apps.mcp.conftest import in_thread
from tests.apps.mcp.test_server import called

if TYPE_CHECKING:
    from tests.apps.mcp.conftest import Edge

pytestmark = pytest.mark.database


async def test_a_call_that_is_longer_than_the_idle_time_survives(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplace, "TOUCH_SECONDS", 0.1)
    monkeypatch.setattr(provisioning, "IDLE_AFTER", timedelta(seconds=1))
    async with edge.client() as client:
        await called(client, "shell_exec", command="true")
        async with asyncio.TaskGroup() as group:
            call = called(client, "shell_exec", command="sleep 2.5; echo done")
            long = group.create_task(call)
            while not long.done():
                assert await in_thread(provisioning.reap_idle) == 0
                await asyncio.sleep(0.1)
        assert long.result()["stdout"] == "done\n"
        await asyncio.sleep(1.2)
        assert await in_thread(provisioning.reap_idle) == 1


async def test_a_sandbox_that_another_process_used_long_ago_is_not_idle_once_it_is_found(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge.client() as client:
        await called(client, "shell_exec", command="true")
        long_ago = clock.now() - timedelta(minutes=31)
        await in_thread(Sandbox.objects.update, last_used_at=long_ago)
        monkeypatch.setattr(workplace.Warm, "find", lambda *_: None)  # as a restarted server
        await called(client, "shell_exec", command="true")
        assert await in_thread(provisioning.reap_idle) == 0
