"""`/audit-events`. It stands here because the audit app knows nothing of roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from apps.audit.models import AuditEvent, Result, Surface
from apps.audit.selectors import events_of
from apps.common.api_fields import Choice, Key, Moment, Strict, Text
from apps.orgs.access import can
from apps.orgs.api.base import Listed, Shown

if TYPE_CHECKING:
    from django.db.models import QuerySet


class AuditEventOut(serializers.ModelSerializer[AuditEvent]):
    """An event. Names in it are copies; they outlive what they name."""

    team_id = serializers.UUIDField(read_only=True, allow_null=True)
    project_id = serializers.UUIDField(read_only=True, allow_null=True)
    status = serializers.IntegerField(read_only=True, allow_null=True)
    chain = serializers.ListField(child=serializers.CharField(), read_only=True)
    metadata = serializers.DictField(read_only=True)

    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "at",
            "stored_at",
            "duration_ms",
            "team_id",
            "team_slug",
            "project_id",
            "project_slug",
            "principal_kind",
            "principal_id",
            "principal_name",
            "on_behalf_of",
            "chain",
            "tier",
            "surface",
            "action",
            "resource_type",
            "resource_id",
            "result",
            "status",
            "reason",
            "decision_id",
            "trace_id",
            "metadata",
        )
        read_only_fields = fields


class AuditFilters(Strict):
    """Which events."""

    since = Moment(required=False, help_text="From this time on.")
    until = Moment(required=False, help_text="Before this time.")
    surface = Choice(choices=Surface.choices, required=False)
    action = Text(max_length=100, required=False)
    result = Choice(choices=Result.choices, required=False)
    team = Key(required=False)
    project = Key(required=False)
    principal = Text(max_length=64, required=False, help_text="The id of a person or agent.")
    resource_type = Text(max_length=50, required=False)
    resource = Text(max_length=500, required=False, help_text="The id of what it was done to.")
    decision = Text(max_length=64, required=False, help_text="The id that a refusal carries.")


COLUMNS = {
    "since": "at__gte",
    "until": "at__lt",
    "team": "team_id",
    "project": "project_id",
    "principal": "principal_id",
    "resource": "resource_id",
    "decision": "decision_id",
}


class AuditEventsApi(Listed, Shown):
    """The audit trail, newest first. Nothing here can be changed, by anybody."""

    resource = "audit-events"
    noun, one, many = "audit", "an audit event", "audit events"
    queryset = AuditEvent.objects.none()
    serializer_class = AuditEventOut
    filters = AuditFilters
    pages_by = "at"

    def visible(self) -> QuerySet[AuditEvent]:
        allowed = can(self.actor, "audit.view", self.org).allowed
        return events_of(self.org.pk if allowed else None)

    def filtered(self, found: QuerySet[AuditEvent], query: dict[str, Any]) -> QuerySet[AuditEvent]:
        """Filters by the columns behind their names."""
        return found.filter(**{COLUMNS.get(name, name): value for name, value in query.items()})
