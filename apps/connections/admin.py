"""Credentials: what agents use and never see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin

from apps.common.admin import OrgModelAdmin
from apps.connections import selectors, services
from apps.connections.forms import CredentialForm
from apps.connections.models import Credential

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


@admin.register(Credential)
class CredentialAdmin(OrgModelAdmin):
    """The vault."""

    noun = "credential"
    palette = "key"
    form = CredentialForm
    list_display = ("name", "slug", "owner", "kind", "hosts", "team_names", "value_set_at")
    list_filter = ("kind", ("project", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("project",)
    search_fields = ("name", "slug", "project__name", "allowed_hosts")
    ordering = ("name",)
    readonly_fields = ("value_set_at",)
    fieldsets = (
        (None, {"fields": ("name", "slug", "project", "kind")}),
        ("Secret", {"fields": ("username", "value")}),
        ("Where it may go", {"fields": ("allowed_hosts", "allowed_teams", "allow_in_url")}),
    )

    def visible(self, actor: Actor) -> QuerySet[Credential]:
        """All for readers; those of administered projects for others."""
        return selectors.credentials_visible(actor).prefetch_related("allowed_teams")

    def get_fieldsets(self, request: Any, obj: Any = None) -> Any:
        """Who may not change it is told when the value was set, and is asked for none."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        return (fieldsets[0], ("Secret", {"fields": ("username", "value_set_at")}), fieldsets[2])

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Credential:
        """Stored sealed."""
        return services.credential_create(
            request.org,
            **{**data, "allowed_teams": list(data["allowed_teams"])},
            actor=request.actor,
        )

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """An empty value keeps the one that is stored."""
        services.credential_update(
            row,
            name=data["name"],
            value=data["value"] or None,
            username=data["username"],
            allowed_hosts=data["allowed_hosts"],
            allowed_teams=list(data["allowed_teams"]),
            allow_in_url=data["allow_in_url"],
            actor=request.actor,
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """Refused while a policy binds it."""
        services.credential_delete(row, actor=request.actor)

    @admin.display(description="Owner", ordering="project__name")
    def owner(self, credential: Credential) -> str:
        """The project, or the organization."""
        return str(credential.project or "Organization")

    @admin.display(description="Allowed hosts")
    def hosts(self, credential: Credential) -> str:
        """Where it may go."""
        return ", ".join(credential.allowed_hosts)

    @admin.display(description="Allowed teams", empty_value="None")
    def team_names(self, credential: Credential) -> str:
        """Whose policies may bind it."""
        return ", ".join(team.name for team in credential.allowed_teams.all()) or "None"
