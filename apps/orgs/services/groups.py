"""What the identity provider's groups give. Replaced wholesale at each sign-in.

A group is a word that the provider says of a person in a verified token. Mappings turn groups into
teams and an organization role. What an admin gave by hand stays beside it, and an organization
keeps its last admin even when a group says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.common import clock, rows
from apps.orgs import revision
from apps.orgs.events import OrgAction
from apps.orgs.models import GroupMapping, IdentityProvider, Membership, OrgRole, TeamMembership
from apps.orgs.oidc.errors import SignInError
from apps.orgs.selectors import strongest
from apps.orgs.services.memberships import is_last_admin, lock_organization, membership_end
from apps.orgs.trail import note
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Mapping

    from apps.orgs.models import User

MAX_GROUPS = 250
MAX_GROUP = 255


def groups_in(idp: IdentityProvider, claims: Mapping[str, Any]) -> frozenset[str]:
    """The groups that verified claims name; SignInError when they are too many to be there.

    Entra ID leaves out the groups of a person with more than 200 and says so in `_claim_names`:
    half a list would silently take teams away, so nobody signs in on it.
    """
    name = idp.group_claim
    if not name:
        return frozenset()
    elsewhere = claims.get("_claim_names")
    if claims.get("hasgroups") or (isinstance(elsewhere, dict) and name in elsewhere):
        raise _too_many("groups_elsewhere", "the provider left the groups out (overage)")
    value = claims.get(name, [])
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise SignInError(
            "groups_unreadable",
            "Your identity provider sends your groups in a form that we cannot read, so nobody was"
            " signed in. Tell your administrator.",
            detail=f"the claim {name} is no list of words",
        )
    found = frozenset(word for word in words if 0 < len(word) <= MAX_GROUP)
    if len(found) > MAX_GROUPS:
        raise _too_many("groups_too_many", f"{len(found)} groups, more than {MAX_GROUPS}")
    return found


def mapped(idp: IdentityProvider, groups: Iterable[str]) -> list[GroupMapping]:
    """The mappings that these groups meet."""
    held = set(groups)
    return [
        mapping
        for mapping in GroupMapping.objects.filter(idp=idp).select_related("team")
        if any(matches(mapping.group, group) for group in held)
    ]


def matches(pattern: str, group: str) -> bool:
    """Whether a mapping is about a group: exactly, or with `*` for any characters.

    Each part is taken where it comes first, which needs no way back: a regular expression with six
    stars takes minutes, in which nothing else in the process runs.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == group
    *inner, last = rest
    if not group.startswith(first) or not group.endswith(last):
        return False
    at, end = len(first), len(group) - len(last)
    for part in inner:
        found = group.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


def groups_apply(idp: IdentityProvider, user: User, given: list[GroupMapping]) -> bool:
    """Make the group parts of the person's membership what these mappings give; inside the caller's
    transaction. Whether the person is a member afterwards.
    """
    lock_organization(idp.org_id)
    membership = Membership.objects.filter(org=idp.org_id, user=user).first()
    role = strongest(*(mapping.role for mapping in given))
    teams = {
        mapping.team.pk: mapping.team
        for mapping in given
        if mapping.team is not None and mapping.team.deleted_at is None
    }
    actor = _provider(idp)
    if membership is None:
        if not role:
            return False
        membership = Membership(org_id=idp.org_id, user=user, role=role, group_role=role)
        rows.insert(membership, taken="This person was added by someone else at the same time.")
        changes: rows.Changes = {"email": (None, user.email), "role": (None, role)}
        changes |= _set_teams(membership, set(teams))
        note(actor, OrgAction.MEMBERSHIP_CREATE, membership, changes)
        revision.bump()
        return True
    membership = rows.locked(membership)
    if not role and not _manual_now(membership) and not is_last_admin(membership):
        membership_end(membership, actor)
        return False
    changes = _set_role(membership, role) | _set_teams(membership, set(teams))
    if changes:
        note(actor, OrgAction.MEMBERSHIP_GROUPS, membership, changes)
        revision.bump()
    return True


def _set_role(membership: Membership, role: str) -> rows.Changes:
    if membership.group_role == role:
        return {}
    effective = strongest(membership.manual_role, role)
    values: dict[str, Any] = {"group_role": role, "role": effective}
    if effective != OrgRole.ADMIN and is_last_admin(membership):
        # A group that was emptied by mistake must not leave an organization without an admin.
        values |= {"manual_role": OrgRole.ADMIN, "role": OrgRole.ADMIN, "expires_at": None}
    return rows.update(membership, values)


def _manual_now(membership: Membership) -> str:
    end = membership.expires_at
    return membership.manual_role if end is None or end > clock.now() else ""


def _set_teams(membership: Membership, wanted: set[uuid.UUID]) -> rows.Changes:
    held = {row.team_id: row for row in membership.team_memberships.select_related("team")}
    before = {key for key, row in held.items() if row.by_group}
    if before == wanted:
        return {}
    for key in wanted - before:
        if key in held:
            rows.update(held[key], {"by_group": True})
        else:
            TeamMembership.objects.create(
                org_id=membership.org_id,
                membership=membership,
                team_id=key,
                by_hand=False,
                by_group=True,
            )
    for key in before - wanted:
        if held[key].by_hand:
            rows.update(held[key], {"by_group": False})
        else:
            held[key].delete()
    after = membership.team_memberships.filter(by_group=True)
    slugs = sorted(after.values_list("team__slug", flat=True))
    return {"teams_by_group": (sorted(held[key].team.slug for key in before), slugs)}


def _too_many(code: str, detail: str) -> SignInError:
    return SignInError(
        code,
        "Your identity provider knows more groups of you than it can tell us, so nobody was signed"
        f" in (at most {MAX_GROUPS}). Your administrator can let it send only the groups that are"
        " assigned to this application.",
        detail=detail,
    )


def _provider(idp: IdentityProvider) -> Actor:
    """Who changes a membership at a sign-in: the provider, through the platform."""
    return Actor(kind=PrincipalKind.SYSTEM, id=str(idp.pk), name=idp.name, org_id=None)
