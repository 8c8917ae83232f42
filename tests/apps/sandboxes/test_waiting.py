"""Waiting for a sandbox: by hint, by looking, for a bounded time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from apps.common.errors import IsolationUnavailable, Unavailable
from apps.common.tenancy import scope
from apps.orgs.authentication import authenticate
from apps.sandboxes import services, waiting
from apps.sandboxes.models import Sandbox
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def sandbox(transactional_db: None) -> Iterator[Sandbox]:
    world = factories.acme()
    principal = authenticate(world.minted.value)
    yield services.sandbox_for(principal=principal, project_id=world.project.pk)
    connections.close_all()


async def become(sandbox: Sandbox, **columns: str) -> None:
    def write() -> None:
        with scope(sandbox.org_id):
            Sandbox.objects.filter(pk=sandbox.pk).update(**columns)
        connections.close_all()

    await asyncio.to_thread(write)


async def test_it_returns_when_the_row_is_ready(sandbox: Sandbox) -> None:
    task = asyncio.ensure_future(waiting.wait_ready(sandbox.pk, org_id=sandbox.org_id, seconds=10))
    await asyncio.sleep(0.1)
    assert not task.done()
    await become(sandbox, state="ready")
    await task
    assert waiting._waiters == {}


async def test_a_hint_saves_the_wait(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 30)
    task = asyncio.ensure_future(waiting.wait_ready(sandbox.pk, org_id=sandbox.org_id, seconds=10))
    await asyncio.sleep(0.1)
    await become(sandbox, state="ready")
    await asyncio.to_thread(waiting.hint, sandbox.pk)
    await task  # without it: no answer in 10 s


async def test_the_wait_is_bounded(sandbox: Sandbox) -> None:
    with pytest.raises(Unavailable) as caught:
        await waiting.wait_ready(sandbox.pk, org_id=sandbox.org_id, seconds=0.1)
    assert caught.value.error_code == "sandbox_slow"
    assert waiting._waiters == {}


async def test_a_failure_is_raised_as_what_it_was(sandbox: Sandbox) -> None:
    await become(sandbox, state="failed", failure="isolation_unavailable", reason="sysctl -w x=1")
    with pytest.raises(IsolationUnavailable) as caught:
        await waiting.wait_ready(sandbox.pk, org_id=sandbox.org_id)
    assert caught.value.data["remedy"] == "sysctl -w x=1"
    await become(sandbox, state="stopped", failure="", reason="Stopped by an admin.")
    with pytest.raises(Unavailable, match="Stopped by an admin"):
        await waiting.wait_ready(sandbox.pk, org_id=sandbox.org_id)
