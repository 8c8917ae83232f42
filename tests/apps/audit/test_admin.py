"""The audit trail in the admin: filters, search, and hostile values in all of them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from apps.audit.admin import COUNTED
from apps.audit.models import AuditEvent
from apps.common import clock
from tests import factories
from tests.apps.admin_support import browser, url

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
LIST = "/audit/auditevent/"


@pytest.fixture
def acme() -> World:
    world = factories.acme()
    AuditEvent.objects.all().delete()
    event(world, action="tool.call", surface="mcp_tool", principal_name="Bot", principal_id="1")
    event(world, result="denied", reason="No rule allows pypi.example.", decision_id="d1")
    event(world, at=clock.now() - dt.timedelta(days=3), team_id=None, team_slug="")
    return world


def event(world: World, **values: Any) -> AuditEvent:
    """One event of the organization."""
    found = {
        "org": world.org,
        "surface": "forward_proxy",
        "action": "egress.request",
        "result": "success",
        "team_id": world.team.pk,
        "team_slug": "sre",
        "project_id": world.project.pk,
        "project_slug": "production",
        "principal_id": "2",
        "principal_name": "Other",
        **values,
    }
    return AuditEvent.objects.create(**found)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 3),
        ({"since": "24h"}, 2),
        ({"since": "7d"}, 3),
        ({"since": "nonsense"}, 3),
        ({"surface__exact": "mcp_tool"}, 1),
        ({"result__exact": "denied"}, 1),
        ({"principal": "1"}, 1),
        ({"principal": "nobody"}, 0),
        ({"team": "not a uuid"}, 0),
        ({"q": "pypi.example"}, 1),
        ({"q": "d1"}, 1),
        ({"q": "tool."}, 1),
        ({"q": "a" * 5000}, 0),
    ],
)
def test_filters_and_search(acme: World, query: dict[str, str], count: int) -> None:
    response = browser(acme.auditor).get(LIST, query)
    assert response.context["cl"].result_count == count


def test_filters_by_team_and_project(acme: World) -> None:
    client = browser(acme.admin)
    response = client.get(LIST, {"team": str(acme.team.pk), "project": str(acme.project.pk)})
    assert response.context["cl"].result_count == 2
    stranger = factories.globex()
    assert client.get(LIST, {"team": str(stranger.team.pk)}).context["cl"].result_count == 0


def test_choices_of_filters_are_of_the_own_organization(acme: World) -> None:
    stranger = factories.globex()
    event(stranger, principal_id="9", principal_name="Secret bot of Globex")
    assert "Secret bot" not in browser(acme.admin).get(LIST).content.decode()
    assert "Secret bot" in browser(stranger.admin).get(LIST).content.decode()


def test_a_page_shows_every_field(acme: World) -> None:
    row = event(
        acme,
        duration_ms=1234.5,
        chain=["parent", "child"],
        status=403,
        on_behalf_of="ada@acme.example",
        metadata={"path": "/x", "rule": "domains[0]"},
    )
    text = browser(acme.auditor).get(url(AuditEvent, "change", row.pk)).content.decode()
    for shown in ("1.2 s", "parent ← child", "403", "ada@acme.example", "domains[0]", str(row.pk)):
        assert shown in text, shown


def test_nothing_can_be_written(acme: World) -> None:
    client = browser(acme.admin)
    row = AuditEvent.objects.first()
    assert row is not None
    for view in (url(AuditEvent, "add"), url(AuditEvent, "delete", row.pk)):
        assert client.post(view, {"post": "yes"}).status_code == 403
    assert client.post(url(AuditEvent, "change", row.pk), {"reason": "x"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"}
    client.post(LIST, data)
    assert AuditEvent.objects.count() == 3


def test_hostile_choices_stay_inert(acme: World) -> None:
    event(acme, principal_id="x", principal_name='"><img src=x onerror=alert(1)>\u202e')
    text = browser(acme.admin).get(LIST).content.decode()
    assert "<img src=x" not in text
    assert "\u202e" not in text


def test_pages_count_no_further_than_they_must(acme: World) -> None:
    rows = [
        AuditEvent(org=acme.org, surface="mcp_tool", action="a.b", result="success")
        for _ in range(COUNTED + 5)
    ]
    AuditEvent.objects.bulk_create(rows, batch_size=2000)
    assert browser(acme.admin).get(LIST).context["cl"].result_count == COUNTED
