"""The use of a sandbox is seen while it is used; a sandbox that went is replaced."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from apps.common import clock
from apps.sandboxes import lifecycle
from apps.sandboxes.driver import driver_for
from apps.sandboxes.models import Sandbox
from tests.apps.mcp.conftest import in_thread
from tests.apps.mcp.test_server import called

if TYPE_CHECKING:
    from tests.apps.mcp.conftest import Edge

pytestmark = pytest.mark.database


async def test_a_call_that_is_longer_than_the_idle_time_survives(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge.client() as client:
        await called(client, "shell_exec", command="true")
        later = clock.now() + timedelta(minutes=31)
        monkeypatch.setattr(clock, "now", lambda: later)
        async with asyncio.TaskGroup() as group:
            long = group.create_task(called(client, "shell_exec", command="sleep 1; echo done"))
            while not long.done():
                assert await in_thread(lifecycle.reap) == 0
                await asyncio.sleep(0.1)
        assert long.result()["stdout"] == "done\n"
        assert await in_thread(lifecycle.reap) == 0
        [box] = edge.twin.boxes.values()
        assert box.used is not None
        box.used -= 31 * 60
        assert await in_thread(lifecycle.reap) == 1
        assert not edge.twin.boxes


async def test_a_row_follows_the_calls_and_calls_write_nothing(edge: Edge) -> None:
    written: lifecycle.Written = {}

    def look() -> str:
        lifecycle.note_use(driver_for("process").activity(), written)
        return Sandbox.objects.get().state

    async with edge.client() as client:
        async with asyncio.TaskGroup() as group:
            group.create_task(called(client, "shell_exec", command="sleep 0.5"))
            await in_thread(until_running, edge)
            assert await in_thread(look) == "busy"
        [box] = edge.twin.boxes.values()
        box.used = (box.used or 0) - 6
        assert await in_thread(look) == "idle"
        before = await in_thread(Sandbox.objects.values().get)
        await called(client, "shell_exec", command="true")
        assert await in_thread(Sandbox.objects.values().get) == before
        assert await in_thread(look) == "busy"


async def test_a_call_waits_for_a_service_that_is_just_started_anew(edge: Edge) -> None:
    async with edge.client() as client:
        await called(client, "shell_exec", command="echo 1 > here")
        await in_thread(edge.twin.stop)
        threading.Timer(0.5, edge.twin.start).start()
        reply = await called(client, "shell_exec", command="cat here 2>/dev/null || echo fresh")
        assert reply["stdout"] == "fresh\n"
    assert sorted(await in_thread(_states)) == [("failed", "sandbox_lost"), ("ready", "")]


async def test_a_sandbox_whose_proxy_ended_is_replaced_at_the_next_call(edge: Edge) -> None:
    async with edge.client() as client:
        await called(client, "shell_exec", command="echo 1 > here")
        [box] = edge.twin.boxes.values()
        box.over = "proxy_ended"
        reply = await called(client, "shell_exec", command="cat here 2>/dev/null || echo fresh")
        assert reply["stdout"] == "fresh\n"
    assert sorted(await in_thread(_states)) == [("failed", "sandbox_lost"), ("ready", "")]


def until_running(edge: Edge) -> None:
    deadline = time.monotonic() + 10
    while not any(box.running for box in list(edge.twin.boxes.values())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _states() -> list[tuple[str, str]]:
    return list(Sandbox.objects.values_list("state", "failure"))


async def test_over_the_limit_the_caller_is_told_which_and_what_to_do(edge: Edge) -> None:
    await in_thread(type(edge.world.org).objects.update, sandboxes_total=1)
    async with edge.client() as client:
        await called(client, "shell_exec", command="true")
    other = await in_thread(edge.other_agent, ("shell_exec",))
    async with edge.client(other) as client:
        result = await client.call_tool("shell_exec", {"command": "true"})
    told = str(result)
    assert result.is_error
    assert "sandbox_limit" in told
    assert "as many sandboxes as it may have at once (1)" in told
    assert "ask an organization admin to raise the limit" in told
    assert await in_thread(Sandbox.objects.count) == 1
