"""The same endpoint with the real sandboxd, the real proxies and the real broker behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from django.conf import settings
from django.db import close_old_connections

from apps.agents import services as agents
from apps.policies import services as policies
from apps.policies.documents import DomainRuleDoc, HttpRuleDoc, document_of
from apps.sandboxes.broker import Broker
from apps.sandboxes.models import Sandbox
from apps.sandboxes.paths import broker_socket
from apps.sandboxes.watch import Watcher
from tests import factories
from tests.apps.mcp.conftest import MODES, Edge, Server, Worker, in_thread
from tests.apps.sandboxes.harness.conftest import (  # noqa: F401  `isolation` is a fixture
    Daemon,
    isolation,
    start,
)
from tests.twins.ca import TwinCa
from tests.twins.sandboxd import SandboxdTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.factories import World

pytestmark = [pytest.mark.database, pytest.mark.isolation]
HOST = "api.github.com"


@dataclass
class Real(Edge):
    """The endpoint, and the sandboxd behind it."""

    daemon: Daemon | None = None
    upstream: UpstreamTwin | None = None


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[UpstreamTwin, Path]]:
    """The API that the policy allows, and the file with its CA."""
    folder = tmp_path_factory.mktemp("upstream")
    ca = TwinCa()
    ca_file = Path(settings.DATA_DIR) / "upstream-ca.pem"
    ca_file.write_text(ca.pem)
    ca_file.chmod(0o644)
    with UpstreamTwin(ca.issue(folder, HOST)) as twin:
        yield twin, ca_file


@pytest.fixture(scope="module")
def daemon(isolation: None, upstream: tuple[UpstreamTwin, Path]) -> Iterator[Daemon]:  # noqa: F811
    """sandboxd where the settings expect it."""
    twin, ca_file = upstream
    running = start(
        Path(settings.DATA_DIR),
        address_map={HOST: [twin.address, twin.port]},
        upstream_ca_file=str(ca_file),
    )
    yield running
    running.stop()


@pytest.fixture
def real(
    transactional_db: None,
    socket_enabled: None,
    daemon: Daemon,
    upstream: tuple[UpstreamTwin, Path],
) -> Iterator[Real]:
    """Endpoint, worker, broker and watcher, and Acme with one agent."""
    twin, _ = upstream
    twin.reset()
    world = factories.acme()
    worker, server = Worker(), Server()
    broker, watcher = Broker(broker_socket()), Watcher()
    for part in (worker, broker, watcher):
        part.start()
    server.begin()
    try:
        unused = SandboxdTwin(Path("/nonexistent"), Path("/nonexistent"))
        yield Real(server.url, world, unused, daemon, twin)
    finally:
        server.stop()
        for part in (watcher, worker, broker):
            part.stop()
        for row in daemon.call("GET", "/v1/sandboxes")[1]["sandboxes"]:
            daemon.call("DELETE", f"/v1/sandboxes/{row['id']}")
        close_old_connections()


async def answered(client: Any, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    assert result.structured_content is not None
    answer: dict[str, Any] = result.structured_content
    return answer


async def until(true: Callable[[], bool], seconds: float = 10) -> float:
    """How long it took to come true."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if await asyncio.to_thread(true):
            return time.monotonic() - started
        await asyncio.sleep(0.02)
    pytest.fail("waited in vain")


def egress_events(sandbox_id: str) -> list[dict[str, Any]]:
    """What the sandbox's proxy has left for the audit writer."""
    folder = Path(settings.SPOOL_DIR) / sandbox_id
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("mode", MODES)
async def test_a_governed_session(real: Real, mode: str) -> None:
    async with real.client(mode=mode) as client:
        who = await answered(client, "shell_exec", command="id -u; pwd; ls /workspace")
        await answered(client, "file_write", path="note", content="grüße")
        seen = await answered(client, "shell_exec", command="cat note")
        listed = await answered(client, "file_list")
        allowed = await answered(client, "web_fetch", url=f"https://{HOST}/repos")
        denied = await answered(client, "web_fetch", url="https://example.com/")
        shell = await answered(
            client, "shell_exec", command=f"curl -sS -o - -w '%{{http_code}}' https://{HOST}/x"
        )
    assert int(who["stdout"].splitlines()[0]) >= 200_000
    assert seen["stdout"] == "grüße"
    assert [entry["name"] for entry in listed["entries"]] == ["note"]
    assert allowed["status"] == 200
    assert shell["stdout"].endswith("200")
    assert (denied["error"], denied["layer"]) == ("egress_denied", "team")
    # The upstream got the real credential, the agent nothing of it.
    assert real.upstream is not None
    sent = {request.header("authorization") for request in real.upstream.seen}
    assert sent == {f"Bearer {factories.SECRET_VALUE}"}
    assert factories.SECRET_VALUE not in json.dumps([allowed, shell, denied])
    row = await in_thread(Sandbox.objects.get)
    assert row.isolation == "namespace"
    assert all(probe["ok"] for probe in row.report)
    decisions = [event["decision_id"] for event in egress_events(str(row.pk))]
    assert denied["decision_id"] in decisions


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "/workspace/../etc/shadow", "/proc/1/environ"]
)
async def test_no_path_leads_out(real: Real, path: str) -> None:
    async with real.client() as client:
        for tool, more in (("file_read", {}), ("file_write", {"content": "x"})):
            answer = await answered(client, tool, path=path, **more)
            assert answer["error"] == "path_outside_workspace"
        await answered(client, "shell_exec", command=f"ln -sf {path} link")
        answer = await answered(client, "file_read", path="link")
        assert answer["error"] in ("path_outside_workspace", "not_found")


