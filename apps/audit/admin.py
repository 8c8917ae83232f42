"""The audit trail, read-only. Nearly every field may hold what an agent wrote: those are inert."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.utils.functional import cached_property
from django.utils.html import format_html

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.admin import OrgModelAdmin
from apps.common.admin_display import NOTHING, badge_column, hostile, hostile_column
from apps.common.admin_scope import READ_ONLY
from apps.common.inert import inert

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.utils.safestring import SafeString

    _Paginator = Paginator[AuditEvent]
else:
    _Paginator = Paginator  # takes no parameter at run time

COUNTED = 10_000  # a page needs no exact count of millions
LOOKED_AT = 5_000  # events in which a filter looks for its choices
METADATA_SHOWN = 20_000
UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RESULT_COLOURS = {
    "success": "success",
    "denied": "danger",
    "failure": "warning",
    "error": "warning",
}
PERIODS = {"15m": 15, "1h": 60, "24h": 24 * 60, "7d": 7 * 24 * 60, "30d": 30 * 24 * 60}
PERIOD_NAMES = {
    "15m": "Last 15 minutes",
    "1h": "Last hour",
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
}


class BoundedPaginator(_Paginator):
    """Counts no further than is ever paged through."""

    @cached_property
    def count(self) -> int:
        """At most `COUNTED`."""
        rows: Any = self.object_list
        return int(rows[:COUNTED].count())


class PeriodFilter(admin.SimpleListFilter):
    """How far back."""

    title = "time"
    parameter_name = "since"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:  # noqa: ARG002  Django's signature
        """The periods."""
        return list(PERIOD_NAMES.items())

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002  Django's signature
        """Events of the period."""
        minutes = PERIODS.get(self.value() or "")
        if minutes is None:
            return queryset
        return queryset.filter(at__gte=clock.now() - dt.timedelta(minutes=minutes))


class SeenFilter(admin.SimpleListFilter):
    """A filter whose choices are the values that newer events hold: (value column, name column)."""

    columns: tuple[str, str]

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """What was seen lately, by name."""
        pairs = {
            (str(row[self.columns[0]]), row[self.columns[1]]) for row in seen(request, model_admin)
        }
        named = [(key, inert(text, limit=80)) for key, text in pairs if key != "None" and text]
        return sorted(named, key=lambda item: item[1].lower())

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002  Django's signature
        """Events with this value; a value that nobody offered finds nothing."""
        if self.value() is None:
            return queryset
        if self.value() not in {str(key) for key, _ in self.lookup_choices}:
            return queryset.none()
        return queryset.filter(**{self.columns[0]: self.value()})


def seen(request: Any, model_admin: Any) -> list[dict[str, Any]]:
    """What the newest events hold in the columns of the filters; read once a request."""
    if not hasattr(request, "audit_seen"):
        columns = [
            name for found in (TeamFilter, ProjectFilter, PrincipalFilter) for name in found.columns
        ]
        newest = model_admin.get_queryset(request).order_by("-at")
        request.audit_seen = list(newest.values(*columns)[:LOOKED_AT])
    found: list[dict[str, Any]] = request.audit_seen
    return found


class TeamFilter(SeenFilter):
    """By team."""

    title = "team"
    parameter_name = "team"
    columns = ("team_id", "team_slug")


class ProjectFilter(SeenFilter):
    """By project."""

    title = "project"
    parameter_name = "project"
    columns = ("project_id", "project_slug")


class PrincipalFilter(SeenFilter):
    """By who acted."""

    title = "principal"
    parameter_name = "principal"
    columns = ("principal_id", "principal_name")


@admin.display(description="Time (UTC)", ordering="at")
def time(event: AuditEvent) -> str:
    """To the millisecond: agents are fast."""
    return f"{event.at:%Y-%m-%d %H:%M:%S}.{event.at.microsecond // 1000:03d}"


@admin.display(description="Duration", ordering="duration_ms")
def duration(event: AuditEvent) -> str:
    """In the unit that reads best."""
    if event.duration_ms is None:
        return NOTHING
    if event.duration_ms >= 1000:
        return f"{event.duration_ms / 1000:.1f} s"
    return f"{event.duration_ms:.1f} ms"


@admin.display(description="Who", ordering="principal_name")
def who(event: AuditEvent) -> SafeString:
    """The principal, and below it its team and project."""
    where = " / ".join(filter(None, (event.team_slug, event.project_slug)))
    return format_html(
        '{}<small class="lens-below">{}</small>',
        hostile(event.principal_name, limit=80),
        hostile(where, limit=130) if where else "",
    )


@admin.display(description="Chain")
def chain(event: AuditEvent) -> str:
    """Who acted for whom."""
    return inert(" ← ".join(str(name) for name in event.chain)) or NOTHING


@admin.display(description="Details")
def details(event: AuditEvent) -> SafeString | str:
    """The metadata, readable and inert."""
    if not event.metadata:
        return NOTHING
    text = json.dumps(event.metadata, indent=2, ensure_ascii=False, sort_keys=True, default=str)
    return format_html(
        '<pre class="lens-json" x-ignore tabindex="0">{}</pre>', inert(text, limit=METADATA_SHOWN)
    )


@admin.display(description="Resource", ordering="resource_id")
def resource(event: AuditEvent) -> SafeString | str:
    """What it was done to; of our own rows the kind, and the end of the id to tell two apart."""
    if UUID_TEXT.fullmatch(event.resource_id):
        return hostile(f"{event.resource_type} …{event.resource_id[-6:]}", limit=80)
    return hostile(event.resource_id, limit=120)


surface = badge_column("surface", "Surface", {})
result = badge_column("result", "Result", RESULT_COLOURS)
HOSTILE = {
    name: hostile_column(name, title)
    for name, title in (
        ("principal_kind", "Principal kind"),
        ("principal_id", "Principal ID"),
        ("principal_name", "Principal"),
        ("on_behalf_of", "On behalf of"),
        ("tier", "Tier"),
        ("action", "Action"),
        ("resource_type", "Resource type"),
        ("resource_id", "Resource"),
        ("reason", "Reason"),
        ("decision_id", "Decision ID"),
        ("trace_id", "Trace ID"),
        ("team_slug", "Team"),
        ("project_slug", "Project"),
    )
}
WHOLE_REASON = hostile_column("reason", "Reason", limit=4_000)
WHOLE_RESOURCE = hostile_column("resource_id", "Resource", limit=500)


@admin.register(AuditEvent)
class AuditEventAdmin(OrgModelAdmin):
    """What happened."""

    noun = "audit"
    verbs = READ_ONLY
    paginator = BoundedPaginator
    keeps_history = False
    show_facets = admin.ShowFacets.NEVER  # counting each choice would read the whole trail
    list_display = (
        time,
        surface,
        HOSTILE["action"],
        who,
        resource,
        result,
        HOSTILE["reason"],
    )
    list_display_links = (time,)
    list_filter = (
        PeriodFilter,
        "surface",
        "result",
        TeamFilter,
        ProjectFilter,
        PrincipalFilter,
    )
    list_before_template = "audit/live.html"
    search_fields = (
        "decision_id__iexact",
        "trace_id__iexact",
        "action__istartswith",
        "principal_name__icontains",
        "resource_id__icontains",
        "reason__icontains",
    )
    search_help_text = "Action, principal, resource, reason, or a whole decision ID."
    ordering = ("-at",)
    actions = None
    fieldsets = (
        (
            "What happened",
            {
                "fields": (
                    (time, duration),
                    (surface, HOSTILE["action"]),
                    (result, "status"),
                    (HOSTILE["resource_type"], WHOLE_RESOURCE),
                    WHOLE_REASON,
                )
            },
        ),
        (
            "Who",
            {
                "fields": (
                    (HOSTILE["principal_name"], HOSTILE["principal_kind"]),
                    (HOSTILE["principal_id"], HOSTILE["tier"]),
                    (HOSTILE["on_behalf_of"], chain),
                    (HOSTILE["team_slug"], HOSTILE["project_slug"]),
                )
            },
        ),
        (
            "To find it again",
            {
                "fields": (
                    ("id", "stored_at"),
                    (HOSTILE["decision_id"], HOSTILE["trace_id"]),
                    details,
                )
            },
        ),
    )

    def get_readonly_fields(self, request: Any, obj: Any = None) -> tuple[Any, ...]:  # noqa: ARG002  Django's signature
        """All of them: the trail is never written here."""
        rows = [row for _, options in self.fieldsets for row in options["fields"]]
        return tuple(name for row in rows for name in (row if isinstance(row, tuple) else (row,)))

    def visible(self, actor: Any) -> QuerySet[AuditEvent]:
        """The organization's events."""
        return AuditEvent.objects.filter(org=actor.org_id)
