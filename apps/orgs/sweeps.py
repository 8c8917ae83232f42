"""What time takes away, in all organizations: the one place here that looks across them.

What has ended counts for nothing from that moment (`selectors.live_membership`); the sweep makes
the rows say so too, one organization and one event at a time.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import Q

from apps.common import clock, rows
from apps.orgs import revision
from apps.orgs.events import OrgAction
from apps.orgs.models import Membership, OrgRole, TeamMembership
from apps.orgs.selectors import strongest
from apps.orgs.services.memberships import is_last_admin, lock_organization, membership_end
from apps.orgs.trail import note
from apps.orgs.types import SYSTEM

if TYPE_CHECKING:
    import uuid

BATCH = 500
AHEAD = dt.timedelta(hours=2)  # the sweep comes every hour


def memberships_expire() -> int:
    """End what was given by hand and is over; how many memberships changed."""
    now = clock.now()
    people = Membership.objects.filter(expires_at__lte=now).exclude(manual_role="")
    # The last admin is kept before the end: until the next sweep nobody could come in.
    admins = Membership.objects.filter(expires_at__lte=now + AHEAD, manual_role=OrgRole.ADMIN)
    in_teams = TeamMembership.objects.filter(expires_at__lte=now, by_hand=True)
    ids = {*people.values_list("pk", flat=True)[:BATCH]}
    ids |= {*admins.values_list("pk", flat=True)[:BATCH]}
    ids |= {*in_teams.values_list("membership", flat=True)[:BATCH]}
    return sum(_expire(pk) for pk in sorted(ids, key=str))


@transaction.atomic
def _expire(pk: uuid.UUID) -> bool:
    membership = Membership.objects.filter(pk=pk).first()
    if membership is None:
        return False
    lock_organization(membership.org_id)
    membership = rows.locked(membership)
    over = membership.manual_role and _is_over(membership)
    if (over and is_last_admin(membership)) or _would_leave_no_admin(membership):
        changes = rows.update(membership, {"expires_at": None})
        note(SYSTEM, OrgAction.MEMBERSHIP_KEEP, membership, changes)
        revision.bump()
        return True
    if over and not membership.group_role:
        membership_end(membership, SYSTEM)
        return True
    changes = _end_teams(membership)
    if over:
        role = strongest(membership.group_role)
        changes |= rows.update(membership, {"manual_role": "", "role": role, "expires_at": None})
    if changes:
        note(SYSTEM, OrgAction.MEMBERSHIP_EXPIRE, membership, changes)
        revision.bump()
    return bool(changes)


def _end_teams(membership: Membership) -> rows.Changes:
    ended = [
        row
        for row in membership.team_memberships.filter(by_hand=True).select_related("team")
        if _is_over(row)
    ]
    for row in ended:
        if row.by_group:
            rows.update(row, {"by_hand": False, "expires_at": None})
        else:
            row.delete()
    return {"teams": (sorted(row.team.slug for row in ended), [])} if ended else {}


def _would_leave_no_admin(membership: Membership) -> bool:
    """Whether this admin's time ends before the next sweep, and no other admin's lasts longer."""
    end = membership.expires_at
    if membership.manual_role != OrgRole.ADMIN or end is None or end > clock.now() + AHEAD:
        return False
    by_hand = Q(manual_role=OrgRole.ADMIN) & (Q(expires_at=None) | Q(expires_at__gt=end))
    lasting = Membership.objects.filter(
        by_hand | Q(group_role=OrgRole.ADMIN), org=membership.org_id, user__is_active=True
    )
    return not lasting.exists()


def _is_over(row: Membership | TeamMembership) -> bool:
    return row.expires_at is not None and row.expires_at <= clock.now()
