"""`manage.py up` as people run it: a process of its own, started, used, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.apps.orgs.browser import Browser
from tests.apps.sandboxes.harness.conftest import cannot
from tests.platform import (
    ROOT,
    RunningPlatform,
    environment,
    free_port,
    running_platform,
    stop,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow  # each start takes seconds: it is the thing under test
MAX_RSS_KB = 250 * 1024


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    """One platform for all that only look at it."""
    with running_platform() as found:
        yield found


def children(pid: int) -> list[int]:
    """The process ids below one, at any depth."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    direct = [int(child) for child in found]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all these processes end within the time."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def refusal(*arguments: str) -> str:
    """What `up` says when it does not start."""
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, str(ROOT / "manage.py"), "up", *arguments],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_probes(platform: RunningPlatform) -> None:
    assert httpx.get(f"{platform.url}/livez").json() == {"status": "ok"}
    ready = httpx.get(f"{platform.url}/readyz", headers={"Host": "10.1.2.3"})
    services = ("AuditTrail", "Broker", "InsideDoor", "Jobs", "Watcher", "DevIdp")
    checks = dict.fromkeys(("database", "SandboxHost", *services), "ok")
    assert ready.json() == {"status": "ok", "checks": checks}


def test_policy_is_strict_and_loosened_for_the_admin_only(platform: RunningPlatform) -> None:
    login = httpx.get(f"{platform.url}/login/").headers
    assert "script-src 'self';" in login["Content-Security-Policy"] + ";"
    assert "unsafe" not in login["Content-Security-Policy"]
    assert login["X-Frame-Options"] == "DENY"
    assert login["X-Content-Type-Options"] == "nosniff"
    assert login["Referrer-Policy"] == "same-origin"
    admin = httpx.get(f"{platform.url}/").headers["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-eval'" in admin
    assert "default-src 'none'" in admin


def test_foreign_host_is_refused(platform: RunningPlatform) -> None:
    assert httpx.get(f"{platform.url}/login/", headers={"Host": "evil.test"}).status_code == 400


def test_mcp_wants_a_token(platform: RunningPlatform) -> None:
    assert httpx.post(f"{platform.url}/mcp", json={}).status_code == 401


def test_web_sockets_are_refused(platform: RunningPlatform) -> None:
    host, port = platform.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(
            b"GET /anything HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 403 " in peer.recv(4096).splitlines()[0]


def test_static_files_are_served(platform: RunningPlatform) -> None:
    page = httpx.get(f"{platform.url}/login/").text
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
        assert httpx.get(platform.url + path).status_code == 200, path


@pytest.mark.isolation
def test_sandboxes_are_isolated(platform: RunningPlatform) -> None:
    deadline = time.monotonic() + 20
    while "Sandboxes are" not in platform.output() and time.monotonic() < deadline:
        time.sleep(0.1)
    if "are not available" in platform.output():
        cannot("the platform says that it cannot isolate")
    assert "Sandboxes are isolated by the kernel." in platform.output()


def test_memory(platform: RunningPlatform) -> None:
    status = Path(f"/proc/{platform.process.pid}/status").read_text()
    assert int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) < MAX_RSS_KB


def test_secrets_are_in_private_files_and_nowhere_else(platform: RunningPlatform) -> None:
    secrets = [path.read_text().strip() for path in (platform.data_dir / "keys").iterdir()]
    assert len(secrets) == 2
    pid = platform.process.pid
    shown = platform.output() + Path(f"/proc/{pid}/cmdline").read_text()
    for child in children(pid):
        shown += Path(f"/proc/{child}/environ").read_text()
        shown += Path(f"/proc/{child}/cmdline").read_text()
    assert not [secret for secret in secrets if secret in shown]


def test_second_platform_is_refused(platform: RunningPlatform) -> None:
    folder = str(platform.data_dir)
    assert "uses the data folder" in refusal("--data-dir", folder, "--port", str(free_port()))
    port = platform.url.rpartition(":")[2]
    assert f"port {port}" in refusal("--data-dir", folder, "--port", port)


def test_development_provider_is_for_loopback_only(tmp_path: Path) -> None:
    said = refusal("--data-dir", str(tmp_path / "data"), "--host", "0.0.0.0")  # noqa: S104  refused
    assert "development identity provider" in said
    assert "--no-dev-idp" in said
    assert not (tmp_path / "data" / "db.sqlite3").exists()


def set_up(platform: RunningPlatform, browser: Browser) -> None:
    """The newcomer's way from the printed link to the admin, with everything real."""
    browser.open("/setup/")
    browser.send("/setup/open/", token=platform.setup_link())
    browser.send(name="Acme", slug="acme", admin_name="Ana", email="ana@acme.test")
    browser.follow("Sign in with development provider")
    browser.choose("ana@acme.test")
    assert (browser.path, browser.page.status_code) == ("/", 200)


def stops_in_time(platform: RunningPlatform) -> None:
    """Ctrl-C leaves nothing behind within five seconds."""
    pids = [platform.process.pid, *children(platform.process.pid)]
    started = time.monotonic()
    assert stop(platform.process) == 0
    assert time.monotonic() - started < 5
    assert gone(pids, 1)


def test_a_whole_life(tmp_path: Path) -> None:
    """Set up, stopped, started again with nothing lost, and killed."""
    data = tmp_path / "data"
    data.mkdir(mode=0o711)
    with running_platform(data_dir=data) as first, Browser(first.url) as browser:
        set_up(first, browser)
        # The development provider leaves the way open to one of the organization's own.
        assert "/setup/#lnsu_" in first.manage("bootstrap")
        issuer = json.loads((data / "dev-idp.json").read_text())["port"]
        cookies = browser.client.cookies
        stops_in_time(first)

    port = int(first.url.rpartition(":")[2])
    with running_platform(data_dir=data, port=port) as again, Browser(again.url) as browser:
        assert json.loads((data / "dev-idp.json").read_text())["port"] == issuer
        assert "/setup/" not in again.output()
        browser.client.cookies = cookies
        assert browser.open("/").url.path == "/"
        browser.client.cookies.clear()
        browser.open("/")
        browser.follow("Sign in with development provider")
        browser.choose("ana@acme.test")
        assert browser.path == "/"
        pids = children(again.process.pid)
        os.kill(again.process.pid, signal.SIGKILL)
        assert gone(pids, 5)


def test_platform_starts_without_a_sandbox_host(tmp_path: Path) -> None:
    """sandboxd refuses its configuration here; nothing else may notice, and the remedy is told."""
    data = tmp_path / "data"
    data.mkdir(mode=0o711)
    with running_platform(data_dir=data, env={"LENS_ADDRESS_MAP": '{"api.test": 1}'}) as platform:
        assert httpx.get(f"{platform.url}/login/").status_code == 200
        deadline = time.monotonic() + 20
        while "Sandboxes are not available" not in platform.output():
            assert time.monotonic() < deadline, platform.output()
            time.sleep(0.1)
        stops_in_time(platform)


def test_bootstrap_gives_another_link(platform: RunningPlatform) -> None:
    link = platform.manage("bootstrap").strip()
    assert re.fullmatch(rf"{re.escape(platform.url)}/setup/#lnsu_[\w-]{{43}}", link)
    with Browser(platform.url) as browser:
        browser.open("/setup/")
        browser.send("/setup/open/", token=platform.setup_link())
        assert browser.page.status_code == 403
        browser.send("/setup/open/", token=link)
        assert browser.path == "/setup/organization/"


def processes_named(pid: int, name: str) -> list[int]:
    """Those below a process that go by a name."""
    found = []
    for child in children(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                found.append(child)
    return found


async def shell(platform: RunningPlatform, token: str, command: str) -> str:
    """What a command prints in the agent's sandbox."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{platform.url}/mcp", http_client=http)
        async with Client(transport) as client:
            result = await client.call_tool("shell_exec", {"command": command})
    assert not result.is_error, result
    assert result.structured_content is not None
    return str(result.structured_content["stdout"]).strip()


@pytest.mark.isolation
def test_a_killed_sandboxd_is_started_anew_and_calls_go_on() -> None:
    """Its sandboxes end with it, their rows say so, and the next call gets a fresh one."""
    with running_platform() as platform:
        make = "from tests import factories; print('token', factories.acme().minted.value)"
        token = platform.shell(make).split("token ")[1].strip()
        assert asyncio.run(shell(platform, token, "echo 1 > kept; cat kept")) == "1"
        (sandboxd,) = processes_named(platform.process.pid, "lens-sandboxd")
        inside = children(sandboxd)
        assert len(inside) >= 4
        os.kill(sandboxd, signal.SIGKILL)
        assert gone([sandboxd, *inside], 5)
        assert asyncio.run(shell(platform, token, "cat kept 2>/dev/null || echo new")) == "new"
        assert httpx.get(f"{platform.url}/readyz").json()["checks"]["SandboxHost"] == "ok"
        assert "it ended (signal 9); it is started anew in 0.2 s" in platform.output()
        wait_for(platform, "the sandbox service was started anew")
        look = (
            "from apps.sandboxes.models import Sandbox; from apps.audit.models import AuditEvent;"
            "print('rows', sorted(Sandbox.objects.values_list('state', 'failure')),"
            " AuditEvent.objects.filter(action='sandbox_service.restart').count())"
        )
        told = platform.shell(look).split("rows ")[1].strip()
        assert "('failed', 'sandbox_lost')" in told
        assert told.endswith("] 1")

        (keeper,) = processes_named(platform.process.pid, "lens-keeper")
        os.kill(keeper, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while httpx.get(f"{platform.url}/readyz").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        checks = httpx.get(f"{platform.url}/readyz").json()["checks"]
        assert checks["SandboxHost"] == "not running"


def wait_for(platform: RunningPlatform, text: str) -> None:
    """Until the platform has said it."""
    deadline = time.monotonic() + 20
    while text not in platform.output():
        assert time.monotonic() < deadline, platform.output()
        time.sleep(0.1)
