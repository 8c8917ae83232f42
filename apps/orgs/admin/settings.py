"""The organization itself."""

from __future__ import annotations

import zoneinfo
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.http import HttpResponseRedirect
from unfold.widgets import UnfoldAdminSelect2Widget

from apps.common.admin import OrgModelAdmin
from apps.common.admin_forms import OrgForm
from apps.orgs import selectors, services
from apps.orgs.models import Organization

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


def time_zones() -> list[tuple[str, str]]:
    """What this machine knows, sorted."""
    return [(name, name) for name in sorted(zoneinfo.available_timezones())]


class OrganizationForm(OrgForm):
    """The slug is chosen once."""

    fixed = ("slug",)
    time_zone = forms.ChoiceField(
        choices=time_zones,
        widget=UnfoldAdminSelect2Widget,
        help_text="Days and months of limits and reports begin here.",
    )


@admin.register(Organization)
class OrganizationAdmin(OrgModelAdmin):
    """One's own organization. New ones come from the set-up, and none is deleted."""

    noun = "organization"
    scope = "pk"
    verbs = {"view": "view", "change": "update"}
    form = OrganizationForm
    fieldsets = (
        (None, {"fields": ("name", "slug", "time_zone")}),
        ("People and operators", {"fields": ("manual_days", "break_glass_consent")}),
        (
            "Sandboxes",
            {
                "fields": (
                    ("sandbox_idle_minutes", "sandbox_max_age_hours"),
                    ("sandboxes_per_principal", "sandboxes_total"),
                    "allow_degraded",
                )
            },
        ),
    )

    def visible(self, actor: Actor) -> QuerySet[Organization]:
        """The actor's own."""
        return selectors.organizations_visible(actor)

    def changelist_view(
        self,
        request: HttpRequest,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """There is one: show it."""
        row = self.get_queryset(request).first()
        if row is None:
            return super().changelist_view(request, extra_context)
        return HttpResponseRedirect(self.url("change", row.pk))

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """All but the slug."""
        changed = {name: value for name, value in data.items() if name not in self.form.fixed}
        services.organization_update(row, **changed, actor=request.actor)
