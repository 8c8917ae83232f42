"""The watcher brings every change to the sandboxes, whoever made it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from django.db import InterfaceError, OperationalError, connections

from apps.agents import services as agents
from apps.audit.models import AuditEvent
from apps.jobs.models import Job, JobState
from apps.orgs.authentication import authenticate
from apps.sandboxes import lifecycle, provisioning, selectors, services, watch
from apps.sandboxes.models import Sandbox
from apps.sandboxes.watch import Watcher
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.policies.types import Bundle
    from tests.factories import World
    from tests.twins.sandboxd import SandboxdTwin

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def until(true: Callable[[], bool], seconds: float) -> None:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if true():
            return
        time.sleep(0.01)
    pytest.fail("waited in vain")


def test_a_revoked_token_ends_its_sandbox_without_a_worker(sandboxd: SandboxdTwin) -> None:
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    watcher = Watcher()
    watcher.start()
    try:
        until(lambda: bool(sandboxd.boxes[str(row.pk)].bundles), 5)
        agents.token_revoke(world.minted.token, actor=world.admin)
        # No worker runs here: the watcher itself ends what it found.
        until(lambda: not sandboxd.boxes, 5)
        assert Sandbox.objects.filter(pk=row.pk, state="stopped").exists()
    finally:
        watcher.stop()
        connections.close_all()
    assert not watcher.alive()


def test_a_service_that_cannot_be_asked_leaves_the_ending_to_the_job(
    sandboxd: SandboxdTwin,
) -> None:
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    sandboxd.stop()
    agents.token_revoke(world.minted.token, actor=world.admin)
    assert provisioning.stop_disallowed() == 1
    assert Sandbox.objects.filter(pk=row.pk, state="stopped").exists()
    clear = Job.objects.filter(kind="sandboxes.clear", state=JobState.QUEUED)
    assert [job.payload["sandbox"] for job in clear] == [str(row.pk)]


def test_an_absent_service_does_not_end_the_watch(sandboxd: SandboxdTwin) -> None:
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    sandboxd.stop()
    watcher = Watcher()
    watcher.start()
    try:
        until(lambda: Sandbox.objects.filter(pk=row.pk, state="failed").exists(), 5)
        assert watcher.alive()
    finally:
        watcher.stop()
        connections.close_all()


@pytest.mark.parametrize("error", [InterfaceError("closed"), KeyError("k"), ValueError("v")])
def test_no_error_ends_the_watch(
    sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    errors = [error]

    def fail_once() -> int:
        if errors:
            raise errors.pop()
        looked.set()
        return 0

    looked = threading.Event()
    monkeypatch.setattr(provisioning, "stop_disallowed", fail_once)
    watcher = Watcher()
    watcher.start()
    try:
        assert looked.wait(5)
    finally:
        watcher.stop()
        connections.close_all()


@pytest.mark.parametrize("error", [KeyError("a bug"), OperationalError("locked")])
def test_one_sandbox_does_not_delay_the_policy_of_the_next(
    sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """In the very same look; and the one that failed has another try, or is over."""
    world = factories.acme()
    principal = authenticate(world.minted.value)
    rows = [
        services.sandbox_for(
            principal=principal, project_id=world.project.pk, delegation_scope=str(number)
        )
        for number in range(3)
    ]
    for row in rows:
        provisioning.provision(row.pk)
    broken = next(iter(selectors.running())).pk
    compiled = provisioning.bundle_of

    def fail_for_one(row: Sandbox) -> Bundle:
        if row.pk == broken:
            raise error
        return compiled(row)

    monkeypatch.setattr(provisioning, "bundle_of", fail_for_one)
    watcher = Watcher()
    with pytest.raises(type(error)):
        watcher.look()
    got = {key for key, box in sandboxd.boxes.items() if box.bundles}
    assert got == {str(row.pk) for row in rows} - {str(broken)}
    state = Sandbox.objects.get(pk=broken).state
    if isinstance(error, KeyError):  # it would go on by the old policy for ever
        assert state == "failed"
        assert str(broken) not in sandboxd.boxes
    else:
        assert state == "ready"
    monkeypatch.undo()
    watcher.look()
    assert all(box.bundles for box in sandboxd.boxes.values())


def several(sandboxd: SandboxdTwin, count: int) -> tuple[World, list[Sandbox]]:
    """Sandboxes of one agent that run."""
    world = factories.acme()
    principal = authenticate(world.minted.value)
    rows = [
        services.sandbox_for(
            principal=principal, project_id=world.project.pk, delegation_scope=str(number)
        )
        for number in range(count)
    ]
    for row in rows:
        provisioning.provision(row.pk)
    return world, rows


def test_a_slow_sandbox_does_not_delay_the_policy_of_the_others(sandboxd: SandboxdTwin) -> None:
    several(sandboxd, 5)
    slow = sandboxd.boxes[str(next(iter(selectors.running())).pk)]
    slow.delay = 2.0
    done = threading.Thread(target=look_once)
    done.start()
    others = [box for box in sandboxd.boxes.values() if box is not slow]
    until(lambda: all(box.bundles for box in others), 5)
    assert not slow.bundles  # who had waited for it would have its own only after it
    done.join(10)
    assert slow.bundles


def test_many_end_side_by_side(sandboxd: SandboxdTwin) -> None:
    """A killed team has many sandboxes, and the last one ends as soon as the first."""
    world, rows = several(sandboxd, 6)
    for box in sandboxd.boxes.values():
        box.delay = 2.0
    agents.agent_disable(world.agent, actor=world.admin)
    started = time.monotonic()
    assert provisioning.stop_disallowed() == len(rows)
    assert time.monotonic() - started < 8  # one after the other it would be 12
    assert sandboxd.boxes == {}


def look_once() -> None:
    try:
        Watcher().look()
    finally:
        connections.close_all()


def test_a_step_that_fails_does_not_delay_a_revocation(
    sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    watcher = Watcher()
    watcher.look()
    agents.agent_disable(world.agent, actor=world.admin)

    def broken(_: object) -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(provisioning, "push_bundles", broken)
    monkeypatch.setattr(lifecycle, "note_use", broken)
    with pytest.raises(ValueError, match="a bug"):
        watcher.look()
    assert sandboxd.boxes == {}


def test_a_sandbox_that_was_stopped_ends_without_a_worker(sandboxd: SandboxdTwin) -> None:
    """Not behind a queue of jobs: the watcher ends what it knew and what is over now."""
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    watcher = Watcher()
    watcher.look()
    services.sandbox_stop(row, reason="enough", actor=world.admin)
    assert sandboxd.boxes
    watcher.look()
    assert sandboxd.boxes == {}


def test_a_service_that_was_started_anew_is_noticed(
    sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "USE_SECONDS", 0.0)
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    watcher = Watcher()
    watcher.look()
    sandboxd.restart()
    watcher.look()
    watcher.look()
    assert Sandbox.objects.get(pk=row.pk).failure == "sandbox_lost"
    assert AuditEvent.objects.filter(action="sandbox_service.restart").count() == 1
    again = services.sandbox_for(principal=principal, project_id=world.project.pk)
    assert (again.pk != row.pk, again.state) == (True, "creating")


def test_a_sandbox_that_ended_by_itself_is_noticed_at_the_next_look(
    sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "USE_SECONDS", 0.0)
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    watcher = Watcher()
    watcher.look()
    sandboxd.boxes[str(row.pk)].over = "proxy_ended"
    watcher.look()
    assert Sandbox.objects.get(pk=row.pk).reason == "Its egress proxy ended."


def test_a_service_that_stays_away_has_lost_its_sandboxes(
    sandboxd: SandboxdTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "USE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "AWAY_SECONDS", 0.2)
    world = factories.acme()
    principal = authenticate(world.minted.value)
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    watcher = Watcher()
    watcher.look()
    sandboxd.stop()
    watcher.look()
    assert Sandbox.objects.get(pk=row.pk).state == "ready"  # it may be about to come back
    time.sleep(0.3)
    watcher.look()
    assert Sandbox.objects.get(pk=row.pk).failure == "sandbox_lost"