async def test_no_socket_leads_out(real: Real) -> None:
    commands = {
        "curl -m 3 --noproxy '*' https://1.1.1.1/": 7,
        "curl -m 3 -sf http://169.254.169.254/latest/meta-data/": 22,
    }
    async with real.client() as client:
        for command, code in commands.items():
            assert (await answered(client, "shell_exec", command=command))["exit_code"] == code


async def test_output_of_any_kind_and_size(real: Real) -> None:
    async with real.client() as client:
        big = await answered(client, "shell_exec", command="yes | head -c 104857600")
        binary = await answered(client, "shell_exec", command="head -c 4 /dev/zero")
        late = await answered(client, "shell_exec", command="sleep 30", timeout=300)
    assert big["stdout_bytes"] == 104_857_600
    assert len(big["stdout"]) == 65_536
    assert base64.b64decode(binary["stdout_base64"]) == b"\0\0\0\0"
    assert (late["error"], late["timed_out"]) == ("command_timeout", True)


async def test_two_agents_never_meet(real: Real) -> None:
    stranger = await in_thread(factories.globex)
    async with real.client() as mine, real.client(stranger.minted.value) as theirs:
        for client in (mine, theirs):
            await answered(client, "file_write", path="secret", content="ours")
        users = {
            (await answered(client, "shell_exec", command="id -u"))["stdout"]
            for client in (mine, theirs)
        }
        await answered(mine, "shell_exec", command="(sleep 60 &) ; echo $$ > pid")
        processes = await answered(theirs, "shell_exec", command="ls /proc | grep -c '^[0-9]'")
    assert len(users) == 2
    assert int(processes["stdout"]) <= 5


def allow_reading_only(world: World) -> None:
    domains = (DomainRuleDoc(HOST, http=(HttpRuleDoc("GET", "/**"),)), DomainRuleDoc("*", "deny"))
    document = replace(document_of(world.policy), domains=domains)
    policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)


async def test_a_policy_change_reaches_a_running_sandbox(real: Real) -> None:
    world = real.world
    async with real.client() as client:
        before = await answered(client, "web_fetch", url=f"https://{HOST}/", method="DELETE")
        await in_thread(allow_reading_only, world)
        await asyncio.sleep(0.8)
        after = await answered(client, "web_fetch", url=f"https://{HOST}/", method="DELETE")
        still = await answered(client, "web_fetch", url=f"https://{HOST}/")
    assert before["status"] == 200
    assert after["error"] == "egress_denied"
    assert still["status"] == 200


async def test_a_revoked_token_ends_call_and_sandbox_within_a_second(real: Real) -> None:
    body = {"command": "(while true; do date > beat; sleep 0.05; done) & sleep 60"}
    async with real.client() as client:
        await answered(client, "shell_exec", command="true")
        row = await in_thread(Sandbox.objects.get)
        call = asyncio.ensure_future(client.call_tool("shell_exec", body))
        await asyncio.sleep(0.5)
        assert not call.done()
        await in_thread(agents.token_revoke, real.world.minted.token, actor=real.world.admin)
        revoked = time.monotonic()
        # The call is cut, or its sandbox ends first: what comes sooner.
        [ended] = await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 5)
        assert isinstance(ended, BaseException) or ended.is_error
        assert time.monotonic() - revoked < 1
        daemon = real.daemon
        assert daemon is not None
        path = f"/v1/sandboxes/{row.pk}"
        await until(lambda: daemon.call("GET", path)[0] == 404, 5)
        assert time.monotonic() - revoked < 1.5
    async with httpx2.AsyncClient() as http:
        reply = await http.post(real.url, headers={"Authorization": f"Bearer {real.token}"})
    assert (reply.status_code, reply.json()["error"]) == (401, "token_revoked")


async def test_its_row_says_when_it_is_in_use(real: Real) -> None:
    async def becomes(state: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not await in_thread(Sandbox.objects.filter(state=state).exists):
            assert time.monotonic() < deadline, state

    async with real.client() as client:
        call = asyncio.ensure_future(answered(client, "shell_exec", command="sleep 4"))
        await becomes("busy", 10)
        assert not call.done()
        await call
        ended = time.monotonic()
        await becomes("idle", 12)
        assert time.monotonic() - ended > 3
        await answered(client, "shell_exec", command="true")
        await becomes("busy", 4)


async def test_a_killed_sandbox_is_replaced(real: Real) -> None:
    async with real.client() as client:
        await answered(client, "file_write", path="kept", content="x")
        daemon = real.daemon
        assert daemon is not None
        [row] = daemon.call("GET", "/v1/sandboxes")[1]["sandboxes"]
        daemon.call("DELETE", f"/v1/sandboxes/{row['id']}")
        fresh = await answered(client, "shell_exec", command="ls; echo here")
    assert fresh["stdout"] == "here\n"
    states = await in_thread(lambda: sorted(Sandbox.objects.values_list("state", flat=True)))
    assert states in (["failed", "ready"], ["busy", "failed"])  # the watcher may have looked
