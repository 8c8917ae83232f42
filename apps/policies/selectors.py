"""Reads of policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet

from apps.orgs.selectors import visible
from apps.policies.models import Policy

if TYPE_CHECKING:
    from apps.orgs.types import Actor


def policies_visible(actor: Actor | None) -> QuerySet[Policy]:
    """Policies: those of the actor's teams, all for readers."""
    own = Q(team__in=actor.team_ids) if actor else Q()
    return visible(Policy.objects.all(), actor, "policy.view", own)
