"""What runs in a sandbox of a real `manage.py up` asks the platform, at `platform.internal`."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import sysconfig
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.apps.mcp.test_daphne import (
    REVOKE,
    _token,
    connected,
    platform,
    ran,
    token,
)
from tests.apps.sandboxes.harness.conftest import Box, Daemon, isolation

if TYPE_CHECKING:
    from mcp import Client

    from tests.platform import RunningPlatform

__all__ = ["isolation", "platform", "token"]
pytestmark = [pytest.mark.isolation, pytest.mark.slow]
# What `mcp`'s client imports beside the standard library.
_NEEDED = (
    "annotated_types", "anyio", "certifi", "click", "cryptography", "h11", "httpcore2", "httpx2",
    "httpx2_sse", "idna", "jsonschema", "mcp", "mcp_types", "opentelemetry", "pydantic",
    "pydantic_core", "python_multipart", "sse_starlette", "starlette", "typing_extensions.py",
    "typing_inspection", "uvicorn", "attr", "attrs", "referencing", "rpds",
    "jsonschema_specifications", "jwt", "truststore",
)  # fmt: skip
OTHER_AGENT = """
from apps.agents import services
from apps.agents.models import Agent
from apps.common import tenancy
from apps.orgs.types import SYSTEM
with tenancy.system('a test'):
    one = Agent.objects.get()
    other = services.agent_create(one.org, team=one.team, slug='other', name='Other', actor=SYSTEM)
    print('TOKEN', services.token_create(other, name='x', actor=SYSTEM).value)
"""
SDK = """
import asyncio, json, os
from mcp import Client
async def main():
    async with Client(os.environ["LENS_MCP_URL"], mode="{mode}") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        who = (await client.call_tool("whoami", {{}})).structured_content
        try:
            await client.call_tool("shell_exec", {{"command": "true"}})
            refused = ""
        except Exception as error:
            refused = str(error)
        print(json.dumps({{"names": names, "who": who, "refused": refused}}))
asyncio.run(main())
"""
PLAIN = r"""
import json, os, urllib.request, urllib.error
def ask(url, body=None, **fields):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json",
               "Accept": "application/json, text/event-stream", **fields}
    try:
        reply = urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        return reply.status, dict(reply.headers), reply.read().decode()
def message(text):
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    return json.loads(lines[0] if lines else text)
url = os.environ["LENS_MCP_URL"]
"""
SESSION = """
hello = {"protocolVersion": "2025-11-25", "capabilities": {},
         "clientInfo": {"name": "t", "version": "0"}}
status, headers, text = ask(url, {"jsonrpc": "2.0", "id": 1, "method": "initialize",
                                  "params": hello})
mine = {"Mcp-Session-Id": {k.lower(): v for k, v in headers.items()}["mcp-session-id"],
        "MCP-Protocol-Version": "2025-11-25", "Authorization": "Bearer of-the-agent"}
ask(url, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **mine)
_, _, listed = ask(url, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, **mine)
_, _, called = ask(url, {"jsonrpc": "2.0", "id": 3, "method": "tools/call",
                         "params": {"name": "whoami", "arguments": {}}}, **mine)
print(json.dumps({"names": [tool["name"] for tool in message(listed)["result"]["tools"]],
                  "who": message(called)["result"]["structuredContent"]}))
"""
EVENTS = """
import json
from apps.audit.models import AuditEvent
rows = AuditEvent.objects.filter(principal_kind='sandbox').order_by('at')
print('TOKEN', json.dumps([[r.surface, r.action, r.resource_id, r.result, r.project_slug]
                           for r in rows]).replace(' ', ''))
"""


async def python(client: Client, program: str, path: str = "") -> Any:
    """The JSON that a program, run by the sandbox's own Python, prints last."""
    name = f"/workspace/{abs(hash(program))}.py"
    await client.call_tool("file_write", {"path": name, "content": program})
    done = await ran(client, f"{path} timeout 60 /usr/bin/python3 {name}")
    assert done.get("exit_code") == 0, done
    return json.loads(done["stdout"].splitlines()[-1])


def expected(answer: dict[str, Any]) -> None:
    assert answer["names"] == ["whoami"]
    assert answer["who"]["kind"] == "sandbox"
    assert [one["role"] for one in answer["who"]["projects"]] == ["member"]


