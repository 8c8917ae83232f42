"""The whole chain, warm: MCP call → sandbox → curl → interception → HTTPS twin, with audit on.

The stages, each measured in the same run and interleaved with the others, so that a busy machine
slows all alike:

- `exec`: `true` in the warm sandbox, asked of sandboxd directly (no MCP, no Django);
- `mcp`: the same `true` asked through MCP, with authentication, policy and audit; its overhead is
  the difference of the medians;
- `chain`: curl to the twin through the egress proxy, asked through MCP;
- `egress`: curl's own clock for that request (CONNECT, TLS twice, policy, injection, the twin).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp import Client

ROUNDS, SMOKE_ROUNDS = 200, 10
CONCURRENT = 4


def main() -> None:
    """Start a platform of its own in a temporary folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rounds, to see that it works")
    rounds = SMOKE_ROUNDS if parser.parse_args().smoke else ROUNDS
    on_a_platform(lambda client: _report(client, rounds))


def on_a_platform(work: Callable[[Client], Awaitable[None]]) -> None:
    """Do `work` with an MCP client of a fresh platform that has the demo's policy and twin."""
    with tempfile.TemporaryDirectory(prefix="lens-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ["LENS_DATA_DIR"] = folder  # noqa: TID251  set for the platform we start
        os.environ["DJANGO_SETTINGS_MODULE"] = "lensagents.settings.embedded"  # noqa: TID251
        import django  # noqa: PLC0415  the settings read the folder

        django.setup()
        _run(work)


def _run(work: Callable[[Client], Awaitable[None]]) -> None:
    from django.core.management import call_command  # noqa: PLC0415  after django.setup
    from django.db import connection  # noqa: PLC0415

    from lensagents.demo.seed import seed  # noqa: PLC0415
    from lensagents.demo.session import free_port, platform, ticketing_token  # noqa: PLC0415
    from lensagents.demo.story import HOST  # noqa: PLC0415
    from lensagents.demo.twin import TicketingTwin  # noqa: PLC0415

    secret = ticketing_token()
    call_command("migrate", verbosity=0, interactive=False)
    token = seed(secret).token
    connection.close()
    with TicketingTwin(HOST, secret) as twin, platform(twin, free_port()) as url:
        asyncio.run(_session(url, token, work))
        assert all(one.authorized for one in twin.seen)


async def _session(url: str, token: str, work: Callable[[Client], Awaitable[None]]) -> None:
    import httpx2  # noqa: PLC0415  not before the settings
    from mcp import Client  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        await work(client)


async def _report(client: Client, rounds: int) -> None:
    from benchmarks.report import figures, p50, p95, table  # noqa: PLC0415
    from lensagents.demo.story import TICKETS  # noqa: PLC0415

    curl = f"curl -sS -o /dev/null -w '%{{http_code}} %{{time_total}}' {TICKETS}/4711"
    first, _ = await call(client, "true")
    taken: dict[str, list[float]] = {"exec": [], "mcp": [], "chain": [], "egress": []}
    directly = _directly()
    for _ in range(rounds):
        taken["exec"].append(await directly())
        taken["mcp"].append((await call(client, "true"))[0])
        took, said = await call(client, curl)
        status, seconds = said["stdout"].split()
        assert status == "200", said
        taken["chain"].append(took)
        taken["egress"].append(float(seconds) * 1000)
    started = time.perf_counter()
    await asyncio.gather(*(_calls(client, curl, rounds // CONCURRENT) for _ in range(CONCURRENT)))
    per_second = rounds // CONCURRENT * CONCURRENT / (time.perf_counter() - started)
    table(
        f"the chain, {rounds} rounds",
        ["stage", "p50 ms", "p95 ms"],
        [[name, f"{p50(ms):.1f}", f"{p95(ms):.1f}"] for name, ms in taken.items()],
    )
    figures(
        first_tool_call_ms=first,
        warm_chain_p50_ms=p50(taken["chain"]),
        mcp_overhead_p50_ms=p50(taken["mcp"]) - p50(taken["exec"]),
        exec_p50_ms=p50(taken["exec"]),
        egress_p50_ms=p50(taken["egress"]),
        calls_per_second=per_second,
    )


async def _calls(client: Client, command: str, count: int) -> None:
    for _ in range(count):
        await call(client, command)


async def call(client: Client, command: str) -> tuple[float, dict[str, Any]]:
    """One `shell_exec`: its duration in ms and its structured result."""
    started = time.perf_counter()
    result = await client.call_tool("shell_exec", {"command": command})
    took = (time.perf_counter() - started) * 1000
    assert not result.is_error, result
    return took, dict(result.structured_content or {})


def _directly() -> Callable[[], Awaitable[float]]:
    """`true` asked of sandboxd itself, in the sandbox that the session uses; ms."""
    from django.conf import settings  # noqa: PLC0415  after django.setup

    from apps.sandboxes.client import AsyncSandboxd, Sandboxd  # noqa: PLC0415

    path = settings.RUN_DIR / "sandboxd.sock"
    (sandbox_id,) = Sandboxd(path).activity()["sandboxes"]
    sandboxd = AsyncSandboxd(path)

    async def run() -> float:
        started = time.perf_counter()
        await sandboxd.call(sandbox_id, "exec", {"command": "true"}, seconds=30)
        return (time.perf_counter() - started) * 1000

    return run


if __name__ == "__main__":
    main()
