"""Building sandboxes, and keeping them true to rows and policies."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from apps.agents import services as agents
from apps.audit.models import AuditEvent
from apps.common import clock, ids
from apps.connections import services as connections
from apps.orgs import services as orgs
from apps.orgs.types import SYSTEM
from apps.policies import services as policies
from apps.policies.documents import DomainRuleDoc, ToolRuleDoc, document_of
from apps.sandboxes import provisioning, services
from apps.sandboxes.models import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.orgs.types import Principal
    from apps.sandboxes.driver import Built
    from tests.factories import World
    from tests.twins.sandboxd import SandboxdTwin

pytestmark = pytest.mark.database


@pytest.fixture
def ready(world: World, principal: Principal, sandboxd: SandboxdTwin) -> Sandbox:
    """A sandbox that runs."""
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    row.refresh_from_db()
    assert row.state == "ready"
    return row


def state(row: Sandbox) -> tuple[str, str, str]:
    row.refresh_from_db()
    return row.state, row.failure, row.reason


def test_a_built_sandbox_has_its_report_and_a_token_that_only_it_knows(
    world: World, ready: Sandbox, sandboxd: SandboxdTwin
) -> None:
    [box] = sandboxd.boxes.values()
    token = box.spec["token"]
    assert token.startswith("lnsb_")
    assert ready.token_hash == ids.token_hash(token)
    assert ready.isolation == "none"
    assert ready.report[0]["probe"] == "isolation"
    assert box.spec["bundle"]["layers"][0]["name"] == "SRE policy"
    assert box.spec["identity"]["team_slug"] == "sre"
    assert box.spec["identity"]["principal_name"] == "Bot"
    assert token not in str(list(AuditEvent.objects.values()))
    assert AuditEvent.objects.filter(action="sandbox.ready").count() == 1


def test_a_job_that_runs_twice_builds_once(ready: Sandbox, sandboxd: SandboxdTwin) -> None:
    provisioning.provision(ready.pk)
    provisioning.provision(uuid.uuid4())
    assert sandboxd.calls.count("POST /v1/sandboxes") == 1


def test_a_job_that_was_killed_half_way_replaces_what_it_left(
    world: World, principal: Principal, sandboxd: SandboxdTwin
) -> None:
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    [first] = sandboxd.boxes.values()
    Sandbox.objects.filter(pk=row.pk).update(state="creating")
    provisioning.provision(row.pk)
    [second] = sandboxd.boxes.values()
    row.refresh_from_db()
    assert row.token_hash == ids.token_hash(second.spec["token"])
    assert first.spec["token"] != second.spec["token"]


def test_a_host_without_isolation_stores_the_remedy(
    world: World, principal: Principal, sandboxd: SandboxdTwin
) -> None:
    sandboxd.unavailable = "sysctl -w x=1"
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    assert state(row) == ("failed", "isolation_unavailable", "sysctl -w x=1")
    [event] = AuditEvent.objects.filter(action="sandbox.fail")
    assert event.result == "error"


def test_a_service_that_is_just_starting_is_waited_for(
    world: World, principal: Principal, sandboxd: SandboxdTwin
) -> None:
    sandboxd.stop()
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    soon = threading.Timer(0.3, sandboxd.start)
    soon.start()
    provisioning.provision(row.pk)
    soon.join()
    assert state(row)[0] == "ready"


def test_a_missing_service_is_a_failure_and_no_exception(
    world: World, principal: Principal, sandboxd: SandboxdTwin
) -> None:
    sandboxd.stop()
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    assert state(row)[:2] == ("failed", "sandboxd_unavailable")


def test_what_was_stopped_while_it_was_built_does_not_run(
    world: World, principal: Principal, sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    finish = provisioning._ready

    def stopped_meanwhile(built: Sandbox, how: Built) -> None:
        services.sandbox_stop(row, reason="kill switch", actor=SYSTEM)
        finish(built, how)

    monkeypatch.setattr(provisioning, "_ready", stopped_meanwhile)
    provisioning.provision(row.pk)
    assert state(row)[0] == "stopped"
    assert sandboxd.boxes == {}


def revoke(world: World) -> None:
    agents.token_revoke(world.minted.token, actor=world.admin)


def expire(world: World) -> None:
    tokens = type(world.minted.token).objects
    tokens.filter(pk=world.minted.token.pk).update(expires_at=clock.now())


def disable(world: World) -> None:
    agents.agent_disable(world.agent, actor=world.admin)


def delete(world: World) -> None:
    agents.agent_delete(world.agent, actor=world.admin)


def delete_team(world: World) -> None:
    orgs.team_delete(world.team, actor=world.admin)


def remove_grant(world: World) -> None:
    orgs.grant_remove(world.grant, actor=world.admin)


def move(world: World) -> None:
    agents.agent_update(world.agent, team=world.other_team, actor=world.admin)


def close(world: World) -> None:
    type(world.org).objects.update(closed_at=clock.now())


@pytest.mark.parametrize(
    "end", [revoke, expire, disable, delete, delete_team, remove_grant, move, close]
)
def test_when_the_right_ends_the_sandbox_ends(
    world: World, ready: Sandbox, sandboxd: SandboxdTwin, end: Callable[[World], None]
) -> None:
    assert provisioning.stop_disallowed() == 0
    end(world)
    assert provisioning.stop_disallowed() == 1
    assert state(ready)[0] == "stopped"
    assert state(ready)[2].endswith(".")


def test_a_token_that_ended_before_the_sandbox_began_ends_nothing(
    world: World, principal: Principal, sandboxd: SandboxdTwin
) -> None:
    old = agents.token_create(world.agent, name="old", actor=world.admin)
    agents.token_revoke(old.token, actor=world.admin)
    type(old.token).objects.update(revoked_at=clock.now() - timedelta(minutes=1))
    type(old.token).objects.filter(pk=world.minted.token.pk).update(revoked_at=None)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    assert provisioning.stop_disallowed() == 0


def test_a_changed_policy_is_pushed_once(
    world: World, ready: Sandbox, sandboxd: SandboxdTwin
) -> None:
    [box] = sandboxd.boxes.values()
    known: dict[uuid.UUID, str] = {}
    assert provisioning.push_bundles(known) == 1
    assert provisioning.push_bundles(known) == 0
    document = dataclasses.replace(
        document_of(world.policy), domains=(DomainRuleDoc("*", "deny"),), bindings=()
    )
    policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)
    assert provisioning.push_bundles(known) == 1
    assert len(box.bundles[-1]["layers"][0]["domains"]) == 1
    assert box.bundles[-1]["bindings"] == []
    ready.refresh_from_db()
    assert ready.bundle_version == box.bundles[-1]["version"]


def test_what_changes_nothing_for_a_sandbox_is_not_pushed(
    world: World, ready: Sandbox, sandboxd: SandboxdTwin
) -> None:
    known: dict[uuid.UUID, str] = {}
    provisioning.push_bundles(known)
    orgs.project_create(world.org, slug="more", name="More", actor=world.admin)
    agents.token_create(world.agent, name="2", actor=world.admin)
    assert provisioning.push_bundles(known) == 0


def test_a_rotated_credential_is_pushed_so_that_the_old_one_is_forgotten(
    world: World, ready: Sandbox, sandboxd: SandboxdTwin
) -> None:
    """Its proxy drops what it remembers with each policy; the value itself is never pushed."""
    known: dict[uuid.UUID, str] = {}
    provisioning.push_bundles(known)
    connections.credential_update(world.credential, value="rotated-secret", actor=world.admin)
    assert provisioning.push_bundles(known) == 1
    assert provisioning.push_bundles(known) == 0
    assert "rotated-secret" not in str(sandboxd.boxes[str(ready.pk)].bundles)


def test_a_sandbox_that_does_not_take_its_policy_is_ended(
    ready: Sandbox, sandboxd: SandboxdTwin
) -> None:
    sandboxd.boxes[str(ready.pk)].takes_bundles = False
    assert provisioning.push_bundles({}) == 0
    assert state(ready)[:2] == ("failed", "policy_not_taken")


@pytest.mark.parametrize("end", ["restart", "stop"])
def test_a_sandbox_that_is_not_there_to_take_its_policy_is_lost(
    ready: Sandbox, sandboxd: SandboxdTwin, end: str
) -> None:
    getattr(sandboxd, end)()
    assert provisioning.push_bundles({}) == 0
    assert state(ready)[:2] == ("failed", "sandbox_lost")


def test_a_policy_that_changes_while_a_sandbox_is_built_reaches_it(
    world: World, principal: Principal, sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    finish = provisioning._ready

    def changed_meanwhile(built: Sandbox, how: Built) -> None:
        document = dataclasses.replace(document_of(world.policy), tools=())
        policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)
        finish(built, how)

    monkeypatch.setattr(provisioning, "_ready", changed_meanwhile)
    provisioning.provision(row.pk)
    [box] = sandboxd.boxes.values()
    assert box.spec["bundle"]["layers"][0]["tools"]
    assert box.bundles[-1]["layers"][0]["tools"] == []


def test_clearing_spares_what_lives(ready: Sandbox, sandboxd: SandboxdTwin) -> None:
    provisioning.clear(ready.pk, "process")
    assert len(sandboxd.boxes) == 1


def test_a_tool_rule_makes_a_bundle_another_one(world: World, ready: Sandbox) -> None:
    before = provisioning.fingerprint(provisioning.bundle_of(ready))
    document = dataclasses.replace(document_of(world.policy), tools=(ToolRuleDoc("file_*"),))
    policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)
    assert provisioning.fingerprint(provisioning.bundle_of(ready)) != before
