"""Plays the story with the official MCP SDK client, as any outside agent would."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from lensagents.demo.story import DiffersError, steps

if TYPE_CHECKING:
    from collections.abc import Callable

ISOLATION_UNAVAILABLE = "isolation_unavailable"
CALL_TIMEOUT_S = 60


class IsolationMissingError(Exception):
    """This host cannot build a sandbox; the text is the remedy."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one step showed: `seen` is a line for people, `raw` all that the agent received."""

    title: str
    seen: str
    ok: bool
    took_ms: float
    raw: str


async def play(url: str, token: str, tell: Callable[[Told], None]) -> list[Told]:
    """Run every step; each is told as it ends, and one that differs does not stop the rest."""
    headers = {"Authorization": f"Bearer {token}"}
    told: list[Told] = []
    remedy = ""
    async with (
        httpx2.AsyncClient(headers=headers, timeout=CALL_TIMEOUT_S) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        listed = [tool.name for tool in (await client.list_tools()).tools]
        first = Told("Which tools do I see?", ", ".join(listed), bool(listed), 0, str(listed))
        told.append(first)
        tell(first)
        for step in steps():
            started = time.perf_counter()
            try:
                result = await client.call_tool(step.tool, step.arguments)
            except MCPError as error:
                told.append(Told(step.title, f"DIFFERS: {error}", ok=False, took_ms=0, raw=""))
            else:
                remedy = _isolation_remedy(result)
                if remedy:
                    break
                told.append(_judge(step, result, (time.perf_counter() - started) * 1000))
            tell(told[-1])
    # Raised out here: inside, the client's task group would wrap it.
    if remedy:
        raise IsolationMissingError(remedy)
    return told


def _isolation_remedy(result: Any) -> str:
    content = result.structured_content or {}
    if content.get("error") != ISOLATION_UNAVAILABLE:
        return ""
    return str(content.get("remedy") or content.get("message") or ISOLATION_UNAVAILABLE)


def _judge(step: Any, result: Any, took_ms: float) -> Told:
    content = result.structured_content or {}
    raw = json.dumps(content) + "".join(getattr(part, "text", "") for part in result.content)
    if result.is_error and not step.refused:
        seen = f"DIFFERS: {content.get('message') or raw}"
        return Told(step.title, seen, ok=False, took_ms=took_ms, raw=raw)
    try:
        return Told(step.title, step.check(content), ok=True, took_ms=took_ms, raw=raw)
    except (DiffersError, KeyError, ValueError) as error:
        return Told(step.title, f"DIFFERS: {error}", ok=False, took_ms=took_ms, raw=raw)
