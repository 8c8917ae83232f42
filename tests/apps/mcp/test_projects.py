"""`/mcp/p/<project>`: one project of the caller's, and the door that sandboxes come in by."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from apps.common.errors import Denied
from apps.mcp import asgi
from apps.orgs import services as orgs
from apps.orgs.authentication import authenticate
from apps.policies import services as policies
from apps.policies.documents import PolicyDocument, ToolRuleDoc
from apps.sandboxes import services as sandboxes
from apps.sandboxes.authentication import principal_of
from apps.sandboxes.models import Sandbox
from apps.sandboxes.paths import inside_socket
from lensagents.inside import InsideDoor
from tests import factories
from tests.apps.mcp.conftest import MODES, in_thread
from tests.apps.mcp.test_asgi import ACCEPT, CUT_SECONDS, modern, modern_headers, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from apps.orgs.models import Project
    from tests.apps.mcp.conftest import Edge, Events

pytestmark = pytest.mark.database
HOST = "platform.internal"


def second_project(edge: Edge) -> Project:
    """Another project of the same team."""
    world = edge.world
    project = orgs.project_create(world.org, slug="billing", name="Billing", actor=world.admin)
    orgs.grant_set(world.team, project, actor=world.admin)
    return project


@contextlib.asynccontextmanager
async def at(edge: Edge, project: str, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {edge.token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{edge.url}/p/{project}", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", MODES)
async def test_a_project_has_an_address_of_its_own(edge: Edge, mode: str) -> None:
    project = await in_thread(second_project, edge)
    async with at(edge, project.slug, mode) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "project" not in listed["shell_exec"].input_schema["properties"]
        answer = await client.call_tool("whoami", {})
        assert answer.structured_content is not None
        assert [one["project"] for one in answer.structured_content["projects"]] == [project.slug]
        await client.call_tool("shell_exec", {"command": "true"})
    [box] = edge.twin.boxes.values()
    assert box.spec["identity"]["project_slug"] == project.slug
    async with edge.client(mode=mode) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert "project" in listed["shell_exec"].input_schema["properties"]


@pytest.mark.parametrize("path", ["nowhere", "acme", "-", "UPPER", "a/b", "a%2fb"])
async def test_a_project_that_is_not_the_callers_is_404(edge: Edge, path: str) -> None:
    async with httpx2.AsyncClient(timeout=30) as http:
        headers = modern_headers(edge, "tools/list")
        url = f"{edge.url}/p/{path}"
        reply = await http.post(url, headers=headers, json=modern("tools/list"))
    assert reply.status_code == 404


async def test_another_organizations_project_of_that_name_is_another(edge: Edge) -> None:
    def foreign() -> str:
        world = factories.globex()
        project = orgs.project_create(world.org, slug="theirs", name="T", actor=world.admin)
        orgs.grant_set(world.team, project, actor=world.admin)
        return str(project.slug)

    slug = await in_thread(foreign)
    async with httpx2.AsyncClient(timeout=30) as http:
        headers = modern_headers(edge, "tools/list")
        reply = await http.post(f"{edge.url}/p/{slug}", headers=headers, json=modern("tools/list"))
    assert (reply.status_code, reply.json()["error"]) == (404, "project_not_found")


async def test_a_session_belongs_to_the_address_that_opened_it(edge: Edge) -> None:
    slug = edge.world.project.slug
    async with httpx2.AsyncClient(timeout=30) as http:
        session = await opened(edge, http, edge.token)
        body = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        own = await http.post(edge.url, headers=session, json=body)
        assert own.status_code == 200
        other = await http.post(f"{edge.url}/p/{slug}", headers=session, json=body)
        assert other.status_code == 404


async def test_a_lost_grant_ends_the_streams_of_that_project_alone(edge: Edge) -> None:
    project = await in_thread(second_project, edge)

    def lose() -> None:
        grant = project.grants.get()
        orgs.grant_remove(grant, actor=edge.world.admin)

    async with httpx2.AsyncClient(timeout=30) as http:
        headers = {"Authorization": f"Bearer {edge.token}", "Accept": ACCEPT}
        listen = modern("subscriptions/listen", notifications={"toolsListChanged": True})
        modern_fields = modern_headers(edge, "subscriptions/listen")
        url = f"{edge.url}/p/{project.slug}"
        async with http.stream("POST", url, headers=modern_fields, json=listen) as stream:
            assert stream.status_code == 200, headers
            lines = stream.aiter_lines()
            await anext(lines)
            started = time.monotonic()
            await in_thread(lose)
            async for _ in lines:
                pass
            assert time.monotonic() - started < CUT_SECONDS + 0.5
        whole = await http.post(
            edge.url, headers=modern_headers(edge, "tools/list"), json=modern("tools/list")
        )
        assert whole.status_code == 200


@pytest.fixture
def door(edge: Edge) -> Iterator[InsideDoor]:
    """The inside door, where the settings say."""
    made = InsideDoor(inside_socket())
    made.start()
    assert made.alive()
    yield made
    made.stop()
    assert not inside_socket().exists()


@contextlib.asynccontextmanager
async def inside(token: str, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client on the Unix socket, as the proxy is one."""
    transport = httpx2.AsyncHTTPTransport(uds=str(inside_socket()))
    fields = {"Authorization": f"Bearer {token}", **headers}
    async with httpx2.AsyncClient(
        transport=transport, headers=fields, timeout=30, base_url=f"http://{HOST}"
    ) as http:
        yield http


