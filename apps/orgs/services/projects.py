"""Projects: bundles of credentials and connections that teams are granted.

A deleted project stays as a row: its audit trail and its past sandboxes point to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import clock, rows
from apps.common.errors import NotFound
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import Project
from apps.orgs.trail import created, note

if TYPE_CHECKING:
    from apps.orgs.models import Organization
    from apps.orgs.types import Actor


@transaction.atomic
def project_create(
    org: Organization, *, slug: str, name: str, description: str = "", actor: Actor
) -> Project:
    """A new project: no team may use it before a grant."""
    require(actor, "project.create", org)
    project = Project(org=org, slug=slug, name=name, description=description)
    rows.insert(project, taken=f"A project with the slug “{slug}” exists. Choose another slug.")
    note(actor, OrgAction.PROJECT_CREATE, project, created(project, "slug", "name", "description"))
    revision.bump()
    return project


@transaction.atomic
def project_update(
    project: Project, *, name: str | None = None, description: str | None = None, actor: Actor
) -> Project:
    """Change what is given; None keeps. The slug never changes."""
    require(actor, "project.update", project)
    project = live_project(project)
    changes = rows.update(project, rows.given(name=name, description=description))
    if changes:
        note(actor, OrgAction.PROJECT_UPDATE, project, changes)
        revision.bump()
    return project


@transaction.atomic
def project_delete(project: Project, *, actor: Actor) -> Project:
    """Soft: all grants go, so that its sandboxes stop; its slug stays taken.

    Its credentials stay in the vault, out of reach: no sandbox works in the project any more.
    """
    require(actor, "project.delete", project)
    project = live_project(project)
    teams = sorted(project.grants.values_list("team__slug", flat=True))
    project.grants.all().delete()
    changes = rows.update(project, {"deleted_at": clock.now()})
    note(actor, OrgAction.PROJECT_DELETE, project, {**changes, "granted_teams": (teams, [])})
    revision.bump()
    return project


def live_project(project: Project) -> Project:
    """The project as it is now, locked; NotFound once it is deleted."""
    project = rows.locked(project)
    if project.deleted_at is not None:
        raise NotFound("Not found.")
    return project
