"""`/teams`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from apps.common.api_fields import Slug, Strict, Text
from apps.orgs import services
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.models import Team
from apps.orgs.selectors import teams_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet


class TeamOut(serializers.ModelSerializer[Team]):
    """A team."""

    class Meta:
        model = Team
        fields = ("id", "slug", "name", "description", "created_at", "updated_at")
        read_only_fields = fields


class NewTeam(Strict):
    """A team to be."""

    slug = Slug()
    name = Text(max_length=200)
    description = Text(max_length=10_000, required=False, allow_blank=True)


class TeamChange(Strict):
    """What of a team can change."""

    name = Text(max_length=200, required=False)
    description = Text(max_length=10_000, required=False, allow_blank=True)


class TeamsApi(Listed, Shown, Created, Changed, Deleted):
    """Teams share a policy and grants on projects. A deleted team's slug stays taken."""

    resource = "teams"
    noun, one, many = "team", "a team", "teams"
    queryset = Team.objects.none()
    serializer_class = TeamOut
    inputs = {"create": NewTeam, "partial_update": TeamChange}

    def visible(self) -> QuerySet[Team]:
        return teams_visible(self.actor)

    def perform_create(self, values: dict[str, Any]) -> Team:
        return services.team_create(self.org, **values, actor=self.actor)

    def perform_update(self, row: Team, values: dict[str, Any]) -> Team:
        return services.team_update(row, **values, actor=self.actor)

    def perform_destroy(self, instance: Team) -> None:
        services.team_delete(instance, actor=self.actor)
