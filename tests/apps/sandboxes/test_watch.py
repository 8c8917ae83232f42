"""The watcher brings every change to the sandboxes, whoever made it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from django.db import InterfaceError, connections

from apps.agents import services as agents
from apps.jobs.models import Job, JobState
from apps.orgs.authentication import authenticate
from apps.sandboxes import provisioning, services
from apps.sandboxes.models import Sandbox
from apps.sandboxes.watch import Watcher
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.twins.sandboxd import SandboxdTwin

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def until(true: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if true():
            return time.monotonic() - started
        time.sleep(0.01)
    pytest.fail("waited in vain")


def test_a_revoked_token_ends_its_sandbox_within_a_second(sandboxd: SandboxdTwin) -> None:
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
        assert until(lambda: not sandboxd.boxes, 5) < 1
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
