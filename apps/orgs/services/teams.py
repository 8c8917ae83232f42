"""Teams. A deleted team stays as a row: its audit trail, agents and tokens point to it.

The admin's page of a team goes on with its people in the same transaction (`membership_update`), so
the organization is locked here already, before the Revision is bumped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import clock, rows
from apps.common.errors import NotFound
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import Team
from apps.orgs.services.memberships import lock_organization
from apps.orgs.trail import created, note

if TYPE_CHECKING:
    from apps.orgs.models import Organization
    from apps.orgs.types import Actor


@transaction.atomic
def team_create(
    org: Organization, *, slug: str, name: str, description: str = "", actor: Actor
) -> Team:
    """A new team: without a policy it may do nothing."""
    require(actor, "team.create", org)
    lock_organization(org.pk)
    team = Team(org=org, slug=slug, name=name, description=description)
    rows.insert(team, taken=f"A team with the slug “{slug}” exists. Choose another slug.")
    note(actor, OrgAction.TEAM_CREATE, team, created(team, "slug", "name", "description"))
    revision.bump()
    return team


@transaction.atomic
def team_update(
    team: Team, *, name: str | None = None, description: str | None = None, actor: Actor
) -> Team:
    """Change what is given; None keeps. The slug never changes."""
    require(actor, "team.update", team)
    lock_organization(team.org_id)
    team = live_team(team)
    changes = rows.update(team, rows.given(name=name, description=description))
    if changes:
        note(actor, OrgAction.TEAM_UPDATE, team, changes)
        revision.bump()
    return team


@transaction.atomic
def team_delete(team: Team, *, actor: Actor) -> Team:
    """Soft: the tokens of its agents stop at once, and its slug stays taken."""
    require(actor, "team.delete", team)
    team = live_team(team)
    changes = rows.update(team, {"deleted_at": clock.now()})
    note(actor, OrgAction.TEAM_DELETE, team, changes)
    revision.bump()
    return team


def live_team(team: Team) -> Team:
    """The team as it is now, locked; NotFound once it is deleted."""
    team = rows.locked(team)
    if team.deleted_at is not None:
        raise NotFound("Not found.")
    return team
