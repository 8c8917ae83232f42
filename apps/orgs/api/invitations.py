"""`/invitations`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from rest_framework import serializers

from apps.common.api_fields import Choice, Key, Many, Number, Strict, Text
from apps.orgs import services
from apps.orgs.api.base import Created, Deleted, Listed, Shown
from apps.orgs.models import Invitation, OrgRole
from apps.orgs.selectors import teams_visible, visible
from apps.orgs.services.invitations import MAX_DAYS

if TYPE_CHECKING:
    from django.db.models import QuerySet


class InvitationOut(serializers.ModelSerializer[Invitation]):
    """An invitation, without its link."""

    teams = serializers.SerializerMethodField(help_text="Ids of teams, sorted.")

    class Meta:
        model = Invitation
        fields = (
            "id",
            "email",
            "name",
            "role",
            "teams",
            "expires_at",
            "accepted_at",
            "revoked_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_teams(self, row: Invitation) -> list[str]:
        """Sorted, so that the version does not depend on the database's mood."""
        return sorted(str(one.team_id) for one in row.for_teams.all())


class InvitedOut(InvitationOut):
    """An invitation with its link, which is shown this once."""

    link = serializers.CharField(read_only=True, help_text="Shown this once, and kept nowhere.")

    class Meta:
        model = Invitation
        fields = (*InvitationOut.Meta.fields, "link")
        read_only_fields = fields


class NewInvitation(Strict):
    """An invitation to be."""

    email = Text(max_length=254)
    name = Text(max_length=200, required=False, allow_blank=True)
    role = Choice(choices=OrgRole.choices, required=False)
    teams = Many(child=Key(), required=False, max_length=500)
    days = Number(
        required=False, min_value=1, max_value=MAX_DAYS, help_text="How long the link works."
    )


class InvitationsApi(Listed, Shown, Created, Deleted):
    """Links for people who come in by no group of a provider. A link works once.

    A new invitation of the same address ends the one before. Deleting one makes its link stop
    working; it stays in the list.
    """

    resource = "invitations"
    noun, one, many = "invitation", "an invitation", "invitations"
    say = {"destroy": "Withdraw {one}"}
    queryset = Invitation.objects.none()
    serializer_class = InvitationOut
    inputs = {"create": NewInvitation}
    outputs = {"create": InvitedOut}
    secret_once = frozenset({"create"})

    def visible(self) -> QuerySet[Invitation]:
        rows = Invitation.objects.prefetch_related("for_teams")
        return visible(rows, self.actor, "invitation.view")

    def perform_create(self, values: dict[str, Any]) -> Invitation:
        keys = values.pop("teams", None)
        teams = self.named_all(teams_visible(self.actor), keys, "teams") or []
        invited = services.invitation_create(self.org, **values, teams=teams, actor=self.actor)
        link = f"{settings.PUBLIC_URL}/invitation/#{invited.token}"
        invited.invitation.link = link  # type: ignore[attr-defined]  # for this answer only
        return invited.invitation

    def perform_destroy(self, instance: Invitation) -> None:
        services.invitation_revoke(instance, actor=self.actor)
