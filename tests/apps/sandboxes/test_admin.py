"""Sandboxes in the admin: the self-test, the stop button, and nothing else to change."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.models import Sandbox
from tests import factories
from tests.apps.admin_support import browser, url

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def sandbox(acme: World) -> Sandbox:
    return Sandbox.objects.create(
        org=acme.org,
        key=uuid.uuid4().hex,
        principal_kind="agent",
        principal_id=str(acme.agent.pk),
        principal_name="Bot<script>",
        team=acme.team,
        project=acme.project,
        state="ready",
        isolation="namespace",
        report=[
            {"probe": "network", "ok": True, "detail": "only lo"},
            {"probe": "cgroup", "ok": False, "detail": "<b>not delegated</b>"},
            "no object",
        ],
    )


def test_the_self_test_is_shown(acme: World, sandbox: Sandbox) -> None:
    page = url(Sandbox, "change", sandbox.pk)
    text = browser(acme.auditor).get(page).content.decode()
    assert "holds" in text
    assert "does not hold" in text
    assert "<b>not delegated" not in text
    assert "Bot<script>" not in text


def test_stopping_asks_first(acme: World, sandbox: Sandbox) -> None:
    client = browser(acme.admin)
    page = url(Sandbox, "stop", sandbox.pk)
    assert client.get(page).status_code == 200
    sandbox.refresh_from_db()
    assert sandbox.state == "ready"
    assert client.post(page).status_code == 302
    sandbox.refresh_from_db()
    assert (sandbox.state, sandbox.reason) == ("stopped", f"stopped by {acme.admin.name}")
    assert client.get(page).status_code == 403


def test_who_may_see_and_stop(acme: World, sandbox: Sandbox) -> None:
    page, stop = url(Sandbox, "change", sandbox.pk), url(Sandbox, "stop", sandbox.pk)
    assert browser(acme.member).get(page).status_code == 200
    assert browser(acme.project_admin).get(page).status_code == 200
    assert browser(acme.outsider).get(page).status_code in (403, 404)
    for actor in (acme.member, acme.auditor, acme.outsider):
        assert browser(actor).post(stop).status_code in (403, 404)
    stranger = factories.globex()
    assert browser(stranger.admin).post(stop).status_code in (403, 404)
    sandbox.refresh_from_db()
    assert sandbox.state == "ready"
