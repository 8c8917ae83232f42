"""What goes wrong in a sandbox or upstream: a specific error, in bounded time, and work goes on.

Through the real endpoint, sandboxd, proxy and upstream, as an agent meets it.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from apps.sandboxes.models import Sandbox
from tests.apps.mcp.conftest import in_thread
from tests.apps.mcp.test_isolated import (  # noqa: F401  these are fixtures
    HOST,
    Real,
    answered,
    daemon,
    real,
    upstream,
)
from tests.apps.sandboxes.harness.conftest import isolation  # noqa: F401  a fixture, too
from tests.apps.sandboxes.harness.test_lifecycle import named

if TYPE_CHECKING:
    from mcp import Client

pytestmark = [pytest.mark.database, pytest.mark.isolation]

MEBIBYTE = 1 << 20


async def usable(client: Client) -> None:
    """The next call works, in the very same sandbox, and soon."""
    started = time.monotonic()
    reply = await answered(client, "shell_exec", command="cat mark; echo here", timeout=5000)
    assert reply["stdout"] == "mine\nhere\n", reply
    assert time.monotonic() - started < 5


async def begin(client: Client) -> None:
    """A sandbox that a test can recognise."""
    await answered(client, "shell_exec", command="echo mine > mark")


async def bounded(client: Client, seconds: float, name: str, **arguments: Any) -> dict[str, Any]:
    """The answer, which comes in time."""
    started = time.monotonic()
    reply = await answered(client, name, **arguments)
    assert time.monotonic() - started < seconds
    return reply


async def test_a_full_disk(real: Real) -> None:  # noqa: F811
    """By command, by file tool, by inodes; and it can be emptied again."""
    async with real.client() as client:
        await begin(client)
        fill = "head -c 2000000000 /dev/zero > full; echo code $?"
        full = await bounded(client, 20, "shell_exec", command=fill)
        assert full["stdout"] == "code 1\n"
        assert "No space left on device" in full["stderr"]
        # what is left of the last page
        await answered(client, "shell_exec", command="head -c 100000 /dev/zero > rest")
        refused = await bounded(client, 5, "file_write", path="more", content="x" * 100_000)
        assert refused["error"] == "no_space"
        assert refused["message"]
        await usable(client)
        await answered(client, "shell_exec", command="rm full rest")
        written = await answered(client, "file_write", path="more", content="x" * 100_000)
        assert written["size"] == 100_000
        many = 'i=0; while echo > "n$i" 2>/dev/null; do i=$((i+1)); done; echo stopped'
        inodes = await bounded(client, 60, "shell_exec", command=many, timeout=50_000)
        assert inodes["stdout"] == "stopped\n"
        no_inode = await answered(client, "file_write", path="one-more", content="x")
        assert no_inode["error"] == "no_space"
        await usable(client)


async def test_a_fork_bomb(real: Real) -> None:  # noqa: F811
    async with real.client() as client:
        await begin(client)
        bomb = "f() { f | f & }; f; sleep 60"
        ended = await bounded(client, 12, "shell_exec", command=bomb, timeout=2000)
        assert ended["error"] == "command_timeout"
        assert ended["remedy"]
        await usable(client)


async def test_a_tool_that_ignores_sigterm(real: Real) -> None:  # noqa: F811
    async with real.client() as client:
        await begin(client)
        stubborn = "trap '' TERM INT HUP; echo begun; while :; do sleep 1; done"
        ended = await bounded(client, 8, "shell_exec", command=stubborn, timeout=500)
        assert (ended["error"], ended["stdout"]) == ("command_timeout", "begun\n")
        assert "500 ms" in ended["message"]
        left = await answered(client, "shell_exec", command="ps ax | grep -c '[w]hile :'")
        assert left["stdout"] == "0\n"
        await usable(client)


async def test_an_upstream_that_never_answers(real: Real) -> None:  # noqa: F811
    async with real.client() as client:
        await begin(client)
        url = f"https://{HOST}/slow/30"
        fetched = await bounded(client, 6, "web_fetch", url=url, timeout=1000)
        assert fetched["error"] == "fetch_timeout"
        assert fetched["message"] == "no complete answer in time"
        command = f"curl -sS {url}"
        waited = await bounded(client, 8, "shell_exec", command=command, timeout=1000)
        assert waited["error"] == "command_timeout"
        await usable(client)


@pytest.mark.parametrize("kind", ["raw/garbage", "raw/two-lengths", "raw/large", "silent"])
async def test_an_upstream_that_answers_garbage(real: Real, kind: str) -> None:  # noqa: F811
    async with real.client() as client:
        await begin(client)
        reply = await bounded(client, 8, "web_fetch", url=f"https://{HOST}/{kind}", timeout=5000)
        assert reply["status"] == 502
        assert '"error":"upstream_' in reply["body"].replace(" ", "")
        again = await answered(client, "web_fetch", url=f"https://{HOST}/")
        assert again["status"] == 200
        await usable(client)


@pytest.mark.parametrize("kind", ["raw/bad-chunk", "truncate"])
async def test_an_upstream_that_breaks_off(real: Real, kind: str) -> None:  # noqa: F811
    """After the head nothing can be taken back: the caller is told that the answer is not whole."""
    async with real.client() as client:
        await begin(client)
        reply = await bounded(client, 8, "web_fetch", url=f"https://{HOST}/{kind}", timeout=5000)
        assert reply["error"] == "fetch_failed"
        told = ("IncompleteRead", "RemoteDisconnected")
        assert reply["message"].startswith(told)
        await usable(client)


async def test_an_upstream_that_answers_for_ever(real: Real) -> None:  # noqa: F811
    """A flood is cut at the limit, a drip at the deadline."""
    async with real.client() as client:
        await begin(client)
        flood = f"https://{HOST}/bytes/{10_000 * MEBIBYTE}"
        cut = await bounded(client, 10, "web_fetch", url=flood, max_bytes=1000, timeout=8000)
        assert (cut["status"], cut["body_bytes"], cut["truncated"]) == (200, 1000, True)
        drip = f"https://{HOST}/drip/60"
        dripped = await bounded(client, 8, "web_fetch", url=drip, timeout=1500)
        assert dripped["error"] in ("timeout", "fetch_timeout")
        command = f"curl -sS {flood} >/dev/null"
        endless = await bounded(client, 10, "shell_exec", command=command, timeout=1500)
        assert endless["error"] == "command_timeout"
        await usable(client)


@pytest.mark.parametrize("name", ["lens-init", "lens-egress"])
async def test_a_part_of_the_cage_that_is_killed(real: Real, name: str) -> None:  # noqa: F811
    """The sandbox ends whole, its row says why, and the next call has a fresh one."""
    async with real.client() as client:
        await begin(client)
        assert real.daemon is not None
        first = await in_thread(Sandbox.objects.get)
        for pid in named(real.daemon, name):
            os.kill(pid, signal.SIGKILL)
        path = f"/v1/sandboxes/{first.pk}"
        deadline = time.monotonic() + 5
        while real.daemon.call("GET", path)[1].get("state", "failed") != "failed":
            assert time.monotonic() < deadline
        reply = await bounded(client, 10, "shell_exec", command="cat mark || echo fresh")
        assert reply["stdout"] == "fresh\n"
    await in_thread(first.refresh_from_db)
    assert (first.state, first.failure) == ("failed", "sandbox_lost")
