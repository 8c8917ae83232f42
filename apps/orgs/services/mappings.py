"""Which group of the identity provider gives which team and role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import rows
from apps.common.errors import Invalid
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import GroupMapping, IdentityProvider, OrgRole, Team
from apps.orgs.selectors import live_teams
from apps.orgs.trail import created, note

if TYPE_CHECKING:
    from apps.orgs.types import Actor

TAKEN = "This group already gives this team."


@transaction.atomic
def mapping_create(
    idp: IdentityProvider,
    *,
    group: str,
    team: Team | None = None,
    role: str = OrgRole.MEMBER,
    actor: Actor,
) -> GroupMapping:
    """A group, exact or with `*`, gives an organization role and perhaps a team.

    It counts from the next sign-in of each person.
    """
    require(actor, "mapping.create", idp)
    _check(idp, group, team, role)
    row = GroupMapping(org_id=idp.org_id, idp=idp, group=group, team=team, role=role)
    rows.insert(row, taken=TAKEN)
    changes = created(row, "group", "role")
    note(actor, OrgAction.MAPPING_CREATE, row, {**changes, "team": (None, _slug(team))})
    return row


@transaction.atomic
def mapping_update(
    mapping: GroupMapping, *, group: str, team: Team | None, role: str, actor: Actor
) -> GroupMapping:
    """Replace all three."""
    require(actor, "mapping.update", mapping)
    _check(mapping.idp, group, team, role)
    mapping = rows.locked(mapping)
    before = mapping.team
    changes = rows.update(mapping, {"group": group, "team": team, "role": role}, taken=TAKEN)
    if changes:
        if "team" in changes:
            changes["team"] = (_slug(before), _slug(team))
        note(actor, OrgAction.MAPPING_UPDATE, mapping, changes)
    return mapping


@transaction.atomic
def mapping_delete(mapping: GroupMapping, *, actor: Actor) -> None:
    """Who has only this loses it at the next sign-in."""
    require(actor, "mapping.delete", mapping)
    mapping = rows.locked(mapping)
    changes = {"group": (mapping.group, None), "team": (_slug(mapping.team), None)}
    note(actor, OrgAction.MAPPING_DELETE, mapping, {**changes, "role": (mapping.role, None)})
    mapping.delete()


def _check(idp: IdentityProvider, group: str, team: Team | None, role: str) -> None:
    if not group.strip() or group != group.strip():
        raise Invalid("Write the group as the provider sends it.", field="group")
    if "*" in group and role != OrgRole.MEMBER:
        raise Invalid(
            "A pattern may match groups that do not exist yet, so it gives no more than the role"
            " member. Name the group exactly.",
            field="role",
        )
    if team is not None and not live_teams(idp.org_id).filter(pk=team.pk).exists():
        raise Invalid("There is no such team in this organization.", field="team")


def _slug(team: Team | None) -> str | None:
    return team.slug if team else None
