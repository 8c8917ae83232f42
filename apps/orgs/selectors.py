"""Reads: every list starts at an actor and ends inside that actor's organization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet

from apps.common import clock
from apps.orgs.access import ADMIN, AUDITOR, OPERATOR, VERBS
from apps.orgs.models import (
    Membership,
    Organization,
    OrgRole,
    Project,
    ProjectGrant,
    ProjectRole,
    Team,
    User,
)
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    import uuid
    from typing import TypeVar

    from apps.common.tenancy import TenantRow

    RowType = TypeVar("RowType", bound=TenantRow)


STRENGTH = (OrgRole.ADMIN, OrgRole.AUDITOR, OrgRole.MEMBER)


def strongest(*roles: str) -> str:
    """The strongest of some organization roles; an empty string when there is none."""
    return next((role.value for role in STRENGTH if role in roles), "")


def live_membership(prefix: str = "") -> Q:
    """Memberships of which some part counts now; `prefix` leads to them (`memberships__`)."""
    by_hand = ~Q(**{f"{prefix}manual_role": ""}) & _not_ended(prefix)
    return by_hand | ~Q(**{f"{prefix}group_role": ""})


def live_admin(prefix: str = "") -> Q:
    """Memberships whose role is admin now, by hand or by group."""
    by_hand = Q(**{f"{prefix}manual_role": OrgRole.ADMIN}) & _not_ended(prefix)
    return by_hand | Q(**{f"{prefix}group_role": OrgRole.ADMIN})


def live_team_membership(prefix: str = "") -> Q:
    """The same for memberships in teams."""
    return Q(**{f"{prefix}by_group": True}) | (Q(**{f"{prefix}by_hand": True}) & _not_ended(prefix))


def role_now(membership: Membership) -> str:
    """The organization role that counts now, also before a sweep has seen that a part ended."""
    end = membership.expires_at
    by_hand = membership.manual_role if end is None or end > clock.now() else ""
    return strongest(by_hand, membership.group_role)


def actor_for(user: User, org: Organization) -> Actor | None:
    """The person as an actor in this organization; None without a membership that counts."""
    membership = (
        Membership.objects.filter(org=org, user=user, user__is_active=True, org__closed_at=None)
        .select_related("user")
        .first()
    )
    role = role_now(membership) if membership else ""
    if membership is None or not role:
        return None
    team_ids = tuple(
        membership.team_memberships.filter(live_team_membership(), team__deleted_at=None)
        .order_by("team")
        .values_list("team", flat=True)
    )
    return Actor(
        kind=PrincipalKind.USER,
        id=str(user.pk),
        name=membership.user.email,
        org_id=org.pk,
        role=role,
        project_roles=_project_roles(org, team_ids),
        team_ids=team_ids,
    )


def organizations_visible(actor: Actor | None) -> QuerySet[Organization]:
    """The actor's own organization, or nothing."""
    if actor is None or actor.org_id is None:
        return Organization.objects.none()
    return Organization.objects.filter(pk=actor.org_id)


def teams_visible(actor: Actor | None) -> QuerySet[Team]:
    """Teams that still exist."""
    own = Q(pk__in=actor.team_ids) if actor else Q()
    return visible(Team.objects.filter(deleted_at=None), actor, "team.view", own)


def live_teams(org_id: uuid.UUID) -> QuerySet[Team]:
    """The teams of an organization that are not deleted, for services that are given one."""
    return Team.objects.filter(org=org_id, deleted_at=None)


def projects_visible(actor: Actor | None) -> QuerySet[Project]:
    """Projects that still exist: all for readers, the granted ones for others."""
    own = Q(pk__in=projects_of(actor)) if actor else Q()
    return visible(Project.objects.filter(deleted_at=None), actor, "project.view", own)


def memberships_visible(actor: Actor | None) -> QuerySet[Membership]:
    """People of the organization."""
    return visible(Membership.objects.all(), actor, "membership.view")


def grants_visible(actor: Actor | None) -> QuerySet[ProjectGrant]:
    """Grants: those of the actor's teams and of the projects that the actor administers."""
    own = Q()
    if actor:
        own = Q(team__in=actor.team_ids) | Q(project__in=projects_of(actor, ProjectRole.ADMIN))
    return visible(ProjectGrant.objects.all(), actor, "grant.view", own)


def visible(
    rows: QuerySet[RowType], actor: Actor | None, verb: str, own: Q | None = None
) -> QuerySet[RowType]:
    """`rows` of the actor's organization: all for roles with the verb there, else those in `own`.

    `own` must say the same as `can` says of a single row; a property test compares the two.
    """
    if actor is None or actor.org_id is None:
        return rows.none()
    rows = rows.filter(org=actor.org_id)
    if actor.role in VERBS[verb] & {ADMIN, AUDITOR, OPERATOR}:
        return rows
    return rows.filter(own) if own else rows.none()


def projects_of(actor: Actor, role: str | None = None) -> list[uuid.UUID]:
    """The projects on which the actor holds `role` (None: any) through a team."""
    return [project for project, held in actor.project_roles if role in (None, held)]


def _not_ended(prefix: str) -> Q:
    field = f"{prefix}expires_at"
    return Q(**{field: None}) | Q(**{f"{field}__gt": clock.now()})


def _project_roles(
    org: Organization, team_ids: tuple[uuid.UUID, ...]
) -> tuple[tuple[uuid.UUID, str], ...]:
    rows = ProjectGrant.objects.filter(org=org, team__in=team_ids).values_list("project", "role")
    return tuple(sorted(set(rows), key=str))
