"""The endpoint below the SDK: hosts, origins, tokens, sessions, and what is cut when they end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from apps.agents import services as agents
from apps.audit.spool import encode_event
from apps.common import clock
from apps.mcp import host, server
from apps.orgs import services as orgs
from apps.policies import services as policies
from apps.policies.documents import ToolRuleDoc, document_of
from apps.sandboxes.models import Sandbox
from tests import factories
from tests.apps.mcp.conftest import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.apps.mcp.conftest import Edge, Events
    from tests.factories import World

pytestmark = pytest.mark.database
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"
CUT_SECONDS = 1.0


def modern(method: str, **params: Any) -> dict[str, Any]:
    """The JSON of one 2026-07-28 request."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **params}}


def modern_headers(edge: Edge, method: str, **more: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {edge.token}",
        "Accept": ACCEPT,
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
        **more,
    }


@contextlib.asynccontextmanager
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=30) as client:
        yield client


async def post(edge: Edge, headers: dict[str, str], body: Any = None) -> httpx2.Response:
    async with http() as client:
        return await client.post(edge.url, headers=headers, json=body or modern("tools/list"))


async def opened(edge: Edge, client: httpx2.AsyncClient, token: str) -> dict[str, str]:
    """The headers of a new legacy session."""
    headers = {"Authorization": f"Bearer {token}", "Accept": ACCEPT}
    params = {
        "protocolVersion": LEGACY,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    reply = await client.post(edge.url, headers=headers, json=body)
    assert reply.status_code == 200
    headers |= {"Mcp-Session-Id": reply.headers["mcp-session-id"], "MCP-Protocol-Version": LEGACY}
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await client.post(edge.url, headers=headers, json=done)).status_code == 202
    return headers


LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


async def test_a_good_request_is_answered(edge: Edge) -> None:
    reply = await post(edge, modern_headers(edge, "tools/list"))
    assert reply.status_code == 200
    result = reply.json()["result"]
    assert len(result["tools"]) == 6
    assert result["cacheScope"] == "private"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "token_missing"),
        ("", "token_missing"),
        ("Basic YTpi", "token_missing"),
        ("Bearer", "token_missing"),
        ("Bearer nonsense", "token_unknown"),
        ("Bearer lns_" + "A" * 43, "token_unknown"),
        ("Bearer lnsb_" + "A" * 43, "token_unknown"),
    ],
)
async def test_without_a_known_token_it_is_401(
    edge: Edge, events: Events, header: str | None, code: str
) -> None:
    headers = {} if header is None else {"Authorization": header}
    reply = await post(edge, headers)
    assert reply.status_code == 401
    assert reply.json()["error"] == code
    assert reply.json()["message"]
    challenge = reply.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="lens-agents"')
    assert ('error="invalid_token"' in challenge) is (code != "token_missing")
    if code == "token_unknown":
        assert [event["action"] for event in events] == ["token.refuse"]


def revoked(edge: Edge) -> None:
    agents.token_revoke(edge.world.minted.token, actor=edge.world.admin)


def expired(edge: Edge) -> None:
    minted = edge.world.minted.token
    type(minted).objects.filter(pk=minted.pk).update(expires_at=clock.now() - timedelta(seconds=1))


def team_deleted(edge: Edge) -> None:
    orgs.team_delete(edge.world.team, actor=edge.world.admin)


def disabled(edge: Edge) -> None:
    agents.agent_disable(edge.world.agent, actor=edge.world.admin)


ENDS = (
    (revoked, "token_revoked"),
    (team_deleted, "token_team_gone"),
    (disabled, "token_agent_disabled"),
)


@pytest.mark.parametrize(("end", "code"), [*ENDS, (expired, "token_expired")])
async def test_a_token_that_holds_no_more_is_401(
    edge: Edge, end: Callable[[Edge], None], code: str
) -> None:
    await in_thread(end, edge)
    reply = await post(edge, modern_headers(edge, "tools/list"))
    assert (reply.status_code, reply.json()["error"]) == (401, code)
    assert 'error="invalid_token"' in reply.headers["www-authenticate"]