async def sandbox_token(edge: Edge) -> str:
    """The token of a sandbox that the agent's first call made."""
    async with edge.client() as client:
        await client.call_tool("shell_exec", {"command": "true"})
    [box] = edge.twin.boxes.values()
    return str(box.spec["token"])


async def listed(http: httpx2.AsyncClient, slug: str, **headers: str) -> httpx2.Response:
    fields = {"Accept": ACCEPT, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
    return await http.post(
        f"/mcp/p/{slug}", headers={**fields, **headers}, json=modern("tools/list")
    )


@pytest.mark.parametrize("mode", MODES)
async def test_a_sandbox_sees_no_tool_that_works_on_sandboxes(
    edge: Edge, door: InsideDoor, events: Events, mode: str
) -> None:
    token, slug = await sandbox_token(edge), edge.world.project.slug
    async with inside(token) as http:
        transport = streamable_http_client(f"http://{HOST}/mcp/p/{slug}", http_client=http)
        async with Client(transport, mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["whoami"]
            answer = (await client.call_tool("whoami", {})).structured_content
            with pytest.raises(Exception, match="Unknown tool"):
                await client.call_tool("shell_exec", {"command": "true"})
    assert answer is not None
    assert answer["kind"] == "sandbox"
    assert answer["projects"] == [{"project": slug, "role": "member"}]
    called, refused = [
        event for event in events.on("mcp_tool") if event["principal_kind"] == "sandbox"
    ]
    row = await in_thread(Sandbox.objects.get)
    assert (called["resource_id"], called["principal_id"]) == ("whoami", str(row.pk))
    assert called["project_slug"] == slug
    assert (refused["result"], refused["metadata"]["rule"]) == ("denied", "inside")
    assert len(edge.twin.boxes) == 1


async def test_the_agents_own_policy_holds_inside_too(edge: Edge, door: InsideDoor) -> None:
    token, slug = await sandbox_token(edge), edge.world.project.slug

    def narrow() -> None:
        own = PolicyDocument(
            name="Bot", kind="agent", agent=edge.world.agent, has_domains=False,
            tools=(ToolRuleDoc("shell_*"),),
        )  # fmt: skip
        policies.policy_save(edge.world.org, document=own, actor=edge.world.admin)

    await in_thread(narrow)
    async with inside(token) as http:
        reply = await listed(http, slug)
    assert '"tools":[]' in reply.text.replace(" ", "")


async def test_only_sandboxes_come_in_by_this_door(edge: Edge, door: InsideDoor) -> None:
    slug = edge.world.project.slug
    async with inside(edge.token) as http:
        reply = await listed(http, slug)
        assert (reply.status_code, reply.json()["error"]) == (401, "token_audience")
    token = await sandbox_token(edge)
    async with httpx2.AsyncClient(timeout=30) as http:
        headers = modern_headers(edge, "tools/list", Authorization=f"Bearer {token}")
        reply = await http.post(f"{edge.url}/p/{slug}", headers=headers, json=modern("tools/list"))
        assert (reply.status_code, reply.json()["error"]) == (401, "token_audience")


async def test_what_is_behind_this_door_and_what_is_not(edge: Edge, door: InsideDoor) -> None:
    token, slug = await sandbox_token(edge), edge.world.project.slug
    project = await in_thread(second_project, edge)
    async with inside(token) as http:
        assert (await listed(http, slug)).status_code == 200
        other = await listed(http, project.slug)
        assert (other.status_code, other.json()["error"]) == (404, "project_not_found")
        for path in ("/llm", "/llm/v1/messages"):
            reply = await http.post(path, json={})
            assert (reply.status_code, reply.json()["error"]) == (501, "llm_not_available")
        for path in ("/", "/mcp", "/livez", "/login/", "/llmx", "/explain/x", "/api/v1/"):
            reply = await http.get(path)
            assert (reply.status_code, reply.json()["error"]) == (404, "not_found")
        foreign = await listed(http, slug, Host="localhost")
        assert foreign.status_code == 421
        page = await listed(http, slug, Origin="https://evil.example")
        assert page.status_code == 403


async def test_a_sandbox_that_is_over_is_cut_and_comes_in_no_more(
    edge: Edge, door: InsideDoor
) -> None:
    token, slug = await sandbox_token(edge), edge.world.project.slug

    def stop() -> None:
        row = Sandbox.objects.get()
        sandboxes.sandbox_stop(row, reason="test", actor=edge.world.admin)

    fields = {"Accept": ACCEPT, "MCP-Protocol-Version": "2026-07-28",
              "Mcp-Method": "subscriptions/listen"}  # fmt: skip
    listen = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    async with inside(token) as http:
        url = f"/mcp/p/{slug}"
        async with http.stream("POST", url, headers=fields, json=listen) as stream:
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            await anext(lines)
            started = time.monotonic()
            await in_thread(stop)
            async for _ in lines:
                pass
            assert time.monotonic() - started < CUT_SECONDS + 0.5
        reply = await listed(http, slug)
        assert reply.status_code == 401


async def test_a_stranger_on_the_socket_is_turned_away(
    edge: Edge, door: InsideDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensagents.inside.is_ours", lambda _: False)
    async with inside(edge.token) as http:
        with pytest.raises(httpx2.TransportError):
            await http.get("/llm")


async def test_one_principal_does_not_take_every_place(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "MAX_REQUESTS", 1)
    async with edge.client() as client:
        slow = asyncio.ensure_future(client.call_tool("shell_exec", {"command": "sleep 2"}))
        await asyncio.sleep(0.7)
        async with httpx2.AsyncClient(timeout=30) as http:
            headers: dict[str, Any] = modern_headers(edge, "tools/list")
            reply = await http.post(edge.url, headers=headers, json=modern("tools/list"))
        assert (reply.status_code, reply.json()["error"]) == (429, "too_many_requests")
        await slow


def test_a_sandbox_gets_no_sandbox(db: None) -> None:
    world = factories.acme()
    row = sandboxes.sandbox_for(
        principal=authenticate(world.minted.value), project_id=world.project.pk
    )
    with pytest.raises(Denied) as denied:
        sandboxes.sandbox_for(principal=principal_of(row), project_id=world.project.pk)
    assert denied.value.error_code == "sandbox_in_sandbox"