async def test_a_session_by_hand_over_http_and_https(
    platform: RunningPlatform,
    token: str,
) -> None:
    async with connected(platform, token) as client:
        expected(await python(client, PLAIN + SESSION))
        expected(await python(client, PLAIN + 'url = url.replace("https", "http")\n' + SESSION))
    deadline = time.monotonic() + 10
    while True:
        said = await asyncio.to_thread(platform.shell, EVENTS)
        events = [event for event in json.loads(_token(said)) if event[0] == "mcp_tool"]
        if len(events) >= 2 or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    assert ["mcp_tool", "tool.call", "whoami", "success", events[0][4]] in events
    assert len(events) >= 2


async def test_what_is_not_for_a_sandbox(
    platform: RunningPlatform,
    token: str,
) -> None:
    program = f"""
own = url.removeprefix("https://platform.internal")
tried = ["/", "/mcp", "/mcp/p/other", own + "/", own + "/..", "/login/", "/admin/", "/livez"]
answers = [ask("https://platform.internal" + path) for path in tried]
answers += [ask("{platform.url}" + own), ask("http://127.0.0.1:8000" + own)]
told = [[status, json.loads(text)["error"]] for status, _, text in answers]
status, _, text = ask("https://platform.internal/llm/v1/messages", {{}})
told.append([status, json.loads(text)["error"]])
_, headers, text = ask(url, {{"jsonrpc": "2.0", "id": 1, "method": "initialize"}})
print(json.dumps({{"told": told, "all": text + str(headers) + str(dict(os.environ))}}))
"""
    async with connected(platform, token) as client:
        answer = await python(client, PLAIN + program)
        assert answer["told"][:-1] == [[403, "egress_denied"]] * 10
        assert answer["told"][-1] == [501, "llm_not_available"]
        assert "lnsb_" not in answer["all"]
        found = await ran(client, "grep -rl lnsb_ /etc /tmp /workspace /proc/*/environ 2>/dev/null")
        assert [line for line in found["stdout"].split() if not line.endswith(".py")] == []


def packed() -> bytes:
    """The official SDK and what it needs, from this environment."""
    here = Path(sysconfig.get_paths()["purelib"])
    binary = importlib.util.find_spec("_cffi_backend")
    holder = io.BytesIO()
    with tarfile.open(fileobj=holder, mode="w:gz", compresslevel=1) as archive:
        for name in _NEEDED:
            if (here / name).exists():
                archive.add(here / name, name, filter=_without_caches)
        for name in (
            "httpx2",
            "httpcore2",
            "mcp",
            "opentelemetry_api",
        ):  # they ask for their own version
            for folder in here.glob(f"{name}-*.dist-info"):
                archive.add(folder, folder.name)
        if binary is not None and binary.origin is not None:
            archive.add(binary.origin, Path(binary.origin).name)
    return holder.getvalue()


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name or "/tests" in entry.name else entry


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_the_official_sdk_inside(
    platform: RunningPlatform,
    token: str,
    mode: str,
) -> None:
    daemon = Daemon(platform.data_dir, platform.process)
    async with connected(platform, token) as client:
        await ran(client, "true")
        rows = daemon.call("GET", "/v1/sandboxes")[1]["sandboxes"]
        for row in rows:
            box = Box(daemon, row["id"], row)
            assert (await asyncio.to_thread(box.write, "/workspace/lib.tgz", packed()))[0] == 200
        done = await ran(
            client, "mkdir -p lib && tar -xzf lib.tgz -C lib --no-same-owner && "
            "PYTHONPATH=lib /usr/bin/python3 -c 'from mcp import Client'"
        )  # fmt: skip
        answer = None
        if done["exit_code"] == 0:
            answer = await python(client, SDK.format(mode=mode), "PYTHONPATH=/workspace/lib")
    if answer is None:
        pytest.skip(f"the system's Python cannot load the SDK: {done['stderr'][-300:]}")
    expected(answer)
    assert "Unknown tool" in answer["refused"]


async def test_a_revocation_cuts_what_runs_inside(
    platform: RunningPlatform,
    socket_enabled: None,
) -> None:
    other = _token(await asyncio.to_thread(platform.shell, OTHER_AGENT))
    again = "\nimport time\nwhile True:\n    ask(url)\n    time.sleep(0.05)\n"
    async with connected(platform, other) as client:
        await client.call_tool("file_write", {"path": "loop.py", "content": PLAIN + again})
        running = asyncio.ensure_future(ran(client, "/usr/bin/python3 loop.py"))
        await asyncio.sleep(1)
        await asyncio.to_thread(platform.shell, REVOKE.format(other))
        started = time.monotonic()
        await asyncio.wait([running], timeout=10)
        assert time.monotonic() - started < 1
        assert running.exception() or "error" in running.result()
