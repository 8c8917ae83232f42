"""Sandboxes: what runs, for whom, and how well it is isolated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Q
from django.utils.html import format_html, format_html_join

from apps.common.admin import OrgModelAdmin
from apps.common.admin_display import NOTHING, badge_column, button, hostile, hostile_column
from apps.common.admin_scope import READ_ONLY
from apps.orgs.models import ProjectRole
from apps.orgs.selectors import projects_of, visible
from apps.sandboxes import services
from apps.sandboxes.models import DEGRADED, LIVE_STATES, Sandbox

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    from apps.orgs.types import Actor

state = badge_column(
    "state",
    "State",
    {
        "creating": "info",
        "ready": "success",
        "busy": "warning",
        "idle": "success",
        "failed": "danger",
    },
)
isolation = badge_column(
    "isolation",
    "Isolation",
    {"namespace": "success", "owner-rules": "info", DEGRADED: "danger", "none": "danger"},
)
principal = hostile_column("principal_name", "Principal")
on_behalf_of = hostile_column("on_behalf_of", "On behalf of")
scope = hostile_column("delegation_scope", "Delegation scope")
reason = hostile_column("reason", "Reason")


@admin.display(description="Self-test at its start")
def self_test(sandbox: Sandbox) -> SafeString | str:
    """Each probe: what was tried from inside, and whether the cage held; then what this way of
    isolation does not give."""
    probes = [probe for probe in sandbox.report if isinstance(probe, dict)]
    if not probes:
        return NOTHING
    rows = format_html_join(
        "",
        '<tr><td>{}</td><td class="lens-{}">{}</td><td>{}</td></tr>',
        (
            (
                hostile(probe.get("probe", ""), limit=80),
                "good" if probe.get("ok") else "bad",
                _verdict(probe),
                hostile(probe.get("detail", ""), limit=300),
            )
            for probe in probes
        ),
    )
    return format_html(
        '<table class="lens-table"><thead><tr><th scope="col">Layer</th><th scope="col">Result</th>'
        '<th scope="col">Detail</th></tr></thead><tbody>{}</tbody></table>',
        rows,
    )


def _verdict(probe: dict[str, Any]) -> str:
    if probe.get("given") is False:
        return "not given here"
    return "holds" if probe.get("ok") else "does not hold"


@admin.register(Sandbox)
class SandboxAdmin(OrgModelAdmin):
    """Read-only but for the stop button."""

    noun = "sandbox"
    verbs = READ_ONLY
    list_display = (principal, "team", "project", state, isolation, "last_used_at", "created_at")
    list_display_links = (principal,)
    list_filter = ("state", "isolation", ("team", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("team", "project")
    search_fields = ("principal_name", "team__name", "project__name")
    ordering = ("-last_used_at",)
    actions = None
    actions_detail = ("stop",)
    fieldsets = (
        (None, {"fields": ((state, isolation), (principal, on_behalf_of), ("team", "project"))}),
        (
            "Life",
            {
                "fields": (
                    ("created_at", "ready_at"),
                    ("last_used_at", "stopped_at"),
                    ("driver", scope),
                    reason,
                )
            },
        ),
        ("Isolation", {"fields": (self_test,)}),
    )
    readonly_fields = (state, isolation, principal, on_behalf_of, scope, reason, self_test)

    def visible(self, actor: Actor) -> QuerySet[Sandbox]:
        """Those of the person's teams and administered projects."""
        own = Q(team__in=actor.team_ids) | Q(project__in=projects_of(actor, ProjectRole.ADMIN))
        return visible(Sandbox.objects.all(), actor, "sandbox.view", own)

    def has_stop_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only what lives can be stopped."""
        row = self.row(request, obj)
        if row is not None and row.state not in LIVE_STATES:
            return False
        return self.admin_site.allows(request, "sandbox.stop", row)

    @button("Stop", permission="stop", icon="stop_circle", look="danger")
    def stop(self, request: Any, object_id: str) -> HttpResponse:
        """Kill everything in it, now."""
        return self.confirmed(
            request,
            object_id,
            verb="stop",
            title="Stop this sandbox",
            text="Everything that runs in it is killed and its files are gone. The next tool call "
            "of the same principal gets a new one.",
            button="Stop sandbox",
            run=lambda row: services.sandbox_stop(
                row, reason=f"stopped by {request.actor.name}", actor=request.actor
            ),
        )
