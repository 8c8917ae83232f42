"""The client of sandboxd against a small real one."""

from __future__ import annotations

import asyncio
import base64
import statistics
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from apps.common import errors
from apps.sandboxes.client import AsyncSandboxd, Sandboxd
from tests.twins.sandboxd import SandboxdTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUNDLE = {"format": 1, "version": 7, "layers": []}


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[SandboxdTwin]:
    with SandboxdTwin(tmp_path / "d.sock", tmp_path / "boxes") as running:
        yield running


def made(twin: SandboxdTwin) -> uuid.UUID:
    name = uuid.uuid4()
    Sandboxd(twin.socket_path).create({"id": str(name), "token": "lnsb_x", "bundle": BUNDLE})
    return name


def command(text: str, **more: object) -> dict[str, object]:
    return {"command": text, "timeout_ms": 5000, "max_output_bytes": 1000, **more}


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does, at most five seconds."""
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("waited in vain")


def test_a_missing_service_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable) as caught:
        Sandboxd(tmp_path / "nobody.sock").health()
    assert caught.value.error_code == "sandboxd_unavailable"
    assert "manage.py up" in caught.value.data["remedy"]


async def test_a_missing_service_is_the_same_error_when_awaited(tmp_path: Path) -> None:
    client = AsyncSandboxd(tmp_path / "nobody.sock")
    with pytest.raises(errors.Unavailable):
        await client.call("x", "exec", {}, seconds=1)
    assert not Sandboxd(tmp_path / "nobody.sock").listens()


async def test_a_service_that_comes_back_in_time_is_waited_for(twin: SandboxdTwin) -> None:
    name = str(made(twin))
    twin.stop()
    threading.Timer(0.3, twin.start).start()
    client = AsyncSandboxd(twin.socket_path)
    with pytest.raises(errors.NotFound):  # it has forgotten the sandbox, and says so
        await client.call(name, "exec", command("true"), seconds=5)
    client.close()


def test_the_control_calls(twin: SandboxdTwin) -> None:
    client = Sandboxd(twin.socket_path)
    name = made(twin)
    assert client.health()["sandboxes"] == 1
    assert client.activity()["sandboxes"][str(name)]["state"] == "ready"
    assert client.put_bundle(name, BUNDLE) == 7
    client.delete(name)
    client.delete(name)
    assert client.activity()["sandboxes"] == {}
    assert client.listens()
    with pytest.raises(errors.NotFound, match="no such sandbox"):
        client.put_bundle(name, BUNDLE)


def test_isolation_unavailable_carries_the_remedy(twin: SandboxdTwin) -> None:
    twin.unavailable = "sysctl -w kernel.unprivileged_userns_clone=1"
    with pytest.raises(errors.IsolationUnavailable) as caught:
        made(twin)
    assert caught.value.data["remedy"].startswith("sysctl")


async def test_commands_share_a_connection_and_it_costs_little(twin: SandboxdTwin) -> None:
    name = str(made(twin))
    client = AsyncSandboxd(twin.socket_path)
    body: dict[str, object] = {"path": "/workspace", "limit": 10}
    spent = []
    for _ in range(200):
        started = time.perf_counter()
        await client.call(name, "files/list", body, seconds=5)
        spent.append(time.perf_counter() - started)
    assert len(client._idle) == 1
    # The twin's own work is in this figure too.
    assert statistics.median(spent) < 0.005
    client.close()


async def test_output_comes_back_whole_and_bounded(twin: SandboxdTwin) -> None:
    name = str(made(twin))
    client = AsyncSandboxd(twin.socket_path)
    reply = await client.call(name, "exec", command("printf hi; exit 3"), seconds=5)
    assert (base64.b64decode(reply["stdout"]), reply["exit_code"]) == (b"hi", 3)
    reply = await client.call(
        name, "exec", command("head -c 3000000 /dev/zero", max_output_bytes=1 << 21), seconds=5
    )
    assert reply["stdout_bytes"] == 3_000_000
    assert len(base64.b64decode(reply["stdout"])) == 1 << 21
    client.close()


async def test_a_restarted_service_is_found_again(twin: SandboxdTwin) -> None:
    name = str(made(twin))
    client = AsyncSandboxd(twin.socket_path)
    await client.call(name, "exec", command("true"), seconds=5)
    await asyncio.to_thread(twin.restart)
    with pytest.raises(errors.NotFound) as caught:
        await client.call(name, "exec", command("true"), seconds=5)
    assert caught.value.error_code == "sandbox_not_found"
    client.close()


async def test_cancelling_ends_the_command(twin: SandboxdTwin) -> None:
    name = str(made(twin))
    client = AsyncSandboxd(twin.socket_path)
    task = asyncio.ensure_future(client.call(name, "exec", command("sleep 30"), seconds=60))
    await until(lambda: bool(twin.boxes[name].running))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not twin.boxes[name].running)
    assert client._idle == []
    client.close()


async def test_the_whole_call_is_bounded(twin: SandboxdTwin) -> None:
    name = str(made(twin))
    client = AsyncSandboxd(twin.socket_path)
    with pytest.raises(errors.Unavailable):
        await client.call(name, "exec", command("sleep 30", timeout_ms=30_000), seconds=0.2)
    client.close()


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n", b"x" * 2_000_000]
)
async def test_a_service_that_speaks_no_http_is_an_error(tmp_path: Path, head: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, str(tmp_path / "odd.sock"))
    async with server:
        client = AsyncSandboxd(tmp_path / "odd.sock")
        with pytest.raises(errors.LensError):
            await client.call("x", "exec", {}, seconds=5)


async def test_no_place_is_told_as_such(twin: SandboxdTwin) -> None:
    client = AsyncSandboxd(twin.socket_path, connections=0)
    with pytest.raises(errors.Unavailable) as caught:
        await client.call("x", "exec", command("true"), seconds=0.1)
    assert caught.value.error_code == "sandboxd_busy"
