"""What one principal sees: the tools that its policy allows, with schemas made for its projects.

A catalog is made once for a principal and a state of the world (`apps.orgs.revision`) and is then
answered from memory. A tool that is not in it does not exist for that principal; why not is decided
again, by the same function, only for the audit trail.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mcp_types
from django.db import close_old_connections

from apps.common.errors import Invalid
from apps.common.tenancy import scope
from apps.mcp.arguments import Arguments
from apps.mcp.tool import Risk, Tool, tools
from apps.orgs.revision import StampedCache
from apps.orgs.types import PrincipalKind
from apps.policies.compiler import compile_bundle
from apps.policies.core.decide import decide
from apps.policies.types import Action, Bundle, Decision, LayerKind, ToolRequest
from apps.sandboxes.selectors import agent_in

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from apps.orgs.types import Grant, Principal

CACHE_SIZE = 2_000
PROJECT = "project"
_OUTSIDE_ONLY = Decision(
    Action.DENY,
    LayerKind.BUILTIN,
    "inside",
    "This tool works on sandboxes or on the platform, and is not offered inside a sandbox.",
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A visible tool: as it is listed, and with the check of its arguments."""

    tool: Tool
    wire: mcp_types.Tool
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Catalog:
    """The visible tools of one principal, by name, in the order in which they are listed."""

    principal: Principal
    bundle: Bundle | None
    listed: Mapping[str, Listed]

    def why_not(self, name: str) -> Decision | None:
        """The decision that hides a tool; None when there is no tool of that name at all."""
        tool = tools.get(name)
        if self.bundle is None or tool is None:
            return None
        if not _offered(tool, self.principal):
            return _OUTSIDE_ONLY
        return decide(self.bundle, ToolRequest(name, str(self.principal.tier)))

    def grant_for(self, arguments: Mapping[str, Any]) -> Grant:
        """The project that a call is about. With one grant it need not be said."""
        slug = arguments.get(PROJECT)
        for grant in self.principal.grants:
            if slug in (None, grant.slug):
                return grant
        raise Invalid("There is no such project.", field=PROJECT, code="invalid_arguments")


_cache: StampedCache[Catalog] = StampedCache(CACHE_SIZE)
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="lens-catalog")


async def catalog_of(principal: Principal) -> Catalog:
    """The principal's catalog: from memory at once, else compiled in a thread."""
    found = _cache.peek(principal)
    if found is None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(_threads, _catalog_in_thread, principal)
    return found


def _catalog_in_thread(principal: Principal) -> Catalog:
    try:
        return _cache.get(principal, lambda _: _compile(principal))
    finally:
        close_old_connections()


def _compile(principal: Principal) -> Catalog:
    """Tool rules are the same in every project of a team, so one project's bundle decides."""
    if not principal.grants:
        return Catalog(principal, None, {})
    with scope(principal.org_id):
        bundle = compile_bundle(
            org_id=principal.org_id,
            team_id=principal.team_id,
            project_id=principal.grants[0].project_id,
            agent_id=_agent_of(principal),
        )
    tier = str(principal.tier)
    listed = {
        name: _list(tool, principal)
        for name, tool in tools
        if _offered(tool, principal) and decide(bundle, ToolRequest(name, tier)).allowed
    }
    return Catalog(principal, bundle, listed)


def _offered(tool: Tool, principal: Principal) -> bool:
    """Whether this kind of principal may see such a tool at all, whatever its policy says."""
    return tool.inside or principal.kind is not PrincipalKind.SANDBOX


def _agent_of(principal: Principal) -> uuid.UUID | None:
    """The agent whose own policy is a layer: of a sandbox, the one that it was made for."""
    if principal.kind is PrincipalKind.SANDBOX:
        return agent_in(principal.org_id, principal.id)
    return principal.id if principal.kind is PrincipalKind.AGENT else None


def _list(tool: Tool, principal: Principal) -> Listed:
    schema = _schema(tool, [grant.slug for grant in principal.grants])
    wire = mcp_types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema,
        annotations=mcp_types.ToolAnnotations(
            read_only_hint=tool.risk is Risk.READ,
            destructive_hint=tool.risk is Risk.DESTRUCTIVE,
            open_world_hint=tool.open_world,
        ),
    )
    return Listed(tool, wire, Arguments(schema))


def _schema(tool: Tool, slugs: list[str]) -> dict[str, Any]:
    """The tool's schema; with a choice of projects one must be named."""
    if not tool.in_project or len(slugs) < 2:
        return tool.schema
    project = {
        "type": "string",
        "enum": slugs,
        "description": "The project to work in. Each has a sandbox and credentials of its own.",
    }
    return {
        **tool.schema,
        "properties": {PROJECT: project, **tool.schema["properties"]},
        "required": [PROJECT, *tool.schema["required"]],
    }