async def test_a_sandbox_token_opens_nothing_here(edge: Edge, events: Events) -> None:
    async with edge.client() as client:
        await client.call_tool("shell_exec", {"command": "true"})
    [box] = edge.twin.boxes.values()
    headers = modern_headers(edge, "tools/list", Authorization=f"Bearer {box.spec['token']}")
    reply = await post(edge, headers)
    assert (reply.status_code, reply.json()["error"]) == (401, "token_audience")
    [event] = [event for event in events if event["action"] == "mcp.refuse"]
    assert event["principal_kind"] == "sandbox"


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", ""])
async def test_a_foreign_host_is_421(edge: Edge, events: Events, name: str) -> None:
    reply = await post(edge, modern_headers(edge, "tools/list", Host=name))
    assert reply.status_code == 421
    assert reply.json()["error"] == "host_not_allowed"
    [event] = events
    assert (event["action"], event["result"], event["org"]) == ("mcp.refuse", "denied", None)
    assert event["metadata"] == {"code": "host_not_allowed", "host": name}


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://evil.example:80",
        "http://user@localhost",
        "file://localhost",
        "http://localhost/path",
    ],
)
async def test_a_foreign_origin_is_403(edge: Edge, origin: str) -> None:
    reply = await post(edge, modern_headers(edge, "tools/list", Origin=origin))
    assert reply.status_code == 403
    assert reply.json()["error"] == "origin_not_allowed"


async def test_our_own_origin_is_served(edge: Edge) -> None:
    origin = edge.url.removesuffix("/mcp")
    reply = await post(edge, modern_headers(edge, "tools/list", Origin=origin))
    assert reply.status_code == 200


async def test_doubled_headers_are_refused(edge: Edge) -> None:
    other = await in_thread(edge.other_agent, ("*",))
    headers = [
        *modern_headers(edge, "tools/list").items(),
        ("Authorization", f"Bearer {other}"),
    ]
    async with http() as client:
        reply = await client.post(edge.url, headers=headers, json=modern("tools/list"))
    assert reply.status_code == 400
    assert reply.json()["error"] == "header_repeated"


async def test_a_body_over_the_bound_is_413(edge: Edge) -> None:
    body = modern("tools/list", filler="x" * (4 * 1024 * 1024))
    reply = await post(edge, modern_headers(edge, "tools/list"), body)
    assert reply.status_code == 413


async def test_a_session_belongs_to_its_token(edge: Edge, events: Events) -> None:
    other = await in_thread(edge.other_agent, ("*",))
    sibling = await in_thread(
        lambda: agents.token_create(edge.world.agent, name="2", actor=edge.world.admin).value
    )
    async with http() as client:
        mine = await opened(edge, client, edge.token)
        assert (await client.post(edge.url, headers=mine, json=LIST)).status_code == 200
        for thief in (other, sibling):
            stolen = {**mine, "Authorization": f"Bearer {thief}"}
            for method in ("POST", "GET", "DELETE"):
                reply = await client.request(method, edge.url, headers=stolen, json=LIST)
                assert reply.status_code == 404
        nobody = {**mine, "Authorization": ""}
        assert (await client.post(edge.url, headers=nobody, json=LIST)).status_code == 401
        assert (await client.post(edge.url, headers=mine, json=LIST)).status_code == 200
    thefts = [event for event in events if event["action"] == "mcp.refuse"]
    assert len(thefts) == 6
    assert thefts[0]["metadata"]["code"] == "session_of_other_token"
    assert thefts[0]["principal_name"] == "Lead bot"


