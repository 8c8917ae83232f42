"""The one way in which other apps read the trail: always one organization's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.audit.models import AuditEvent

if TYPE_CHECKING:
    import uuid

    from django.db.models import QuerySet


def events_of(org_id: uuid.UUID | None) -> QuerySet[AuditEvent]:
    """The organization's events, newest first. Without an organization there are none to see."""
    if org_id is None:
        return AuditEvent.objects.none()
    return AuditEvent.objects.filter(org=org_id).order_by("-at", "-id")


def event_of_decision(org_id: uuid.UUID | None, decision_id: str) -> AuditEvent | None:
    """The event of one decision, for "why was this denied?"; None where absent or not yours."""
    if not decision_id:
        return None
    return events_of(org_id).filter(decision_id=decision_id).first()
