"""Projects: bundles of credentials and connections that teams are granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import ProtectedError

from apps.common import rows
from apps.common.errors import Conflict
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
    revision.bump()
    note(actor, OrgAction.PROJECT_CREATE, project, created(project, "slug", "name", "description"))
    return project


@transaction.atomic
def project_update(
    project: Project, *, name: str | None = None, description: str | None = None, actor: Actor
) -> Project:
    """Change what is given; None keeps. The slug never changes."""
    require(actor, "project.update", project)
    project = rows.locked(project)
    changes = rows.update(project, rows.given(name=name, description=description))
    if changes:
        revision.bump()
        note(actor, OrgAction.PROJECT_UPDATE, project, changes)
    return project


@transaction.atomic
def project_delete(project: Project, *, actor: Actor) -> None:
    """Delete it with its grants; Conflict while credentials or sandboxes belong to it."""
    require(actor, "project.delete", project)
    project = rows.locked(project)
    revision.bump()
    note(actor, OrgAction.PROJECT_DELETE, project, {"slug": (project.slug, None)})
    try:
        project.delete()
    except ProtectedError as error:
        raise Conflict(
            "The project still has credentials or sandboxes. Delete and stop them first."
        ) from error