async def test_no_token_takes_all_sessions(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MAX_SESSIONS", 3)
    other = await in_thread(edge.other_agent, ("*",))
    async with http() as client:
        sessions = [await opened(edge, client, edge.token) for _ in range(3)]
        headers = {"Authorization": f"Bearer {edge.token}", "Accept": ACCEPT}
        reply = await client.post(edge.url, headers=headers, json=LIST)
        assert (reply.status_code, reply.json()["error"]) == (429, "too_many_sessions")
        assert (await client.post(edge.url, headers=sessions[0], json=LIST)).status_code == 200
        modern_one = modern_headers(edge, "tools/list")
        reply = await client.post(edge.url, headers=modern_one, json=modern("tools/list"))
        assert reply.status_code == 200
        await opened(edge, client, other)
        assert (await client.delete(edge.url, headers=sessions[0])).status_code == 200
        await opened(edge, client, edge.token)


@pytest.mark.parametrize(("end", "code"), ENDS)
async def test_open_streams_and_running_calls_are_cut(
    edge: Edge, events: Events, end: Callable[[Edge], None], code: str
) -> None:
    listening = modern_headers(edge, "subscriptions/listen")
    calling = modern_headers(edge, "tools/call", **{"Mcp-Name": "shell_exec"})
    asked = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    command = modern("tools/call", name="shell_exec", arguments={"command": "sleep 60"})
    async with http() as client:
        session = await opened(edge, client, edge.token)
        streams = [
            client.stream("GET", edge.url, headers=session),
            client.stream("POST", edge.url, headers=listening, json=asked),
        ]
        tasks = [asyncio.ensure_future(drained(stream)) for stream in streams]
        call = asyncio.ensure_future(client.post(edge.url, headers=calling, json=command))
        legacy = {
            **command,
            "id": 7,
            "params": {"name": "shell_exec", "arguments": {"command": "sleep 61"}},
        }
        tasks.append(
            asyncio.ensure_future(
                drained(client.stream("POST", edge.url, headers=session, json=legacy))
            )
        )
        await until(lambda: sum(len(box.running) for box in edge.twin.boxes.values()) == 2)
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in (*tasks, call))
        await in_thread(end, edge)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            reply = await call
            await asyncio.gather(*tasks)
        assert asyncio.get_running_loop().time() - began < CUT_SECONDS
    assert (reply.status_code, reply.json()["error"]) == (401, code)
    await until(lambda: not any(box.running for box in edge.twin.boxes.values()))
    cut = [event for event in events.on("mcp_tool") if event["reason"] == f"cut: {code}"]
    assert [event["result"] for event in cut] == ["denied", "denied"]
    assert len(events.on("shell_command")) == 2


async def drained(stream: Any) -> None:
    """Read a response to its end, however it ends."""
    async with stream as reply:
        assert reply.status_code == 200
        with contextlib.suppress(httpx2.RemoteProtocolError):
            async for _ in reply.aiter_raw():
                pass


async def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("waited in vain")


async def test_a_client_that_goes_away_ends_its_command(edge: Edge, events: Events) -> None:
    headers = modern_headers(edge, "tools/call", **{"Mcp-Name": "shell_exec"})
    body = modern("tools/call", name="shell_exec", arguments={"command": "sleep 60"})
    async with http() as client:
        task = asyncio.ensure_future(client.post(edge.url, headers=headers, json=body))
        await until(lambda: any(box.running for box in edge.twin.boxes.values()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not any(box.running for box in edge.twin.boxes.values()))
    await until(lambda: bool(events.on("mcp_tool")))
    [event] = events.on("mcp_tool")
    assert (event["result"], event["status"]) == ("failure", 499)


async def test_the_same_sandbox_is_kept_between_eras(edge: Edge) -> None:
    for mode in ("legacy", MODERN):
        async with edge.client(mode=mode) as client:
            await client.call_tool("shell_exec", {"command": "true"})
    assert await in_thread(Sandbox.objects.count) == 1


async def test_a_listener_hears_when_its_own_list_changes(edge: Edge) -> None:
    stranger = await in_thread(edge.other_agent, ("whoami",))
    headers = modern_headers(edge, "subscriptions/listen")
    asked = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    heard: dict[str, list[str]] = {edge.token: [], stranger: []}

    async def listen(client: httpx2.AsyncClient, token: str) -> None:
        mine = {**headers, "Authorization": f"Bearer {token}"}
        async with client.stream("POST", edge.url, headers=mine, json=asked) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data:"):
                    heard[token].append(json.loads(line[5:])["method"])

    async with http() as client:
        tasks = [asyncio.ensure_future(listen(client, token)) for token in heard]
        await until(lambda: all(heard.values()))
        await in_thread(narrow, edge.world)
        await until(lambda: len(heard[edge.token]) == 2)
        await asyncio.sleep(0.6)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    acknowledged = "notifications/subscriptions/acknowledged"
    assert heard[edge.token] == [acknowledged, "notifications/tools/list_changed"]
    assert heard[stranger] == [acknowledged]


def narrow(world: World) -> None:
    """Take a tool away."""
    document = dataclasses.replace(document_of(world.policy), tools=(ToolRuleDoc("file_*"),))
    policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)


