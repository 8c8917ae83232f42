"""`/memberships`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from apps.common.api_fields import Choice, Key, Many, Strict, Text
from apps.orgs import services
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.models import Membership, OrgRole, User
from apps.orgs.selectors import memberships_visible, teams_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet


class PersonOut(serializers.ModelSerializer[User]):
    """A person, as the organization knows them."""

    class Meta:
        model = User
        fields = ("id", "email", "name", "is_active")
        read_only_fields = fields


class MembershipOut(serializers.ModelSerializer[Membership]):
    """A person in the organization."""

    user = PersonOut(read_only=True)
    manual_role = serializers.CharField(read_only=True, help_text="Empty: none by hand.")
    group_role = serializers.CharField(read_only=True, help_text="Empty: none from groups.")
    teams = serializers.SerializerMethodField(help_text="Ids of teams that still exist.")

    class Meta:
        model = Membership
        fields = (
            "id",
            "user",
            "role",
            "manual_role",
            "group_role",
            "expires_at",
            "teams",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_teams(self, row: Membership) -> list[str]:
        """Sorted, so that the version does not depend on the database's mood."""
        return sorted(str(team.pk) for team in row.teams.all() if team.deleted_at is None)


class NewMembership(Strict):
    """Somebody to be."""

    email = Text(max_length=254)
    name = Text(max_length=200, required=False, allow_blank=True)
    role = Choice(choices=OrgRole.choices, required=False)


class MembershipChange(Strict):
    """What of a membership can change."""

    role = Choice(choices=OrgRole.choices, required=False)
    teams = Many(child=Key(), required=False, max_length=500)


class MembershipFilters(Strict):
    """Which people."""

    role = Choice(choices=OrgRole.choices, required=False)
    team = Key(required=False)


class MembershipsApi(Listed, Shown, Created, Changed, Deleted):
    """People of the organization, their role and their teams. Somebody is always admin.

    `role` is the stronger of what was given by hand and what groups of the provider give; what is
    given by hand ends at `expires_at`.
    """

    resource = "memberships"
    noun, one, many = "membership", "a membership", "memberships"
    queryset = Membership.objects.none()
    serializer_class = MembershipOut
    inputs = {"create": NewMembership, "partial_update": MembershipChange}
    filters = MembershipFilters

    def visible(self) -> QuerySet[Membership]:
        return memberships_visible(self.actor).select_related("user").prefetch_related("teams")

    def filtered(self, found: QuerySet[Membership], query: dict[str, Any]) -> QuerySet[Membership]:
        """`team` is through the table between."""
        if "team" in query:
            query["teams"] = query.pop("team")
        return found.filter(**query)

    def perform_create(self, values: dict[str, Any]) -> Membership:
        return services.user_invite(self.org, **values, actor=self.actor)

    def perform_update(self, row: Membership, values: dict[str, Any]) -> Membership:
        teams = self.named_all(teams_visible(self.actor), values.pop("teams", None), "teams")
        return services.membership_update(row, **values, teams=teams, actor=self.actor)

    def perform_destroy(self, instance: Membership) -> None:
        services.membership_remove(instance, actor=self.actor)
