"""Reads of the vault. None of them opens a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet

from apps.connections.models import Credential
from apps.orgs.models import ProjectRole
from apps.orgs.selectors import projects_of, visible

if TYPE_CHECKING:
    from apps.orgs.types import Actor


def credentials_visible(actor: Actor | None) -> QuerySet[Credential]:
    """Credentials: those of the projects that the actor administers, all for readers."""
    own = Q(project__in=projects_of(actor, ProjectRole.ADMIN)) if actor else Q()
    return visible(Credential.objects.all(), actor, "credential.view", own)
