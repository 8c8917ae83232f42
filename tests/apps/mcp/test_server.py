"""Agents at `/mcp`, with the official SDK's client in every era that it speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.apps.mcp.conftest import MODES

if TYPE_CHECKING:
    from tests.apps.mcp.conftest import Edge, Events

pytestmark = pytest.mark.database
TOOLS = ["file_list", "file_read", "file_write", "shell_exec", "web_fetch", "whoami"]


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_asks_who_it_is_and_runs_a_command(
    edge: Edge, events: Events, mode: str
) -> None:
    async with edge.client(mode=mode) as client:
        me = await client.call_tool("whoami", {})
        assert me.structured_content is not None
        assert me.structured_content["name"] == "Bot"
        assert me.structured_content["projects"] == [{"project": "production", "role": "member"}]
        ran = await client.call_tool("shell_exec", {"command": "echo hello; echo oops >&2; exit 3"})
    assert ran.structured_content is not None
    assert ran.structured_content["stdout"] == "hello\n"
    assert ran.structured_content["stderr"] == "oops\n"
    assert ran.structured_content["exit_code"] == 3
    assert not ran.is_error
    calls = events.on("mcp_tool")
    assert [call["resource_id"] for call in calls] == ["whoami", "shell_exec"]
    [shell] = events.on("shell_command")
    assert shell["metadata"]["command"].startswith("echo hello")
    assert shell["result"] == "failure"