async def test_one_organization_does_not_take_all_places(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_ORG_CALLS", 1)
    headers = modern_headers(edge, "tools/call", **{"Mcp-Name": "shell_exec"})
    colleague = await in_thread(edge.other_agent, ("*",))
    stranger = (await in_thread(factories.globex)).minted.value

    async def call(client: httpx2.AsyncClient, token: str, command: str) -> dict[str, Any]:
        body = modern("tools/call", name="shell_exec", arguments={"command": command})
        theirs = {**headers, "Authorization": f"Bearer {token}"}
        reply = await client.post(edge.url, headers=theirs, json=body)
        return dict(reply.json()["result"]["structuredContent"])

    async with http() as client:
        running = asyncio.ensure_future(call(client, edge.token, "sleep 60"))
        await until(lambda: any(box.running for box in edge.twin.boxes.values()))
        assert (await call(client, colleague, "true"))["error"] == "too_many_calls"
        assert "too_many_calls" not in str(await call(client, stranger, "true"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: not any(box.running for box in edge.twin.boxes.values()))
        assert (await call(client, colleague, "true"))["exit_code"] == 0


async def test_one_agent_does_not_take_all_places(
    edge: Edge, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CALLS", 2)
    headers = modern_headers(edge, "tools/call", **{"Mcp-Name": "shell_exec"})

    def body(command: str) -> dict[str, Any]:
        return modern("tools/call", name="shell_exec", arguments={"command": command})

    async with http() as client:
        running = [
            asyncio.ensure_future(client.post(edge.url, headers=headers, json=body("sleep 60")))
            for _ in range(2)
        ]
        await until(lambda: sum(len(box.running) for box in edge.twin.boxes.values()) == 2)
        reply = await client.post(edge.url, headers=headers, json=body("true"))
        assert reply.json()["result"]["structuredContent"]["error"] == "too_many_calls"
        other = await in_thread(edge.other_agent, ("*",))
        theirs = {**headers, "Authorization": f"Bearer {other}"}
        reply = await client.post(edge.url, headers=theirs, json=body("true"))
        assert reply.json()["result"]["structuredContent"]["exit_code"] == 0
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await until(lambda: not any(box.running for box in edge.twin.boxes.values()))
        reply = await client.post(edge.url, headers=headers, json=body("true"))
        assert reply.json()["result"]["structuredContent"]["exit_code"] == 0
    [refusal] = [event for event in events.on("mcp_tool") if event["status"] == 429]
    assert refusal["result"] == "denied"


HUGE = "9" * 5000
ODD_ARGUMENTS = {
    "a huge number": f'{{"command": "true", "timeout": {HUGE}}}',
    "a huge unknown number": f'{{"command": "true", "x": {HUGE}}}',
    "no number": '{"command": "true", "timeout": NaN}',
    "infinity": '{"command": "true", "timeout": 1e999}',
    "half a character": '{"command": "echo \\ud800"}',
    "half a character in a name": '{"\\ud800": 1}',
    "a NUL": '{"command": "echo \\u0000"}',
    "terminal escapes": '{"command": "true", "workdir": "\\u001b[2J\\u202e"}',
    "depth": '{"command": ' + "[" * 400 + "]" * 400 + "}",
    "no object": "[1]",
}


@pytest.mark.parametrize("arguments", ODD_ARGUMENTS.values(), ids=ODD_ARGUMENTS)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_odd_arguments_never_break_call_or_trail(
    edge: Edge, events: Events, era: str, arguments: str
) -> None:
    async with http() as client:
        if era == "modern":
            headers = modern_headers(edge, "tools/call", **{"Mcp-Name": "shell_exec"})
            template = json.dumps(modern("tools/call", name="shell_exec", arguments="@"))
        else:
            headers = await opened(edge, client, edge.token)
            params = {"name": "shell_exec", "arguments": "@"}
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            template = json.dumps(call)
        headers["Content-Type"] = "application/json"
        body = template.replace('"@"', arguments).encode()
        reply = await client.post(edge.url, headers=headers, content=body)
        again = await client.post(
            edge.url, headers=headers, content=body.replace(HUGE.encode(), b"1")
        )
    assert reply.status_code in (200, 400)
    assert again.status_code in (200, 400)
    assert "Internal" not in reply.text
    for event in events:
        encode_event(event)
