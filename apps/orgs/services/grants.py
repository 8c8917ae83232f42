"""Grants: which team may work in which project, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import rows
from apps.common.errors import Invalid
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import Project, ProjectGrant, ProjectRole, Team
from apps.orgs.services.projects import live_project
from apps.orgs.services.teams import live_team
from apps.orgs.trail import note

if TYPE_CHECKING:
    from apps.orgs.types import Actor


@transaction.atomic
def grant_set(
    team: Team, project: Project, *, role: str = ProjectRole.MEMBER, actor: Actor
) -> ProjectGrant:
    """Give the team this role on the project, or change the role that it has."""
    require(actor, "grant.create", team)
    team = live_team(team)
    if project.org_id != team.org_id:
        raise Invalid("There is no such project in this organization.", field="project")
    project = live_project(project)
    grant = ProjectGrant.objects.filter(team=team, project=project).first()
    if grant is None:
        return _grant_new(team, project, role, actor)
    require(actor, "grant.update", grant)
    grant = rows.locked(grant)
    changes = rows.update(grant, {"role": role})
    if changes:
        note(actor, OrgAction.GRANT_UPDATE, grant, changes)
        revision.bump()
    return grant


@transaction.atomic
def grant_remove(grant: ProjectGrant, *, actor: Actor) -> None:
    """The team's sandboxes in the project stop, its agents no longer see it."""
    require(actor, "grant.delete", grant)
    grant = rows.locked(grant)
    note(actor, OrgAction.GRANT_DELETE, grant, {"role": (grant.role, None)})
    grant.delete()
    revision.bump()


def _grant_new(team: Team, project: Project, role: str, actor: Actor) -> ProjectGrant:
    grant = ProjectGrant(org_id=team.org_id, team=team, project=project, role=role)
    rows.insert(grant, taken="The team was given a role on this project at the same moment.")
    note(actor, OrgAction.GRANT_CREATE, grant, {"role": (None, role)})
    revision.bump()
    return grant
