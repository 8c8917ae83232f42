"""People of an organization: their role and their teams, as far as they are given by hand.

What an admin gives ends after the organization's `manual_days`, unless it is renewed; what the
platform itself gives (the set-up's first admin) does not. What groups of the identity provider give
is `apps.orgs.services.groups`'s, and cannot be taken away here: it would come back.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import clock, rows
from apps.common.errors import Conflict, Invalid, NotFound
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import (
    Identity,
    Invitation,
    Membership,
    OAuthAccessToken,
    OAuthGrant,
    OAuthIDToken,
    OAuthRefreshToken,
    Organization,
    OrgRole,
    Team,
    TeamMembership,
    User,
    UserSession,
)
from apps.orgs.selectors import live_admin, live_teams, strongest
from apps.orgs.services.domains import plain_address
from apps.orgs.services.sessions import sessions_end
from apps.orgs.trail import note
from apps.orgs.types import PrincipalKind

if TYPE_CHECKING:
    import uuid
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
    lock_organization(org.pk)  # its caller may go on with `membership_update`
    user = person_with(email, name)
    membership = Membership(org=org, user=user, role=role, manual_role=role)
    membership.expires_at = manual_end(org, actor)
    rows.insert(membership, taken=f"{user.email} is already a member of this organization.")
    changes = {"email": (None, user.email), "role": (None, role)}
    note(actor, OrgAction.MEMBERSHIP_CREATE, membership, changes)
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
    lock_organization(membership.org_id)
    membership = rows.locked(membership)
    end = manual_end(membership.org, actor)
    changes = _set_role(membership, role, end) if role is not None else {}
    if teams is not None:
        changes |= _set_teams(membership, teams, end)
    if changes:
        note(actor, OrgAction.MEMBERSHIP_UPDATE, membership, changes)
        revision.bump()
    return membership


@transaction.atomic
def membership_renew(membership: Membership, *, actor: Actor) -> Membership:
    """What was given by hand counts for the organization's `manual_days` from now."""
    require(actor, "membership.update", membership)
    membership = rows.locked(membership)
    by_hand = membership.team_memberships.filter(by_hand=True)
    if not membership.manual_role and not by_hand.exists():
        raise Conflict("Nothing here was given by hand: it comes from the identity provider.")
    end = clock.now() + dt.timedelta(days=membership.org.manual_days)
    changes = rows.update(membership, {"expires_at": end})
    by_hand.update(expires_at=end)
    note(actor, OrgAction.MEMBERSHIP_RENEW, membership, changes)
    revision.bump()
    return membership


@transaction.atomic
def identity_forget(membership: Membership, *, actor: Actor) -> None:
    """Forget which accounts are this person's here: the next one with the address, which a provider
    has verified, is bound anew. Ends the person's sessions here.

    For a person whom the provider calls otherwise since, or whose account was another's. Conflict
    for the last admin, who might not come back, and when there is nothing to forget.
    """
    require(actor, "membership.update", membership)
    lock_organization(membership.org_id)
    membership = rows.locked(membership)
    keep_an_admin(membership)
    org_id, user = membership.org_id, membership.user
    held = Identity.objects.filter(org=org_id, user=user).order_by("subject")
    subjects = list(held.values_list("subject", flat=True))
    if not subjects:
        raise Conflict("There is nothing to forget: nobody has signed in as this person.")
    held.delete()
    ended = sessions_end(UserSession.objects.filter(org=org_id, user=user), by="admin")
    changes: rows.Changes = {"accounts": (subjects, [])}
    note(actor, OrgAction.MEMBERSHIP_FORGET, membership, changes, sessions_ended=ended)


@transaction.atomic
def membership_remove(membership: Membership, *, actor: Actor) -> None:
    """The person leaves the organization; the last admin cannot."""
    require(actor, "membership.delete", membership)
    lock_organization(membership.org_id)
    membership = rows.locked(membership)
    keep_an_admin(membership)
    membership_end(membership, actor)


