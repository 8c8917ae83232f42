"""The overview: live checks, figures that link to their rows, and a price that does not grow."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.agents import services as agents
from apps.audit.models import AuditEvent
from apps.common import clock
from lensagents import dashboard
from lensagents.admin_navigation import MENU
from tests import factories
from tests.apps.admin_support import browser

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def events(world: World, count: int, **values: Any) -> None:
    """Data-plane events of the organization, now."""
    found = {"surface": "mcp_tool", "action": "tool.call", "result": "success", **values}
    AuditEvent.objects.bulk_create(AuditEvent(org=world.org, **found) for _ in range(count))


def steps(world: World) -> list[bool]:
    return [step.done for step in dashboard.steps(world.org)]


def test_the_checklist_is_checked_each_time(acme: World) -> None:
    assert steps(acme) == [False, True, True, True, False]
    client = browser(acme.admin)  # somebody has signed in through the provider
    events(acme, 1)
    assert steps(acme) == [True] * 5
    assert "Set-up is complete" in client.get("/").content.decode()
    agents.token_revoke(acme.minted.token, actor=acme.admin)
    assert steps(acme) == [True, True, True, False, True]


def test_figures_link_to_the_rows_that_they_count(acme: World) -> None:
    events(acme, 3)
    events(acme, 2, result="denied", reason="No rule allows it.")
    events(acme, 4, result="denied", at=clock.now() - dt.timedelta(hours=25))
    events(acme, 5, surface="admin_change", result="denied")
    client = browser(acme.admin)
    context = client.get("/").context
    figures = {figure.title: figure for figure in context["figures"]}
    assert figures["Agents"].value == "1"
    assert figures["Allowed, last 24 hours"].value == "3"
    assert figures["Denied, last 24 hours"].value == "2"
    reason = context["reasons"][0]
    assert (reason["reason"], reason["events"]) == ("No rule allows it.", 2)
    assert client.get(reason["link"]).context["cl"].result_count == 2


def test_the_chart_counts_by_hour(acme: World) -> None:
    events(acme, 2)
    events(acme, 1, result="denied", at=clock.now() - dt.timedelta(hours=2))
    chart = dashboard.chart(dashboard.recent_decisions(acme.org))
    allowed, denied = (series["data"] for series in chart["datasets"])
    assert len(chart["labels"]) == 24
    assert sum(allowed) == 2
    assert denied[-3] == 1


def test_a_busy_day_is_bounded_and_says_so(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "NEWEST", 10)
    AuditEvent.objects.all().delete()
    now = clock.now()
    for second in range(30):
        events(acme, 1, at=now - dt.timedelta(seconds=second))
    decisions = dashboard.recent_decisions(acme.org)
    assert sum(count for *_, count in decisions) == 10
    page = browser(acme.admin).get("/")
    assert "A busy day" in page.content.decode()
    assert "10+" in [figure.value for figure in page.context["figures"]]


def test_another_organization_changes_nothing(acme: World) -> None:
    stranger = factories.globex()
    events(stranger, 7, result="denied", reason="Globex only")
    page = browser(acme.admin).get("/")
    assert "Globex only" not in page.content.decode()
    assert {f.title: f.value for f in page.context["figures"]}["Denied, last 24 hours"] == "0"


def test_the_number_of_queries_does_not_grow(acme: World) -> None:
    client = browser(acme.admin)
    counts = []
    for _ in range(2):
        events(acme, 50, result="denied", reason="r")
        with CaptureQueriesContext(connection) as queries:
            client.get("/")
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 30


def test_members_see_no_figures(acme: World) -> None:
    response = browser(acme.member).get("/")
    assert response.status_code == 200
    assert "figures" not in response.context
    assert "for admins and auditors" in response.content.decode()


def test_the_menu_holds_what_one_may_view(acme: World) -> None:
    def titles(actor: Any) -> list[str]:
        context = browser(actor).get("/").context
        return [item["title"] for group in context["sidebar_navigation"] for item in group["items"]]

    assert titles(acme.admin)[:4] == ["Overview", "People", "Invitations", "Teams"]
    assert "Audit trail" in titles(acme.auditor)
    assert "Audit trail" not in titles(acme.member)
    assert "Policies" in titles(acme.member)
    assert titles(acme.outsider) == ["Overview", "Organization"]


def test_every_page_of_the_menu_is_registered() -> None:
    labels = {entry[2] for _, entries in MENU for entry in entries}
    assert labels == {model._meta.label_lower for model in admin.site._registry}


def test_an_absent_sandbox_service_does_not_break_the_page(acme: World) -> None:
    assert dashboard.isolation()["state"] == "away"
    assert "does not answer" in browser(acme.admin).get("/").content.decode()
