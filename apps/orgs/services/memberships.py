"""People of an organization: their role and their teams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import rows
from apps.common.errors import Conflict, Invalid
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import Membership, Organization, OrgRole, Team, TeamMembership, User
from apps.orgs.selectors import live_teams
from apps.orgs.trail import note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apps.orgs.types import Actor


@transaction.atomic
def user_invite(
    org: Organization, *, email: str, name: str = "", role: str = OrgRole.MEMBER, actor: Actor
) -> Membership:
    """Make the person with this address a member; a person unknown to the platform is created.

    The name of a known person stays: it is not this organization's to change.
    """
    require(actor, "membership.create", org)
    user = User.objects.filter(email__iexact=email.strip()).first()
    if user is None:
        user = User(email=email.strip().lower(), name=name)
        rows.insert(user, taken=f"{email} was added by someone else at the same time.")
    membership = Membership(org=org, user=user, role=role)
    rows.insert(membership, taken=f"{user.email} is already a member of this organization.")
    note(
        actor,
        OrgAction.MEMBERSHIP_CREATE,
        membership,
        {"email": (None, user.email), "role": (None, role)},
    )
    revision.bump()
    return membership


@transaction.atomic
def membership_update(
    membership: Membership,
    *,
    role: str | None = None,
    teams: Iterable[Team] | None = None,
    actor: Actor,
) -> Membership:
    """Change the role, the teams, or both; None keeps. The last admin stays admin."""
    require(actor, "membership.update", membership)
    _lock_organization(membership)
    membership = rows.locked(membership)
    if role is not None and role != OrgRole.ADMIN:
        _keep_an_admin(membership)
    changes = rows.update(membership, rows.given(role=role))
    if teams is not None:
        changes |= _set_teams(membership, teams)
    if changes:
        note(actor, OrgAction.MEMBERSHIP_UPDATE, membership, changes)
        revision.bump()
    return membership


@transaction.atomic
def membership_remove(membership: Membership, *, actor: Actor) -> None:
    """The person leaves the organization; the last admin cannot."""
    require(actor, "membership.delete", membership)
    _lock_organization(membership)
    membership = rows.locked(membership)
    _keep_an_admin(membership)
    note(
        actor,
        OrgAction.MEMBERSHIP_DELETE,
        membership,
        {"email": (membership.user.email, None), "role": (membership.role, None)},
    )
    membership.delete()
    revision.bump()


def _lock_organization(membership: Membership) -> None:
    """Two admins who demote each other at the same moment must not both succeed."""
    Organization.objects.select_for_update(no_key=True).get(pk=membership.org_id)


def _keep_an_admin(membership: Membership) -> None:
    admins = Membership.objects.filter(
        org=membership.org_id, role=OrgRole.ADMIN, user__is_active=True
    )
    if membership.role == OrgRole.ADMIN and not admins.exclude(pk=membership.pk).exists():
        raise Conflict("This is the last admin of the organization. Make someone else admin first.")


def _set_teams(membership: Membership, teams: Iterable[Team]) -> rows.Changes:
    wanted = {team.pk: team for team in teams}
    if live_teams(membership.org_id).filter(pk__in=wanted).count() != len(wanted):
        raise Invalid("One of these teams does not exist in this organization.", field="teams")
    held = {row.team_id: row for row in membership.team_memberships.select_related("team")}
    if held.keys() == wanted.keys():
        return {}
    before = sorted(row.team.slug for row in held.values())
    membership.team_memberships.exclude(team__in=wanted).delete()
    for key in wanted.keys() - held.keys():
        TeamMembership.objects.create(org_id=membership.org_id, membership=membership, team_id=key)
    return {"teams": (before, sorted(team.slug for team in wanted.values()))}
