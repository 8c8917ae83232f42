"""Sandboxes that are held by less: whose consent they need, and where that is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apps.audit.models import AuditEvent
from apps.common.errors import Denied, NotFound
from apps.orgs import services as orgs
from apps.sandboxes import provisioning, services
from apps.sandboxes.models import Sandbox, note_of
from tests import factories
from tests.apps.admin_support import browser, url
from tests.apps.api_support import caller, read
from tests.apps.sandboxes.test_provisioning import state

if TYPE_CHECKING:
    from apps.orgs.types import Principal
    from tests.factories import World
    from tests.twins.sandboxd import SandboxdTwin

pytestmark = pytest.mark.database


@pytest.fixture
def degraded(sandboxd: SandboxdTwin) -> SandboxdTwin:
    """A host that can give nothing better."""
    sandboxd.isolation = "degraded"
    return sandboxd


def made(world: World, principal: Principal) -> Sandbox:
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    row.refresh_from_db()
    return row


def events(row: Sandbox) -> dict[str, dict[str, object]]:
    found = AuditEvent.objects.filter(resource_id=str(row.pk))
    return {event.action: event.metadata for event in found}


@pytest.mark.usefixtures("degraded")
def test_it_is_refused_until_the_organization_allows_it(world: World, principal: Principal) -> None:
    row = made(world, principal)
    assert state(row) == ("failed", "isolation_unavailable", "An organization admin can")
    assert world.org.allow_degraded is False


@pytest.mark.usefixtures("degraded")
def test_every_audit_event_of_it_says_so(world: World, principal: Principal) -> None:
    orgs.organization_update(world.org, allow_degraded=True, actor=world.admin)
    row = made(world, principal)
    assert (row.state, row.isolation) == ("ready", "degraded")
    services.sandbox_stop(row, reason="enough", actor=world.admin)
    told = events(row)
    assert {"sandbox.ready", "sandbox.stop"} <= set(told)
    for action in ("sandbox.ready", "sandbox.stop"):
        assert told[action]["isolation"] == "degraded", action
    assert note_of("namespace") == note_of("owner-rules") == {}


def test_taking_the_consent_back_ends_them(
    world: World, principal: Principal, degraded: SandboxdTwin
) -> None:
    orgs.organization_update(world.org, allow_degraded=True, actor=world.admin)
    row = made(world, principal)
    assert provisioning.stop_disallowed() == 0
    orgs.organization_update(world.org, allow_degraded=False, actor=world.admin)
    assert provisioning.stop_disallowed() == 1
    assert state(row)[0] == "stopped"
    assert "does not allow degraded" in state(row)[2]
    assert degraded.boxes == {}


def test_full_sandboxes_stay_without_that_consent(
    world: World, principal: Principal, sandboxd: SandboxdTwin
) -> None:
    sandboxd.isolation = "namespace"
    row = made(world, principal)
    assert provisioning.stop_disallowed() == 0
    assert state(row)[0] == "ready"


def test_only_an_organization_admin_gives_it_and_it_is_audited(world: World) -> None:
    with pytest.raises(Denied):
        orgs.organization_update(world.org, allow_degraded=True, actor=world.auditor)
    stranger = factories.globex().admin
    with pytest.raises(NotFound):
        orgs.organization_update(world.org, allow_degraded=True, actor=stranger)
    orgs.organization_update(world.org, allow_degraded=True, actor=world.admin)
    event = AuditEvent.objects.get(action="organization.update", org=world.org)
    assert event.metadata["changes"] == {"allow_degraded": [False, True]}


def test_the_api_reads_and_changes_it(world: World) -> None:
    path = f"/organizations/{world.org.pk}"
    admin, auditor = caller(world, "admin"), caller(world, "auditor")
    assert read(auditor.get(path))["allow_degraded"] is False
    assert auditor.ask("PATCH", path, {"allow_degraded": True}).status_code == 403
    assert admin.ask("PATCH", path, {"allow_degraded": "perhaps"}).status_code == 400
    changed = admin.ask("PATCH", path, {"allow_degraded": True})
    assert (changed.status_code, read(changed)["allow_degraded"]) == (200, True)


@pytest.mark.usefixtures("degraded")
def test_the_admin_shows_it_in_red_with_what_is_not_given(
    world: World, principal: Principal
) -> None:
    orgs.organization_update(world.org, allow_degraded=True, actor=world.admin)
    row = made(world, principal)
    report = [{"probe": "addresses", "ok": False, "given": False, "detail": "ports only"}]
    Sandbox.objects.filter(pk=row.pk).update(report=report)
    text = browser(world.admin).get(url(Sandbox, "change", row.pk)).content.decode()
    assert "not given here" in text
    assert "does not hold" not in text
    listed = browser(world.admin).get(url(Sandbox, "changelist")).content.decode()
    badge = listed[: listed.index("degraded")].rpartition("<span")[2]
    assert "lens-badge-danger" in badge
