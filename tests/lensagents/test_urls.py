"""Routes of the composition root."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client

from apps.audit.models import AuditEvent
from tests import factories
from tests.apps.admin_support import browser

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_the_link_of_a_refusal_asks_for_a_sign_in() -> None:
    answer = Client().get(f"/explain/{uuid.uuid4()}", follow=True)
    assert answer.redirect_chain[-1][0].startswith("/login/")


def test_the_link_of_a_refusal_shows_it_to_its_organization_only() -> None:
    acme, globex = factories.acme(), factories.globex()
    decision = uuid.uuid4()
    AuditEvent.objects.create(
        org=acme.org,
        surface="forward_proxy",
        action="egress.request",
        result="denied",
        decision_id=str(decision),
        reason="No rule allows it.",
    )
    for world, seen in ((acme, True), (globex, False)):
        page = browser(world.admin).get(f"/explain/{decision}", follow=True)
        assert ("No rule allows it." in page.content.decode()) is seen
