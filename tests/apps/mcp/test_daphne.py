"""The whole platform as `manage.py up` starts it: Daphne, worker, broker, watcher, sandboxd.

Daphne gives no start-up event, reads whole bodies, and tells of a client's going in its own way:
what the other tests show on another server must hold here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.apps.mcp.conftest import MODES
from tests.apps.sandboxes.harness.conftest import isolation  # noqa: F401  a fixture
from tests.platform import RunningPlatform, running_platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.isolation, pytest.mark.slow]
SEED = "from tests import factories; print('TOKEN', factories.acme().minted.value)"
NEW_TOKEN = """
from apps.agents import services
from apps.agents.models import Agent
from apps.orgs.types import SYSTEM
print('TOKEN', services.token_create(Agent.objects.get(), name='more', actor=SYSTEM).value)
"""
REVOKE = """
from apps.agents import services
from apps.agents.models import AgentToken
from apps.common.ids import token_hash
from apps.orgs.types import SYSTEM
services.token_revoke(AgentToken.objects.get(token_hash=token_hash('{}')), actor=SYSTEM)
"""


@pytest.fixture(scope="module")
def platform(isolation: None) -> Iterator[RunningPlatform]:  # noqa: F811
    with running_platform() as running:
        said = running.shell(SEED)
        running.token = _token(said)  # type: ignore[attr-defined]
        yield running


@pytest.fixture
def token(platform: RunningPlatform, socket_enabled: None) -> str:
    return str(platform.token)  # type: ignore[attr-defined]


def _token(said: str) -> str:
    return next(line.split()[1] for line in said.splitlines() if line.startswith("TOKEN"))


@contextlib.asynccontextmanager
async def connected(
    platform: RunningPlatform, token: str, mode: str = "auto"
) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        transport = streamable_http_client(f"{platform.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


async def ran(client: Client, command: str) -> dict[str, Any]:
    result = await client.call_tool("shell_exec", {"command": command})
    answer: dict[str, Any] | None = result.structured_content
    assert answer is not None
    assert not result.is_error, answer
    return answer


@pytest.mark.parametrize("mode", MODES)
async def test_every_era_is_served(platform: RunningPlatform, token: str, mode: str) -> None:
    async with connected(platform, token, mode) as client:
        assert len((await client.list_tools()).tools) == 6
        assert (await ran(client, "echo here"))["stdout"] == "here\n"
        big = await client.call_tool("file_write", {"path": "big", "content": "x" * 1_900_000})
        assert not big.is_error


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that outlives one start."""
    place = Path(tempfile.mkdtemp(prefix="lens-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


async def test_after_a_restart_the_first_call_works(
    isolation: None,  # noqa: F811
    socket_enabled: None,
    folder: Path,
) -> None:
    with running_platform(data_dir=folder) as first:
        token = _token(await asyncio.to_thread(first.shell, SEED))
        async with connected(first, token) as client:
            assert (await ran(client, "touch old; ls"))["stdout"] == "old\n"
    with running_platform(data_dir=folder) as second:
        async with connected(second, token) as client:
            assert (await ran(client, "ls; echo new"))["stdout"] == "new\n"


async def test_a_client_that_goes_away_ends_its_command(
    platform: RunningPlatform, token: str
) -> None:
    async with connected(platform, token, "2026-07-28") as client:
        task = asyncio.ensure_future(ran(client, "while sleep 0.05; do date +%s%N > beat; done"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with connected(platform, token) as client:
        await asyncio.sleep(1)
        beats = {(await ran(client, "sleep 0.3; cat beat"))["stdout"] for _ in range(2)}
    assert len(beats) == 1


async def test_a_revocation_from_another_process_cuts_what_is_open(
    platform: RunningPlatform, token: str
) -> None:
    said = await asyncio.to_thread(platform.shell, NEW_TOKEN)
    doomed = _token(said)
    headers = {
        "Authorization": f"Bearer {doomed}",
        "Accept": "application/json, text/event-stream",
    }
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    url = f"{platform.url}/mcp"
    async with httpx2.AsyncClient(timeout=60) as http:
        reply = await http.post(url, headers=headers, json=body)
        session = {
            **headers,
            "Mcp-Session-Id": reply.headers["mcp-session-id"],
            "MCP-Protocol-Version": "2025-11-25",
        }
        done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await http.post(url, headers=session, json=done)
        async with http.stream("GET", url, headers=session) as stream:
            assert stream.status_code == 200
            reading = asyncio.ensure_future(_drain(stream))
            revoking = asyncio.to_thread(platform.shell, REVOKE.format(doomed))
            await asyncio.gather(revoking)
            committed = time.monotonic()
            await asyncio.wait_for(reading, 10)
            # The command went on for a while after its commit, so this is an upper bound.
            assert time.monotonic() - committed < 1
        again = await http.post(url, headers=session, json=body)
    assert (again.status_code, again.json()["error"]) == (401, "token_revoked")
    async with connected(platform, token) as client:
        # What an agent gets within seconds of a revocation may be ended by it, too: see
        # `no_longer_allowed`. The answer says so, and what to do.
        for _ in range(10):
            result = await client.call_tool("shell_exec", {"command": "echo still"})
            answer = result.structured_content or {}
            if not result.is_error:
                break
            assert answer["error"] == "sandbox_stopped"
            assert "again" in answer["remedy"]
            await asyncio.sleep(1)
        assert answer["stdout"] == "still\n"


async def _drain(stream: httpx2.Response) -> None:
    with contextlib.suppress(httpx2.RemoteProtocolError):
        async for _ in stream.aiter_raw():
            pass


async def test_every_call_is_on_the_trail_within_two_seconds(
    platform: RunningPlatform, token: str
) -> None:
    async with connected(platform, token) as client:
        await ran(client, "echo 'find me 4711'")
    await asyncio.sleep(2)
    look = (
        "import json; from apps.audit.models import AuditEvent;"
        "rows = AuditEvent.objects.filter(surface='shell_command').order_by('at');"
        "print('ROWS', json.dumps([[row.result, row.metadata] for row in rows]))"
    )
    said = await asyncio.to_thread(platform.shell, look)
    line = next(line for line in said.splitlines() if line.startswith("ROWS"))
    result, metadata = json.loads(line[5:])[-1]
    assert (result, metadata["command"]) == ("success", "echo 'find me 4711'")