@transaction.atomic
def user_deprovision(user: User, org: Organization, *, actor: Actor) -> None:
    """The person is gone, says whoever knows (the directory): out of the organization at once.

    Ends the membership with everything that hangs on it, the person's sessions and OAuth tokens
    here, and invitations of the address. The last admin goes too: a directory's word is not bent.
    NotFound for somebody who is no member.
    """
    require(actor, "membership.delete", org)
    membership = Membership.objects.filter(org=org, user=user).first()
    if membership is None:
        raise NotFound("Not found.")
    lock_organization(org.pk)
    membership_end(rows.locked(membership), actor)


def membership_end(membership: Membership, by: Actor) -> None:
    """Take the person out, inside the caller's transaction, with all that hangs on membership."""
    user, org_id = membership.user, membership.org_id
    ended = sessions_end(UserSession.objects.filter(user=user, org=org_id), by="removed")
    for model in (OAuthAccessToken, OAuthRefreshToken, OAuthGrant, OAuthIDToken):
        model.objects.filter(user=user, org=org_id).delete()
    now = clock.now()
    Invitation.objects.filter(
        org=org_id, email__iexact=user.email, accepted_at=None, revoked_at=None
    ).update(revoked_at=now)
    changes = {"email": (user.email, None), "role": (membership.role, None)}
    note(by, OrgAction.MEMBERSHIP_DELETE, membership, changes, sessions_ended=ended)
    membership.delete()
    revision.bump()


def person_with(email: str, name: str = "") -> User:
    """The person with this address; one whom the platform does not know is created."""
    address = plain_address(email).lower()
    user = User.objects.filter(email__iexact=address).first()
    if user is None:
        user = User(email=address, name=name)
        rows.insert(user, taken=f"{address} was added by someone else at the same time.")
    return user


def manual_end(org: Organization, giver: Actor) -> dt.datetime | None:
    """When ends what somebody gives by hand."""
    if giver.kind is PrincipalKind.SYSTEM:
        return None
    return clock.now() + dt.timedelta(days=org.manual_days)


def lock_organization(org_id: uuid.UUID) -> None:
    """Two admins who demote each other at the same moment must not both succeed."""
    Organization.objects.select_for_update(no_key=True).get(pk=org_id)


def is_last_admin(membership: Membership) -> bool:
    """Whether the organization would have no admin without this one."""
    admins = Membership.objects.filter(live_admin(), org=membership.org_id, user__is_active=True)
    return membership.role == OrgRole.ADMIN and not admins.exclude(pk=membership.pk).exists()


def keep_an_admin(membership: Membership) -> None:
    """Conflict for the last admin."""
    if is_last_admin(membership):
        raise Conflict("This is the last admin of the organization. Make someone else admin first.")


def _set_role(membership: Membership, role: str, end: dt.datetime | None) -> rows.Changes:
    """The part that is given by hand; the groups' part stays beside it."""
    effective = strongest(role, membership.group_role)
    if effective != OrgRole.ADMIN:
        keep_an_admin(membership)
    if membership.manual_role == role:
        return {}
    return rows.update(membership, {"manual_role": role, "role": effective, "expires_at": end})


def _set_teams(
    membership: Membership, teams: Iterable[Team], end: dt.datetime | None
) -> rows.Changes:
    wanted = {team.pk: team for team in teams}
    if live_teams(membership.org_id).filter(pk__in=wanted).count() != len(wanted):
        raise Invalid("One of these teams does not exist in this organization.", field="teams")
    held = {row.team_id: row for row in membership.team_memberships.select_related("team")}
    if held.keys() == wanted.keys():
        return {}
    before = sorted(row.team.slug for row in held.values())
    gone = [row for key, row in held.items() if key not in wanted]
    stays = [row.team.name for row in gone if row.by_group and row.team.deleted_at is None]
    if stays:
        raise Invalid(
            f"{stays[0]} comes from a group of the identity provider and would come back. Take the"
            " person out of the group, or change the group mapping.",
            field="teams",
        )
    membership.team_memberships.filter(pk__in=[row.pk for row in gone]).delete()
    for key in wanted.keys() - held.keys():
        TeamMembership.objects.create(
            org_id=membership.org_id, membership=membership, team_id=key, expires_at=end
        )
    return {"teams": (before, sorted(team.slug for team in wanted.values()))}
