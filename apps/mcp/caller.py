"""Who sent a request: put into the ASGI scope by the endpoint, read by the handlers."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mcp_types
from mcp.shared.exceptions import MCPError

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from apps.mcp.audience import Audience
    from apps.mcp.catalog import Catalog
    from apps.orgs.types import Principal

SCOPE_KEY = "lens.caller"
# The SDK asks for a tool's schema by its name alone, before any handler runs.
current_catalog: ContextVar[Catalog | None] = ContextVar("current_catalog", default=None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, with what token for what, and what they may see."""

    audience: Audience
    principal: Principal
    catalog: Catalog


def caller_of(ctx: ServerRequestContext[Any, Any]) -> Caller:
    """The caller of the request that a handler serves."""
    if ctx.request is None:
        raise MCPError(mcp_types.INVALID_REQUEST, "This endpoint is served over HTTP only.")
    caller: Caller = ctx.request.scope[SCOPE_KEY]
    return caller


def schema_of(name: str) -> dict[str, Any] | None:
    """The schema of a tool that the current caller sees."""
    catalog = current_catalog.get()
    listed = catalog.listed.get(name) if catalog else None
    return listed.wire.input_schema if listed else None
