"""`/credentials`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from apps.common.api_fields import Choice, Flag, Key, Many, Slug, Strict, Text
from apps.connections import services
from apps.connections.models import Credential
from apps.connections.registry import kinds
from apps.connections.selectors import credentials_visible
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.selectors import live_teams, projects_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet

MAX_VALUE = 20_000


class CredentialOut(serializers.ModelSerializer[Credential]):
    """A credential, without its value."""

    allowed_hosts = serializers.ListField(child=serializers.CharField(), read_only=True)
    allowed_teams = serializers.SerializerMethodField(help_text="Ids of teams, sorted.")

    class Meta:
        model = Credential
        fields = (
            "id",
            "slug",
            "name",
            "project",
            "kind",
            "username",
            "allowed_hosts",
            "allowed_teams",
            "allow_in_url",
            "value_set_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_allowed_teams(self, row: Credential) -> list[str]:
        """Sorted, so that the version does not depend on the database's mood."""
        return sorted(str(team.pk) for team in row.allowed_teams.all())


class NewCredential(Strict):
    """A credential to be."""

    slug = Slug()
    name = Text(max_length=200)
    value = Text(max_length=MAX_VALUE, write_only=True, help_text="It cannot be read back.")
    project = Key(
        required=False, allow_null=True, help_text="Without one it is the organization's."
    )
    kind = Choice(choices=kinds.names(), required=False)
    username = Text(max_length=200, required=False, allow_blank=True)
    allowed_hosts = Many(child=Text(max_length=255), max_length=100)
    allowed_teams = Many(child=Key(), required=False, max_length=500)
    allow_in_url = Flag(required=False)


class CredentialChange(Strict):
    """What of a credential can change."""

    name = Text(max_length=200, required=False)
    value = Text(max_length=MAX_VALUE, required=False, write_only=True)
    username = Text(max_length=200, required=False, allow_blank=True)
    allowed_hosts = Many(child=Text(max_length=255), required=False, max_length=100)
    allowed_teams = Many(child=Key(), required=False, max_length=500)
    allow_in_url = Flag(required=False)


class CredentialFilters(Strict):
    """Which credentials."""

    project = Key(required=False)
    kind = Choice(choices=kinds.names(), required=False)


class CredentialsApi(Listed, Shown, Created, Changed, Deleted):
    """Secrets that agents use and never see. A value goes in and never comes out.

    `allowed_hosts` and `allowed_teams` bound every policy that binds it.
    """

    resource = "credentials"
    noun, one, many = "credential", "a credential", "credentials"
    queryset = Credential.objects.none()
    serializer_class = CredentialOut
    inputs = {"create": NewCredential, "partial_update": CredentialChange}
    filters = CredentialFilters

    def visible(self) -> QuerySet[Credential]:
        return credentials_visible(self.actor).prefetch_related("allowed_teams")

    def perform_create(self, values: dict[str, Any]) -> Credential:
        project = self.named(projects_visible(self.actor), values.pop("project", None), "project")
        teams = self._teams(values) or []
        return services.credential_create(
            self.org, **values, project=project, allowed_teams=teams, actor=self.actor
        )

    def perform_update(self, row: Credential, values: dict[str, Any]) -> Credential:
        teams = self._teams(values)
        return services.credential_update(row, **values, allowed_teams=teams, actor=self.actor)

    def perform_destroy(self, instance: Credential) -> None:
        services.credential_delete(instance, actor=self.actor)

    def _teams(self, values: dict[str, Any]) -> Any:
        """Teams by id; which of them the caller may name, the service knows."""
        keys = values.pop("allowed_teams", None)
        return self.named_all(live_teams(self.org.pk), keys, "allowed_teams")
