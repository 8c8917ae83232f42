"""Asking for sandboxes and ending them."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Denied, NotFound, RateLimited
from apps.common.tenancy import scope
from apps.jobs.models import Job
from apps.orgs.authentication import authenticate
from apps.orgs.types import SYSTEM, PrincipalKind
from apps.sandboxes import services
from apps.sandboxes.models import Sandbox, SandboxState
from tests import factories

if TYPE_CHECKING:
    from apps.orgs.types import Principal
    from tests.factories import World

pytestmark = pytest.mark.database


def asked(principal: Principal, project: uuid.UUID, **more: str) -> Sandbox:
    return services.sandbox_for(principal=principal, project_id=project, **more)


def test_the_first_asks_for_a_sandbox_and_the_next_gets_the_same(
    world: World, principal: Principal
) -> None:
    first = asked(principal, world.project.pk)
    second = asked(principal, world.project.pk)
    assert first.pk == second.pk
    assert (first.state, first.agent_id) == ("creating", world.agent.pk)
    [job] = Job.objects.filter(kind="sandboxes.provision")
    assert job.payload == {"sandbox": str(first.pk)}
    [event] = AuditEvent.objects.filter(action="sandbox.create")
    assert event.surface == "sandbox_operation"
    assert (event.principal_name, event.project_slug) == ("Bot", "production")
    assert event.org_id == world.org.pk


@pytest.mark.parametrize(
    "other",
    [
        {"id": uuid.uuid4()},
        {"kind": "user"},
        {"on_behalf_of": "ann@acme.example"},
    ],
    ids=["principal", "kind", "on behalf of"],
)
def test_a_sandbox_is_never_shared(
    world: World, principal: Principal, other: dict[str, object]
) -> None:
    key = services.sandbox_key(principal, world.project.pk, "", principal.on_behalf_of)
    changed = dataclasses.replace(principal, **other)  # type: ignore[arg-type]
    assert services.sandbox_key(changed, world.project.pk, "", changed.on_behalf_of) != key
    assert services.sandbox_key(principal, world.other_project.pk, "", "") != key
    assert services.sandbox_key(principal, world.project.pk, "read", "") != key


def test_the_parts_of_a_key_cannot_imitate_each_other(world: World, principal: Principal) -> None:
    project = world.project.pk
    assert services.sandbox_key(principal, project, 'a", "b', "") != services.sandbox_key(
        principal, project, "a", 'b", "'
    )


def test_a_project_without_a_grant_does_not_exist(world: World, principal: Principal) -> None:
    stranger = factories.globex()
    for project in (world.other_project, stranger.project):
        with pytest.raises(NotFound) as caught:
            asked(principal, project.pk)
        assert caught.value.error_code == "project_not_found"
    assert not Sandbox.objects.exists()


def test_a_failure_is_told_for_a_while_and_then_tried_again(
    world: World, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = asked(principal, world.project.pk)
    services.end(row, SandboxState.FAILED, reason="sysctl", actor=SYSTEM, failure="x")
    assert asked(principal, world.project.pk).pk == row.pk
    later = clock.now() + services.RETRY_AFTER
    monkeypatch.setattr(clock, "now", lambda: later)
    assert asked(principal, world.project.pk).pk != row.pk


def test_a_lost_sandbox_is_replaced_at_once(world: World, principal: Principal) -> None:
    row = asked(principal, world.project.pk)
    services.sandbox_lost(row.pk, actor=SYSTEM)
    services.sandbox_lost(row.pk, actor=SYSTEM)
    services.sandbox_lost(uuid.uuid4(), actor=SYSTEM)
    assert asked(principal, world.project.pk).pk != row.pk
    assert AuditEvent.objects.filter(action="sandbox.fail").count() == 1


def test_stopping_is_for_admins_and_ends_it_for_good(world: World, principal: Principal) -> None:
    row = asked(principal, world.project.pk)
    Sandbox.objects.filter(pk=row.pk).update(token_hash="h" * 64)
    for actor in (world.member, world.auditor, world.project_admin):
        with pytest.raises(Denied):
            services.sandbox_stop(row, reason="no", actor=actor)
    for actor in (world.outsider, factories.globex().admin):
        with pytest.raises(NotFound):
            services.sandbox_stop(row, reason="no", actor=actor)
    stopped = services.sandbox_stop(row, reason="not needed", actor=world.admin)
    again = services.sandbox_stop(stopped, reason="twice", actor=world.admin)
    assert (again.state, again.reason, again.token_hash) == ("stopped", "not needed", "")
    [event] = AuditEvent.objects.filter(action="sandbox.stop")
    assert event.metadata["changes"] == {"state": ["creating", "stopped"]}
    assert event.principal_name == world.admin.name
    assert Job.objects.filter(kind="sandboxes.clear").count() == 1
    assert asked(principal, world.project.pk).pk != row.pk


@pytest.mark.django_db(transaction=True)
def test_callers_who_race_get_one_sandbox() -> None:
    world = factories.acme()
    principal = authenticate(world.minted.value)
    start = threading.Barrier(8)
    found: list[uuid.UUID] = []

    def ask() -> None:
        start.wait(10)
        try:
            with scope(world.org.pk):
                found.append(asked(principal, world.project.pk).pk)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert Job.objects.filter(kind="sandboxes.provision").count() == 1
    assert AuditEvent.objects.filter(action="sandbox.create").count() == 1


def limited(world: World, **limits: int) -> None:
    type(world.org).objects.filter(pk=world.org.pk).update(**limits)


def test_a_principal_has_as_many_as_it_may(world: World, principal: Principal) -> None:
    limited(world, sandboxes_per_principal=2)
    project = world.project.pk
    first = asked(principal, project)
    asked(principal, project, on_behalf_of="ann@acme.example")
    with pytest.raises(RateLimited) as refused:
        asked(principal, project, on_behalf_of="bob@acme.example")
    assert refused.value.error_code == "sandbox_limit"
    assert refused.value.message == "“Bot” has as many sandboxes as it may have at once (2)."
    assert "idle for 30 min" in refused.value.data["remedy"]
    assert asked(principal, project).pk == first.pk  # one that it has is no new one
    other = dataclasses.replace(principal, id=uuid.uuid4(), kind=PrincipalKind.USER)
    asked(other, project)
    services.end(first, SandboxState.STOPPED, reason="idle", actor=SYSTEM)
    asked(principal, project, on_behalf_of="bob@acme.example")


def test_an_organization_has_as_many_as_it_may(world: World, principal: Principal) -> None:
    limited(world, sandboxes_total=1)
    stranger = factories.globex()
    asked(authenticate(stranger.minted.value), stranger.project.pk)  # counts for its own only
    asked(principal, world.project.pk)
    with pytest.raises(RateLimited, match="organization “Acme Corp” has as many") as refused:
        asked(principal, world.project.pk, on_behalf_of="ann@acme.example")
    assert refused.value.error_code == "sandbox_limit"
    assert Sandbox.objects.filter(org=world.org).count() == 1
    assert Job.objects.filter(kind="sandboxes.provision", org=world.org).count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("limit", ["sandboxes_per_principal", "sandboxes_total"])
def test_callers_who_race_never_get_more_than_they_may(limit: str) -> None:
    world = factories.acme()
    limited(world, **{limit: 3})
    principal = authenticate(world.minted.value)
    start = threading.Barrier(10)
    found: list[uuid.UUID | str] = []

    def ask(number: int) -> None:
        start.wait(10)
        try:
            with scope(world.org.pk):
                row = asked(principal, world.project.pk, delegation_scope=str(number))
            found.append(row.pk)
        except RateLimited as error:
            found.append(error.error_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 10
    assert found.count("sandbox_limit") == 7
    assert Sandbox.objects.count() == 3


def test_time_does_not_reuse_what_ended_long_ago(world: World, principal: Principal) -> None:
    row = asked(principal, world.project.pk)
    services.end(row, SandboxState.STOPPED, reason="idle", actor=SYSTEM)
    Sandbox.objects.filter(pk=row.pk).update(stopped_at=clock.now() - timedelta(days=1))
    assert asked(principal, world.project.pk).state == "creating"
