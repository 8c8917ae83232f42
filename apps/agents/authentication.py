"""Agent tokens, `lns_…`: whose they are and why they may not hold any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.agents.models import Agent, AgentToken
from apps.agents.services import TOKEN_PREFIX
from apps.common import clock
from apps.common.lookups import TEXT, LookUp
from apps.common.tenancy import scope
from apps.orgs.authentication import Holder, TokenKind, token_kinds
from apps.orgs.models import ProjectGrant
from apps.orgs.refusals import Refusal
from apps.orgs.types import Grant, Principal, PrincipalKind, Tier

if TYPE_CHECKING:
    import datetime as dt
    import uuid


_OWNER = LookUp(
    "agent_token", "SELECT org_id FROM agents_agenttoken WHERE token_hash = %s", takes=(TEXT,)
)


class AgentTokens(TokenKind):
    """Looks agent tokens up by hash."""

    def find(self, digest: str) -> Holder | Refusal | None:
        org_id = _OWNER.id(digest)
        if org_id is None:
            return None
        with scope(org_id):
            return self._find(digest)

    def _find(self, digest: str) -> Holder | Refusal | None:
        token = (
            AgentToken.objects.filter(token_hash=digest)
            .select_related("agent__team", "agent__org")
            .first()
        )
        if token is None:
            return None
        who = _who(token)
        reason = _why_not(token)
        if reason is not None:
            return Refusal(*reason, who)
        return Holder(_principal(token), who, token.expires_at, token.last_used_at)

    def used(self, token_id: uuid.UUID, at: dt.datetime) -> None:
        AgentToken.objects.filter(pk=token_id).update(last_used_at=at)


token_kinds.register(TOKEN_PREFIX)(AgentTokens())


def _why_not(token: AgentToken) -> tuple[str, str] | None:
    """Code and sentence of the first thing that keeps the token from holding."""
    agent = token.agent
    if token.revoked_at is not None:
        return "token_revoked", "This token was revoked."
    if token.expires_at is not None and token.expires_at <= clock.now():
        return "token_expired", "This token has expired."
    if agent.org.closed_at is not None:
        return "token_organization_closed", "The organization of this token is closed."
    if agent.team.deleted_at is not None:
        return "token_team_gone", "The team of this token was deleted."
    if agent.disabled_at is not None:
        return "token_agent_disabled", "The agent of this token is disabled."
    return None


def _principal(token: AgentToken) -> Principal:
    agent = token.agent
    return Principal(
        kind=PrincipalKind.AGENT,
        id=agent.pk,
        name=agent.name,
        org_id=agent.org_id,
        org_slug=agent.org.slug,
        team_id=agent.team_id,
        team_slug=agent.team.slug,
        tier=Tier.API,
        token_id=token.pk,
        grants=_grants(agent),
    )


def _grants(agent: Agent) -> tuple[Grant, ...]:
    rows = ProjectGrant.objects.filter(org=agent.org_id, team=agent.team_id)
    return tuple(
        Grant(grant.project_id, grant.project.slug, grant.role)
        for grant in rows.select_related("project").order_by("project__slug")
    )


def _who(token: AgentToken) -> dict[str, str | None]:
    """The audit columns of a refusal."""
    agent = token.agent
    return {
        "org": str(agent.org_id),
        "org_slug": agent.org.slug,
        "team": str(agent.team_id),
        "team_slug": agent.team.slug,
        "principal_kind": PrincipalKind.AGENT,
        "principal_id": str(agent.pk),
        "principal_name": agent.name,
        "tier": Tier.API,
        "resource_id": str(token.pk),
    }
