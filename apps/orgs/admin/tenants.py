"""Teams, projects, and which team may work on which project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Count

from apps.common.admin import OrgInline, OrgModelAdmin
from apps.common.admin_display import counted
from apps.common.admin_forms import OrgForm
from apps.orgs import selectors, services
from apps.orgs.models import Project, ProjectGrant, Team, TeamMembership

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


class SlugForm(OrgForm):
    """A slug is chosen once: configuration and audit trail refer to it."""

    fixed = ("slug",)


class GrantForm(OrgForm):
    """Another team or project is another grant; only the role changes."""

    fixed = ("team", "project")


class GrantInline(OrgInline):
    """The grants of a team, or of a project."""

    model = ProjectGrant
    noun = "grant"
    form = GrantForm
    verbose_name = "project grant"
    verbose_name_plural = "project access"

    def create(self, request: TenantRequest, parent: Any, data: dict[str, Any]) -> None:
        """One grant."""
        team = parent if isinstance(parent, Team) else data["team"]
        project = parent if isinstance(parent, Project) else data["project"]
        services.grant_set(team, project, role=data["role"], actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Another role."""
        services.grant_set(row.team, row.project, role=data["role"], actor=request.actor)

    def remove(self, request: TenantRequest, row: Any) -> None:
        """The team loses the project at its next request."""
        services.grant_remove(row, actor=request.actor)


class MemberForm(OrgForm):
    """Another person is another row."""

    fixed = ("membership",)


class MemberInline(OrgInline):
    """The people of a team. Joining and leaving is a change of the person's membership."""

    model = TeamMembership
    noun = "membership"
    verbs = {"view": "view", "add": "update", "delete": "update"}
    form = MemberForm
    verbose_name = "member"
    verbose_name_plural = "members"

    def create(self, request: TenantRequest, parent: Any, data: dict[str, Any]) -> None:
        """The person joins the team."""
        membership = data["membership"]
        teams = {*membership.teams.filter(deleted_at=None), parent}
        services.membership_update(membership, teams=teams, actor=request.actor)

    def remove(self, request: TenantRequest, row: Any) -> None:
        """The person leaves the team."""
        teams = row.membership.teams.filter(deleted_at=None).exclude(pk=row.team_id)
        services.membership_update(row.membership, teams=list(teams), actor=request.actor)


@admin.register(Team)
class TeamAdmin(OrgModelAdmin):
    """Teams: people and agents under one policy."""

    noun = "team"
    palette = "groups"
    form = SlugForm
    list_display = ("name", "slug", "people", "agent_count", "policy_name")
    search_fields = ("name", "slug", "description")
    ordering = ("name",)
    fields = ("name", "slug", "description")
    inlines = (MemberInline, GrantInline)

    def visible(self, actor: Actor) -> QuerySet[Team]:
        """Teams that were not deleted, with what the list counts."""
        return (
            selectors.teams_visible(actor)
            .select_related("policy")
            .annotate(
                people_in_it=Count("team_memberships", distinct=True),
                agents_in_it=Count("agents", distinct=True),
            )
        )

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Team:
        """One team."""
        return services.team_create(request.org, **data, actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Name and description."""
        services.team_update(
            row, name=data["name"], description=data["description"], actor=request.actor
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """Soft: the audit trail keeps pointing at it."""
        services.team_delete(row, actor=request.actor)

    def consequences(self, row: Any) -> list[str]:
        """Said before somebody clicks."""
        return [
            f"{counted(row.agents.count(), 'agent')} refused at the next request.",
            f"{counted(row.grants.count(), 'project grant')} void.",
            "The audit trail stays.",
        ]

    @admin.display(description="People", ordering="people_in_it")
    def people(self, team: Any) -> int:
        """How many people are in it."""
        return int(team.people_in_it)

    @admin.display(description="Agents", ordering="agents_in_it")
    def agent_count(self, team: Any) -> int:
        """How many agents act for it."""
        return int(team.agents_in_it)

    @admin.display(description="Policy", empty_value="None: everything is denied")
    def policy_name(self, team: Any) -> Any:
        """Its policy; without one nothing is allowed."""
        return getattr(team, "policy", None)


@admin.register(Project)
class ProjectAdmin(OrgModelAdmin):
    """Projects: what teams are granted access to."""

    noun = "project"
    palette = "folder"
    form = SlugForm
    list_display = ("name", "slug", "description")
    search_fields = ("name", "slug", "description")
    ordering = ("name",)
    fields = ("name", "slug", "description")
    inlines = (GrantInline,)

    def visible(self, actor: Actor) -> QuerySet[Project]:
        """All for readers; the granted ones for others."""
        return selectors.projects_visible(actor)

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Project:
        """One project."""
        return services.project_create(request.org, **data, actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Name and description."""
        services.project_update(
            row, name=data["name"], description=data["description"], actor=request.actor
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """Refused while credentials or sandboxes belong to it."""
        services.project_delete(row, actor=request.actor)


@admin.register(ProjectGrant)
class GrantAdmin(OrgModelAdmin):
    """Every grant of the organization on one page."""

    noun = "grant"
    form = GrantForm
    list_display = ("team", "project", "role")
    list_display_links = ("team", "project")
    list_filter = ("role",)
    list_select_related = ("team", "project")
    search_fields = ("team__name", "project__name")
    ordering = ("team__name", "project__name")
    fields = ("team", "project", "role")

    def visible(self, actor: Actor) -> QuerySet[ProjectGrant]:
        """Those of the person's teams, and of the projects that the person administers."""
        return selectors.grants_visible(actor)

    def create(self, request: TenantRequest, data: dict[str, Any]) -> ProjectGrant:
        """One grant."""
        return services.grant_set(
            data["team"], data["project"], role=data["role"], actor=request.actor
        )

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Another role."""
        services.grant_set(row.team, row.project, role=data["role"], actor=request.actor)

    def remove(self, request: TenantRequest, row: Any) -> None:
        """The team loses the project at its next request."""
        services.grant_remove(row, actor=request.actor)
