"""Invitations: a link for one address, once. Nobody exists here before it is accepted.

The link alone lets nobody in: whoever opens it signs in at one of the organization's providers,
which must have verified the very address that was invited.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import clock, ids, mail, rows
from apps.common.errors import Conflict, Denied, Invalid
from apps.common.tenancy import edge, scope
from apps.orgs import lookups, revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import (
    Invitation,
    InvitationTeam,
    Membership,
    Organization,
    OrgRole,
    Team,
    TeamMembership,
    User,
)
from apps.orgs.selectors import live_teams
from apps.orgs.services.domains import plain_address
from apps.orgs.services.memberships import person_with
from apps.orgs.trail import created, note
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.models import QuerySet

TOKEN_PREFIX = "lnsi"  # noqa: S105  what every link's token starts with
MAX_DAYS = 30


@dataclass(frozen=True, slots=True)
class Invited:
    """A new invitation; `token` is for the link, shown or mailed once, and kept out of `repr`."""

    invitation: Invitation
    token: str = field(repr=False)


@transaction.atomic
def invitation_create(
    org: Organization,
    *,
    email: str,
    name: str = "",
    role: str = OrgRole.MEMBER,
    teams: Sequence[Team] = (),
    days: int = 7,
    actor: Actor,
) -> Invited:
    """Invite an address. A new invitation of the same address ends the one before."""
    require(actor, "invitation.create", org)
    address = plain_address(email).lower()
    if Membership.objects.filter(org=org, user__email__iexact=address).exists():
        raise Conflict(f"{address} is already a member of this organization.")
    if not 1 <= days <= MAX_DAYS:
        raise Invalid(f"Choose 1 to {MAX_DAYS} days.", field="days")
    if live_teams(org.pk).filter(pk__in=[team.pk for team in teams]).count() != len(teams):
        raise Invalid("One of these teams does not exist in this organization.", field="teams")
    now = clock.now()
    open_invitations(org).filter(email__iexact=address).update(revoked_at=now)
    token = ids.token(TOKEN_PREFIX)
    row = Invitation(
        org=org,
        email=address,
        name=name,
        role=role,
        token_hash=ids.token_hash(token),
        expires_at=now + dt.timedelta(days=days),
    )
    rows.insert(row, taken="Try again.")
    InvitationTeam.objects.bulk_create(
        InvitationTeam(org=org, invitation=row, team=team) for team in teams
    )
    slugs = sorted(team.slug for team in teams)
    changes = created(row, "email", "role", "expires_at")
    note(actor, OrgAction.INVITATION_CREATE, row, {**changes, "teams": (None, slugs)})
    return Invited(row, token)


@transaction.atomic
def invitation_revoke(invitation: Invitation, *, actor: Actor) -> Invitation:
    """Its link stops working."""
    require(actor, "invitation.delete", invitation)
    invitation = rows.locked(invitation)
    if invitation.accepted_at is not None:
        raise Conflict("It was accepted already. Remove the person instead.")
    if invitation.revoked_at is None:
        changes = rows.update(invitation, {"revoked_at": clock.now()})
        note(actor, OrgAction.INVITATION_REVOKE, invitation, changes)
    return invitation


def invitation_of(token: str) -> Invitation:
    """The invitation of a link; Denied with one sentence for every way in which it is wrong."""
    row = _open(ids.token_hash(token))
    if row is None:
        raise Denied(
            "This invitation is not valid: it was used or withdrawn, is too old, or is not"
            " complete. Ask whoever invited you for a new one.",
            code="invitation_refused",
        )
    return row


def _open(digest: str) -> Invitation | None:
    org_id = lookups.INVITATION.id(digest)
    if org_id is None:
        return None
    with edge(), scope(org_id):
        rows = Invitation.objects.filter(
            token_hash=digest,
            accepted_at=None,
            revoked_at=None,
            expires_at__gt=clock.now(),
            org__closed_at=None,
        )
        return rows.select_related("org").first()


def invitation_mail(invited: Invited, link: str) -> bool:
    """Mail the link; whether that worked. Outside any transaction: a mail server may be slow."""
    row = invited.invitation
    sent = mail.send(
        [row.email],
        f"You are invited to {row.org.name}",
        f"You are invited to work in {row.org.name} with Lens Agents.\n\n"
        f"Open this link and sign in with your account {row.email}:\n{link}\n\n"
        f"It works once, until {row.expires_at:%Y-%m-%d %H:%M} UTC.\n",
    )
    if sent:
        Invitation.objects.filter(pk=row.pk).update(mailed_at=clock.now())
    return sent


def open_invitations(org: Organization) -> QuerySet[Invitation]:
    """Those that can still be accepted."""
    return Invitation.objects.filter(
        org=org, accepted_at=None, revoked_at=None, expires_at__gt=clock.now()
    )


def invitation_accept(invitation: Invitation, email: str, known: User | None = None) -> User | None:
    """The invited person becomes a member, inside the caller's transaction.

    `known` is whose account it is that has this address now, under whatever address the person is
    here. None when the invitation is over, or was for another address.
    """
    accepted = open_invitations(invitation.org).filter(pk=invitation.pk, email__iexact=email)
    # The update decides: of two browsers with one link, one finds it open.
    if not accepted.update(accepted_at=clock.now()):
        return None
    invitation = Invitation.objects.get(pk=invitation.pk)
    org, user = invitation.org, known or person_with(email, invitation.name)
    end = clock.now() + dt.timedelta(days=org.manual_days)
    membership, is_new = Membership.objects.get_or_create(
        org=org,
        user=user,
        defaults={"role": invitation.role, "manual_role": invitation.role, "expires_at": end},
    )
    teams = [row.team for row in invitation.for_teams.select_related("team")]
    for team in teams if is_new else []:
        if team.deleted_at is None:
            TeamMembership.objects.create(org=org, membership=membership, team=team, expires_at=end)
    guest = Actor(kind=PrincipalKind.USER, id=str(user.pk), name=user.email, org_id=org.pk)
    changes = {"email": (None, user.email), "role": (None, membership.role)}
    note(guest, OrgAction.INVITATION_ACCEPT, invitation, changes)
    revision.bump()
    return user
