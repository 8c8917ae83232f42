"""Agents at `/mcp`, with the official SDK's client in every era that it speaks."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest
from mcp.shared.exceptions import MCPError

from apps.agents import services as agents
from apps.orgs import services as orgs
from apps.sandboxes.models import Sandbox
from tests import factories
from tests.apps.mcp.conftest import MODES, in_thread

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

    from tests.apps.mcp.conftest import Edge, Events

pytestmark = pytest.mark.database
TOOLS = ["file_list", "file_read", "file_write", "shell_exec", "web_fetch", "whoami"]


async def called(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a call that must go well."""
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    answer: dict[str, Any] | None = result.structured_content
    assert answer is not None
    return answer


async def refused(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of a call that must fail."""
    result: CallToolResult = await client.call_tool(name, arguments)
    assert result.is_error, result.structured_content
    answer: dict[str, Any] | None = result.structured_content
    assert answer is not None
    assert answer["message"]
    return answer


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_asks_who_it_is_and_runs_a_command(
    edge: Edge, events: Events, mode: str
) -> None:
    async with edge.client(mode=mode) as client:
        me = await called(client, "whoami")
        ran = await called(client, "shell_exec", command="echo hello; echo oops >&2; exit 3")
    assert me["name"] == "Bot"
    assert me["projects"] == [{"project": "production", "role": "member"}]
    assert (ran["stdout"], ran["stderr"], ran["exit_code"]) == ("hello\n", "oops\n", 3)
    calls = events.on("mcp_tool")
    assert [(call["resource_id"], call["result"]) for call in calls] == [
        ("whoami", "success"),
        ("shell_exec", "failure"),
    ]
    [shell] = events.on("shell_command")
    assert shell["metadata"]["command"].startswith("echo hello")
    assert shell["metadata"]["exit_code"] == 3
    assert shell["trace_id"] == calls[1]["trace_id"]
    assert calls[1]["project_slug"] == "production"
    assert "hello\n" not in str(calls)


async def test_each_event_of_a_degraded_sandbox_says_so(edge: Edge, events: Events) -> None:
    edge.twin.isolation = "degraded"
    await in_thread(
        orgs.organization_update, edge.world.org, allow_degraded=True, actor=edge.world.admin
    )
    async with edge.client() as client:
        for command in ("echo new", "echo warm"):
            await called(client, "shell_exec", command=command)
    told = [*events.on("mcp_tool"), *events.on("shell_command")]
    assert [event["metadata"]["isolation"] for event in told] == ["degraded"] * 4


@pytest.mark.parametrize("mode", MODES)
async def test_each_agent_sees_its_own_tools_in_one_order(edge: Edge, mode: str) -> None:
    other = await in_thread(edge.other_agent, ("whoami", "file_*"))
    async with edge.client(mode=mode) as client, edge.client(other, mode=mode) as narrow:
        wide = await client.list_tools()
        few = await narrow.list_tools()
    assert [tool.name for tool in wide.tools] == TOOLS
    assert [tool.name for tool in few.tools] == ["file_list", "file_read", "file_write", "whoami"]
    assert (wide.cache_scope, wide.ttl_ms) == ("private", 0)
    for tool in wide.tools:
        assert tool.input_schema["additionalProperties"] is False
        assert "project" not in tool.input_schema["properties"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_hidden_tool_and_an_unknown_one_are_answered_alike(
    edge: Edge, events: Events, mode: str
) -> None:
    other = await in_thread(edge.other_agent, ("whoami",))
    errors = []
    async with edge.client(other, mode=mode) as client:
        for name in ("shell_exec", "no_such_tool"):
            with pytest.raises(MCPError) as caught:
                await client.call_tool(name, {"command": "id"})
            errors.append(caught.value.error)
    hidden, unknown = errors
    assert hidden.code == unknown.code == -32602
    assert hidden.message.replace("shell_exec", "no_such_tool") == unknown.message
    assert set(hidden.data) == set(unknown.data)
    refusals = [event for event in events.on("mcp_tool") if event["result"] == "denied"]
    assert [event["decision_id"] for event in refusals] == [
        error.data["decision_id"] for error in errors
    ]
    assert refusals[0]["metadata"]["layer"] == "team"
    assert refusals[1]["reason"] == "There is no such tool."
    assert events.on("shell_command") == []


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("shell_exec", {"command": "id", "timeout": 1_200_001}, ("timeout", "maximum of 1200000")),
        ("shell_exec", {"command": "id", "timeout": 0}, ("timeout", "minimum of 1")),
        ("shell_exec", {"command": "id", "timeout": "30000"}, ("timeout", "integer")),
        ("shell_exec", {"command": "id", "timeout": True}, ("timeout", "integer")),
        ("shell_exec", {}, ("command", "required")),
        ("shell_exec", {"command": ""}, ("command", "too short")),
        ("shell_exec", {"command": "x" * 65_537}, ("command", "65537 characters")),
        ("shell_exec", {"command": "id", "cwd": "/"}, ("cwd", "no argument")),
        ("shell_exec", {"command": ["id"]}, ("command", "string")),
        ("whoami", {"x": 1}, ("x", "no argument")),
        ("file_write", {"path": "a", "content": "?", "encoding": "base64"}, ("content", "base64")),
        (
            "file_write",
            {"path": "a", "content": "", "mode": "w"},
            ("mode", "not one of its values"),
        ),
        ("web_fetch", {"url": "http://x.example", "headers": {"A": 1}}, ("headers.A", "string")),
    ],
)
async def test_a_wrong_argument_is_named_with_its_remedy(
    edge: Edge, events: Events, tool: str, arguments: dict[str, Any], expected: tuple[str, str]
) -> None:
    field, says = expected
    async with edge.client() as client:
        problem = await refused(client, tool, **arguments)
    assert problem["error"] == "invalid_arguments"
    assert problem["field"] == field
    assert says in problem["message"]
    assert problem["remedy"]
    [event] = events.on("mcp_tool")
    assert (event["result"], event["status"]) == ("failure", 400)


async def test_with_two_projects_one_must_be_named(edge: Edge) -> None:
    world = edge.world
    await in_thread(orgs.grant_set, world.team, world.other_project, actor=world.admin)
    async with edge.client() as client:
        tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        missing = await refused(client, "shell_exec", command="id")
        wrong = await refused(client, "shell_exec", command="id", project="support")
        for project in ("production", "staging"):
            await called(client, "file_write", path="where", content=project, project=project)
        for project in ("production", "staging"):
            read = await called(client, "file_read", path="where", project=project)
            assert read["content"] == project
    assert tools["shell_exec"]["properties"]["project"]["enum"] == ["production", "staging"]
    assert "project" not in tools["whoami"]["properties"]
    assert (missing["field"], wrong["field"]) == ("project", "project")
    assert len(edge.twin.boxes) == 2


async def test_files_come_back_as_they_were_written(edge: Edge, events: Events) -> None:
    blob = bytes(range(256))
    async with edge.client() as client:
        await called(client, "file_write", path="a/b.txt", content="grüße\n")
        await called(client, "file_write", path="a/b.txt", content="mehr", mode="append")
        text = await called(client, "file_read", path="/workspace/a/b.txt")
        part = await called(client, "file_read", path="a/b.txt", limit=3)
        encoded = base64.b64encode(blob).decode()
        await called(client, "file_write", path="blob", content=encoded, encoding="base64")
        binary = await called(client, "file_read", path="blob")
        listed = await called(client, "file_list")
        taken = await refused(client, "file_write", path="blob", content="", mode="create")
        absent = await refused(client, "file_read", path="nothing")
        folder = await refused(client, "file_read", path="a")
    assert text["content"] == "grüße\nmehr"
    assert (part["content"], part["eof"]) == ("gr", False)
    assert base64.b64decode(binary["content_base64"]) == blob
    assert "content" not in binary
    assert [entry["name"] for entry in listed["entries"]] == ["a", "blob"]
    assert taken["error"] == "already_exists"
    assert absent["error"] == "not_found"
    assert folder["error"] == "is_directory"
    operations = [event["action"] for event in events.on("sandbox_operation")]
    assert operations.count("file.write") == 4
    assert operations.count("file.read") == 5
    assert "file.list" in operations


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "/workspace/../etc/passwd"])
async def test_a_path_outside_the_workspace_is_refused(edge: Edge, path: str) -> None:
    async with edge.client() as client:
        for tool, more in (("file_read", {}), ("file_write", {"content": "x"}), ("file_list", {})):
            problem = await refused(client, tool, path=path, **more)
            assert problem["error"] == "path_outside_workspace"


async def test_binary_output_is_marked_and_kept(edge: Edge) -> None:
    async with edge.client() as client:
        result = await client.call_tool("shell_exec", {"command": "printf '\\377\\000\\001'"})
    assert result.structured_content is not None
    assert base64.b64decode(result.structured_content["stdout_base64"]) == b"\xff\0\1"
    assert "stdout" not in result.structured_content
    assert "[binary stdout: 3 bytes" in result.content[0].text  # type: ignore[union-attr]


@pytest.mark.slow  # it moves 100 MB
async def test_a_hundred_megabytes_of_output_are_cut_and_counted(edge: Edge) -> None:
    command = "yes übermäßig | head -c 104857600"
    async with edge.client() as client:
        ran = await called(client, "shell_exec", command=command, max_output_bytes=1000)
    assert ran["stdout_truncated"]
    assert ran["stdout_bytes"] >= 100 * 1024 * 1024
    assert len(ran["stdout"].encode()) <= 1000


async def test_a_command_that_takes_too_long_is_killed(edge: Edge, events: Events) -> None:
    async with edge.client() as client:
        problem = await refused(client, "shell_exec", command="echo begun; sleep 30", timeout=200)
    assert problem["error"] == "command_timeout"
    assert problem["stdout"] == "begun\n"
    assert "timeout" in problem["remedy"]
    [event] = events.on("shell_command")
    assert (event["result"], event["reason"]) == ("failure", "command_timeout")


async def test_secrets_in_commands_do_not_reach_the_trail(edge: Edge, events: Events) -> None:
    token = "ghp_" + "a1B2" * 9
    async with edge.client() as client:
        await called(client, "shell_exec", command=f"echo {token}; export PASSWORD=hunter2hunter2")
    assert token not in str(events)
    assert "hunter2" not in str(events)
    assert "[GitHub token]" in events.on("shell_command")[0]["metadata"]["command"]


async def test_a_host_that_cannot_isolate_says_how_to_change_that(
    edge: Edge, events: Events
) -> None:
    edge.twin.unavailable = "sysctl -w user.max_user_namespaces=10000"
    async with edge.client() as client:
        first = await refused(client, "shell_exec", command="id")
        again = await refused(client, "shell_exec", command="id")
        me = await called(client, "whoami")
    assert first["error"] == again["error"] == "isolation_unavailable"
    assert first["remedy"] == "sysctl -w user.max_user_namespaces=10000"
    assert me["name"] == "Bot"
    # The second call found the failure and did not try again at once.
    assert edge.twin.calls.count("POST /v1/sandboxes") == 1
    row = await in_thread(Sandbox.objects.get)
    assert (row.state, row.failure) == ("failed", "isolation_unavailable")
    assert [event["result"] for event in events.on("mcp_tool")][:2] == ["error", "error"]


async def test_a_missing_sandbox_service_is_told(edge: Edge) -> None:
    await asyncio.to_thread(edge.twin.stop)
    async with edge.client() as client:
        problem = await refused(client, "shell_exec", command="id")
    assert problem["error"] == "sandboxd_unavailable"
    assert problem["remedy"]


async def test_callers_who_race_share_one_sandbox(edge: Edge) -> None:
    edge.twin.create_delay = 0.2

    async def one() -> dict[str, Any]:
        async with edge.client() as client:
            return await called(client, "shell_exec", command="pwd")

    answers = await asyncio.gather(*(one() for _ in range(6)))
    assert len({answer["stdout"] for answer in answers}) == 1
    assert edge.twin.calls.count("POST /v1/sandboxes") == 1
    assert await in_thread(Sandbox.objects.count) == 1


async def test_a_restarted_sandbox_service_is_recovered_from(edge: Edge) -> None:
    async with edge.client() as client:
        before = await called(client, "shell_exec", command="pwd")
        await asyncio.to_thread(edge.twin.restart)
        after = await called(client, "shell_exec", command="pwd")
    assert before["stdout"] != after["stdout"]
    states = await in_thread(lambda: list(Sandbox.objects.values_list("state", "failure")))
    assert sorted(states) == [("failed", "sandbox_lost"), ("ready", "")]


async def test_a_stranger_works_apart(edge: Edge) -> None:
    stranger = await in_thread(factories.globex)
    async with edge.client() as mine, edge.client(stranger.minted.value) as theirs:
        await called(mine, "file_write", path="plan", content="ours")
        me = await called(theirs, "whoami")
        absent = await refused(theirs, "file_read", path="plan")
        problem = await refused(theirs, "file_read", path="plan", project="production")
    assert me["organization"] == "globex"
    assert absent["error"] == "not_found"
    assert problem["field"] == "project"
    assert len(edge.twin.boxes) == 2


async def test_a_disabled_agent_is_told_at_the_next_call(edge: Edge) -> None:
    async with edge.client(mode="2026-07-28") as client:
        await called(client, "whoami")
        await in_thread(agents.agent_disable, edge.world.agent, actor=edge.world.admin)
        await asyncio.sleep(0.3)
        with pytest.raises(MCPError):
            await client.call_tool("whoami", {})
