"""Reading the trail: one's own organization's, and no other."""

from __future__ import annotations

import pytest

from apps.audit.models import AuditEvent
from apps.audit.selectors import event_of_decision, events_of
from apps.orgs.models import Organization

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_a_stranger_sees_nothing() -> None:
    acme = Organization.objects.create(slug="acme", name="Acme Corp")
    globex = Organization.objects.create(slug="globex", name="Globex")
    for org in (acme, None):
        AuditEvent.objects.create(
            org=org, surface="mcp_tool", action="tool.call", result="denied", decision_id="d1"
        )
    mine = AuditEvent.objects.get(org=acme)
    assert list(events_of(acme.pk)) == [mine]
    assert event_of_decision(acme.pk, "d1") == mine
    assert event_of_decision(acme.pk, "") is None
    for who in (globex.pk, None):
        assert not events_of(who).exists()
        assert event_of_decision(who, "d1") is None
