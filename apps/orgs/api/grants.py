"""`/grants`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction
from rest_framework import serializers

from apps.common import rows
from apps.common.api_fields import Choice, Key, Strict
from apps.common.errors import Conflict
from apps.orgs import services
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.models import ProjectGrant, ProjectRole
from apps.orgs.selectors import grants_visible, projects_visible, teams_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet


class GrantOut(serializers.ModelSerializer[ProjectGrant]):
    """A team's role on a project."""

    class Meta:
        model = ProjectGrant
        fields = ("id", "team", "project", "role", "created_at", "updated_at")
        read_only_fields = fields


class NewGrant(Strict):
    """A grant to be."""

    team = Key()
    project = Key()
    role = Choice(choices=ProjectRole.choices, required=False)


class GrantChange(Strict):
    """What of a grant can change."""

    role = Choice(choices=ProjectRole.choices, required=False)


class GrantFilters(Strict):
    """Which grants."""

    team = Key(required=False)
    project = Key(required=False)
    role = Choice(choices=ProjectRole.choices, required=False)


class GrantsApi(Listed, Shown, Created, Changed, Deleted):
    """A grant gives a team a role on a project. Taking it away stops the team's sandboxes there."""

    resource = "grants"
    noun, one, many = "grant", "a grant", "grants"
    queryset = ProjectGrant.objects.none()
    serializer_class = GrantOut
    inputs = {"create": NewGrant, "partial_update": GrantChange}
    filters = GrantFilters

    def visible(self) -> QuerySet[ProjectGrant]:
        return grants_visible(self.actor)

    @transaction.atomic
    def perform_create(self, values: dict[str, Any]) -> ProjectGrant:
        """The service would change a grant that is there: that needs the version somebody saw."""
        team = self.named(teams_visible(self.actor), values.pop("team"), "team")
        project = self.named(projects_visible(self.actor), values.pop("project"), "project")
        rows.locked(team)
        if ProjectGrant.objects.filter(team=team, project=project).exists():
            raise Conflict("The team has a role on this project already. Change that grant.")
        return services.grant_set(team, project, **values, actor=self.actor)

    def perform_update(self, row: ProjectGrant, values: dict[str, Any]) -> ProjectGrant:
        values.setdefault("role", row.role)
        return services.grant_set(row.team, row.project, **values, actor=self.actor)

    def perform_destroy(self, instance: ProjectGrant) -> None:
        services.grant_remove(instance, actor=self.actor)
