"""`/organizations` and `/whoami`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers
from rest_framework.response import Response

from apps.common.api_fields import Flag, Number, Strict, Text
from apps.orgs import services
from apps.orgs.api.base import Changed, Listed, OrgView, Shown
from apps.orgs.models import Organization, Project, ProjectRole, Team
from apps.orgs.selectors import organizations_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from rest_framework.request import Request


class OrganizationOut(serializers.ModelSerializer[Organization]):
    """An organization."""

    class Meta:
        model = Organization
        fields = (
            "id",
            "slug",
            "name",
            "time_zone",
            "sandbox_idle_minutes",
            "sandbox_max_age_hours",
            "sandboxes_per_principal",
            "sandboxes_total",
            "allow_degraded",
            "manual_days",
            "break_glass_consent",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields


class OrganizationChange(Strict):
    """What of an organization can change."""

    name = Text(max_length=200, required=False)
    time_zone = Text(
        max_length=64, required=False, help_text="A name such as Europe/Berlin, or UTC."
    )
    allow_degraded = Flag(
        required=False,
        help_text="Whether sandboxes may be held by Landlock and seccomp alone, on a host that "
        "offers nothing better. Switching it off ends those that run.",
    )
    sandbox_idle_minutes = Number(
        min_value=1, max_value=1_440, required=False, help_text="A sandbox without a call ends."
    )
    sandbox_max_age_hours = Number(min_value=1, max_value=168, required=False)
    sandboxes_per_principal = Number(min_value=1, max_value=1_000, required=False)
    sandboxes_total = Number(min_value=1, max_value=10_000, required=False)
    manual_days = Number(
        min_value=1, max_value=3_650, required=False, help_text="What is given by hand ends."
    )
    break_glass_consent = Flag(required=False, help_text="Operators ask before they look.")


class OrganizationsApi(Listed, Shown, Changed):
    """The organization that you act in; there is no other to see."""

    resource = "organizations"
    noun, one, many = "organization", "an organization", "organizations"
    queryset = Organization.objects.none()
    serializer_class = OrganizationOut
    inputs = {"partial_update": OrganizationChange}

    def visible(self) -> QuerySet[Organization]:
        return organizations_visible(self.actor)

    def perform_update(self, row: Organization, values: dict[str, Any]) -> Organization:
        return services.organization_update(row, **values, actor=self.actor)


class Place(serializers.Serializer[Any]):
    """An organization or a team, by id and slug."""

    id = serializers.UUIDField()
    slug = serializers.CharField()


class ProjectPlace(Place):
    """A project, and the role on it."""

    role = serializers.ChoiceField(choices=ProjectRole.choices)


class WhoamiOut(serializers.Serializer[Any]):
    """Who calls."""

    kind = serializers.ChoiceField(choices=("user", "agent", "operator"))
    id = serializers.CharField()
    name = serializers.CharField()
    by = serializers.ChoiceField(choices=("session", "token"))
    role = serializers.CharField(help_text="The role in the organization; empty for an agent.")
    organization = Place()
    teams = Place(many=True)
    projects = ProjectPlace(many=True)


class WhoamiApi(OrgView):
    """Who you are here: your organization, teams, and roles on projects."""

    resource = "whoami"
    noun, one, many = "organization", "the caller", "callers"
    say = {"retrieve": "Who am I"}
    queryset = Organization.objects.none()
    serializer_class = WhoamiOut

    def retrieve(self, _request: Request) -> Response:
        """Who calls."""
        actor = self.actor
        roles = dict(sorted(actor.project_roles, key=lambda held: held[1], reverse=True))
        teams = Team.objects.filter(org=self.org, pk__in=actor.team_ids).order_by("slug")
        granted = Project.objects.filter(org=self.org, pk__in=roles).order_by("slug")
        projects = [{"id": row.pk, "slug": row.slug, "role": roles[row.pk]} for row in granted]
        who = {
            "kind": str(actor.kind),
            "id": actor.id,
            "name": actor.name,
            "by": self.caller.by,
            "role": actor.role,
            "organization": self.org,
            "teams": teams,
            "projects": projects,
        }
        return Response(self.shown(who))

    def is_tagged(self, _action: str, /) -> bool:
        """It has no version."""
        return False
