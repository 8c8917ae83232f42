"""Reads of agents and their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet

from apps.agents.models import Agent, AgentToken
from apps.orgs.selectors import visible

if TYPE_CHECKING:
    from apps.orgs.types import Actor


def agents_visible(actor: Actor | None) -> QuerySet[Agent]:
    """Agents: those of the actor's teams, all for readers."""
    own = Q(team__in=actor.team_ids) if actor else Q()
    return visible(Agent.objects.all(), actor, "agent.view", own)


def tokens_visible(actor: Actor | None) -> QuerySet[AgentToken]:
    """Tokens without their values, which nobody has."""
    return visible(AgentToken.objects.all(), actor, "token.view")
