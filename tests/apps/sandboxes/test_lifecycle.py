"""Busy and idle, too old, lost with the service."""

from __future__ import annotations

import datetime as dt
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import LensError
from apps.orgs import services as orgs
from apps.sandboxes import lifecycle, provisioning, services
from apps.sandboxes.driver import Activity, Use, driver_for
from apps.sandboxes.models import Sandbox
from tests import factories

if TYPE_CHECKING:
    from apps.orgs.types import Principal
    from tests.factories import World
    from tests.twins.sandboxd import SandboxdTwin

pytestmark = pytest.mark.database

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def ready(world: World, principal: Principal, sandboxd: SandboxdTwin) -> Sandbox:
    """A sandbox that runs and was not used yet."""
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    provisioning.provision(row.pk)
    return Sandbox.objects.get(pk=row.pk)


class Time:
    """A clock that stands still until a test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: self.now)

    def passes(self, span: timedelta) -> dt.datetime:
        self.now += span
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def seen(row: Sandbox, jobs: int = 0, quiet: timedelta | None = None) -> Activity:
    return Activity("one", {row.pk: Use("ready", jobs, quiet)})


def quiet_since(sandboxd: SandboxdTwin, row: Sandbox, span: timedelta | None) -> None:
    """The twin says of a sandbox that nothing has run in it for so long."""
    box = sandboxd.boxes[str(row.pk)]
    box.quiet_ms = None if span is None else int(span.total_seconds() * 1000)


def test_ready_then_busy_then_idle(ready: Sandbox, time: Time) -> None:
    written: lifecycle.Written = {}

    def after(span: timedelta, jobs: int, quiet: timedelta | None) -> tuple[str, dt.datetime]:
        time.passes(span)
        lifecycle.note_use(seen(ready, jobs, quiet), written)
        ready.refresh_from_db()
        return ready.state, ready.last_used_at

    started = ready.last_used_at
    assert after(2 * SECOND, 0, None) == ("ready", started)
    assert after(2 * SECOND, 1, None) == ("busy", time.now)
    busy = time.now
    assert after(2 * SECOND, 0, 1 * SECOND) == ("busy", busy)
    assert after(6 * SECOND, 0, 7 * SECOND) == ("idle", time.now - 7 * SECOND)
    assert after(2 * SECOND, 0, SECOND) == ("busy", time.now - SECOND)


def test_a_sandbox_in_constant_use_costs_a_write_every_half_minute(
    ready: Sandbox, time: Time
) -> None:
    written: lifecycle.Written = {}
    writes = 0
    for _ in range(150):  # five minutes of looks
        time.passes(2 * SECOND)
        writes += lifecycle.note_use(seen(ready, 0, SECOND), written)
    assert writes == 10
    ready.refresh_from_db()
    assert time.now - ready.last_used_at <= lifecycle.NOTE_EVERY + 2 * SECOND
    with CaptureQueriesContext(connection) as queries:
        lifecycle.note_use(seen(ready, 0, SECOND), written)
    assert not [query for query in queries if "UPDATE" in query["sql"]]


def test_what_is_over_is_not_brought_back(ready: Sandbox, world: World) -> None:
    services.sandbox_stop(ready, reason="enough", actor=world.admin)
    written: lifecycle.Written = {}
    lifecycle.note_use(seen(ready, 1), written)
    ready.refresh_from_db()
    assert ready.state == "stopped"
    lifecycle.note_use(Activity("one", {}), written)
    assert written == {}


def test_the_service_says_who_is_in_use(ready: Sandbox, sandboxd: SandboxdTwin) -> None:
    activity = driver_for("process").activity()
    assert activity == Activity(sandboxd.instance, {ready.pk: Use("ready", 0, None)})


@pytest.mark.parametrize("minutes", [1, 30, 1440])
def test_an_idle_sandbox_ends_when_its_organization_says(
    ready: Sandbox, world: World, sandboxd: SandboxdTwin, time: Time, minutes: int
) -> None:
    orgs.organization_update(world.org, sandbox_idle_minutes=minutes, actor=world.admin)
    orgs.organization_update(world.org, sandbox_max_age_hours=168, actor=world.admin)
    time.passes(minutes * MINUTE - SECOND)
    assert lifecycle.reap() == 0
    time.passes(2 * SECOND)
    assert lifecycle.reap() == 1
    ready.refresh_from_db()
    assert (ready.state, ready.reason) == ("stopped", f"Idle for {minutes} min.")
    assert sandboxd.boxes == {}
    [event] = AuditEvent.objects.filter(action="sandbox.stop")
    assert (event.reason, event.principal_kind) == (ready.reason, "system")


def test_rows_lag_and_sandboxd_is_asked_again(
    ready: Sandbox, sandboxd: SandboxdTwin, time: Time
) -> None:
    quiet_since(sandboxd, ready, SECOND)
    time.passes(31 * MINUTE)
    assert lifecycle.reap() == 0
    quiet_since(sandboxd, ready, 31 * MINUTE)
    assert lifecycle.reap() == 1


def test_each_organization_has_its_own_limits(
    ready: Sandbox, world: World, sandboxd: SandboxdTwin, time: Time
) -> None:
    other = factories.globex()
    orgs.organization_update(other.org, sandbox_idle_minutes=1, actor=other.admin)
    time.passes(5 * MINUTE)
    assert lifecycle.reap() == 0
    orgs.organization_update(world.org, sandbox_idle_minutes=2, actor=world.admin)
    assert lifecycle.reap() == 1


def test_an_old_sandbox_ends_when_it_is_not_in_use_and_later_in_any_case(
    ready: Sandbox, world: World, sandboxd: SandboxdTwin, time: Time
) -> None:
    orgs.organization_update(world.org, sandbox_max_age_hours=2, actor=world.admin)
    orgs.organization_update(world.org, sandbox_idle_minutes=1440, actor=world.admin)
    quiet_since(sandboxd, ready, timedelta())
    time.passes(timedelta(hours=2, seconds=1))
    assert lifecycle.reap() == 0
    quiet_since(sandboxd, ready, 10 * SECOND)
    time.passes(lifecycle.AGE_GRACE - MINUTE)
    quiet_since(sandboxd, ready, timedelta())
    assert lifecycle.reap() == 0
    time.passes(MINUTE)
    assert lifecycle.reap() == 1
    ready.refresh_from_db()
    assert (ready.state, ready.reason) == ("stopped", "Older than 2 h.")
    assert sandboxd.boxes == {}


def test_an_old_sandbox_that_is_not_in_use_ends_at_once(
    ready: Sandbox, world: World, sandboxd: SandboxdTwin, time: Time
) -> None:
    orgs.organization_update(world.org, sandbox_max_age_hours=1, actor=world.admin)
    quiet_since(sandboxd, ready, 10 * SECOND)
    time.passes(timedelta(hours=1, seconds=1))
    assert lifecycle.reap() == 1


def test_a_sandbox_that_nobody_ever_built_is_given_up(
    world: World, principal: Principal, sandboxd: SandboxdTwin, time: Time
) -> None:
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    time.passes(31 * MINUTE)
    assert lifecycle.reap() == 1
    row.refresh_from_db()
    assert row.state == "stopped"


def test_what_cannot_be_asked_about_is_left_alone(
    ready: Sandbox, sandboxd: SandboxdTwin, time: Time
) -> None:
    sandboxd.stop()
    time.passes(31 * MINUTE)
    assert lifecycle.reap() == 0
    time.passes(timedelta(days=1))
    assert lifecycle.reap() == 1
    ready.refresh_from_db()
    assert (ready.state, ready.reason) == ("stopped", "Older than 12 h.")


def test_one_that_cannot_be_stopped_does_not_keep_the_others(
    world: World, principal: Principal, sandboxd: SandboxdTwin, time: Time,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = [
        services.sandbox_for(
            principal=principal, project_id=world.project.pk, delegation_scope=str(number)
        )
        for number in range(3)
    ]
    stop = services.sandbox_stop

    def broken(row: Sandbox, **how: object) -> Sandbox:
        if row.pk == rows[0].pk:
            raise ValueError("a bug")
        return stop(row, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(lifecycle, "sandbox_stop", broken)
    time.passes(31 * MINUTE)
    with pytest.raises(ValueError, match="a bug"):
        lifecycle.reap()
    states = Sandbox.objects.order_by("delegation_scope").values_list("state", flat=True)
    assert list(states) == ["creating", "stopped", "stopped"]


def test_rows_and_service_are_made_to_agree(ready: Sandbox, sandboxd: SandboxdTwin) -> None:
    assert lifecycle.reconcile() == 0
    box = sandboxd.boxes.pop(str(ready.pk))
    sandboxd.boxes[str(uuid.uuid4())] = box
    assert lifecycle.reconcile() == 2
    ready.refresh_from_db()
    assert (ready.state, ready.failure) == ("failed", "sandbox_lost")
    assert sandboxd.boxes == {}


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ("proxy_ended", "Its egress proxy ended."),
        ("init_ended", "Its process 1 ended."),
        ("something_new", "Its processes ended."),
    ],
)
def test_a_sandbox_that_ended_by_itself_says_why(
    ready: Sandbox, sandboxd: SandboxdTwin, over: str, reason: str
) -> None:
    sandboxd.boxes[str(ready.pk)].over = over
    assert lifecycle.reconcile() == 1
    ready.refresh_from_db()
    assert (ready.state, ready.failure, ready.reason) == ("failed", "sandbox_lost", reason)
    assert sandboxd.boxes == {}


def test_a_restarted_service_has_lost_everything(ready: Sandbox, sandboxd: SandboxdTwin) -> None:
    before = sandboxd.instance
    sandboxd.restart()
    lifecycle.service_restarted(before, sandboxd.instance)
    ready.refresh_from_db()
    assert (ready.state, ready.failure) == ("failed", "sandbox_lost")
    [event] = AuditEvent.objects.filter(action="sandbox_service.restart")
    assert (event.org_id, event.result, event.resource_id) == (None, "error", sandboxd.instance)
    assert event.metadata["sandboxes_lost"] == 1
    [told] = AuditEvent.objects.filter(action="sandbox.fail")
    assert told.org_id == ready.org_id


def test_a_service_that_is_away_has_nothing(ready: Sandbox, sandboxd: SandboxdTwin) -> None:
    assert lifecycle.service_away() == 0
    sandboxd.stop()
    assert lifecycle.service_away() == 1
    ready.refresh_from_db()
    assert (ready.state, ready.failure) == ("failed", "sandbox_lost")
    with pytest.raises(LensError):
        lifecycle.reconcile()
