"""Who the caller is, as the platform sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.mcp.tool import Call, Outcome, Risk, tool

if TYPE_CHECKING:
    from typing import Any


@tool(
    name="whoami",
    title="Who am I",
    description=(
        "Say who you are to this platform: your name, kind, organization, team, and the projects "
        "that you may work in with your role in each."
    ),
    properties={},
    risk=Risk.READ,
    in_project=False,
    inside=True,
)
async def whoami(call: Call) -> Outcome:
    """The principal, without anything secret."""
    who = call.principal
    data: dict[str, Any] = {
        "kind": str(who.kind),
        "id": str(who.id),
        "name": who.name,
        "organization": who.org_slug,
        "team": who.team_slug,
        "tier": str(who.tier),
        "projects": [{"project": grant.slug, "role": grant.role} for grant in who.grants],
    }
    if who.on_behalf_of:
        data["on_behalf_of"] = who.on_behalf_of
    projects = ", ".join(f"{grant.slug} ({grant.role})" for grant in who.grants)
    text = f"{who.name}: {who.kind} in team {who.team_slug} of {who.org_slug}; projects: {projects}"
    return Outcome(text=text, data=data)
