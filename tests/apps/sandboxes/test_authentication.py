"""Sandbox tokens: as long as the sandbox, no more than a member of its one project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apps.agents import services as agents
from apps.common import clock, ids
from apps.common.errors import Unauthenticated
from apps.orgs import services as orgs
from apps.orgs.authentication import authenticate
from apps.orgs.types import SYSTEM, PrincipalKind
from apps.sandboxes import services
from apps.sandboxes.models import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.orgs.types import Principal
    from tests.factories import World

pytestmark = pytest.mark.database
TOKEN = ids.token("lnsb")


@pytest.fixture
def sandbox(world: World, principal: Principal) -> Sandbox:
    row = services.sandbox_for(principal=principal, project_id=world.project.pk)
    Sandbox.objects.filter(pk=row.pk).update(state="ready", token_hash=ids.token_hash(TOKEN))
    return row


def test_it_speaks_for_its_sandbox_alone(world: World, sandbox: Sandbox) -> None:
    orgs.grant_set(world.team, world.project, role="admin", actor=world.admin)
    orgs.grant_set(world.team, world.other_project, role="admin", actor=world.admin)
    who = authenticate(TOKEN)
    assert (who.kind, who.id) == (PrincipalKind.SANDBOX, sandbox.pk)
    assert [(grant.slug, grant.role) for grant in who.grants] == [("production", "member")]
    assert who.chain == ("Bot",)


def stop(world: World, sandbox: Sandbox) -> None:
    services.sandbox_stop(sandbox, reason="over", actor=SYSTEM)


def disable(world: World, sandbox: Sandbox) -> None:
    agents.agent_disable(world.agent, actor=world.admin)


def delete(world: World, sandbox: Sandbox) -> None:
    agents.agent_delete(world.agent, actor=world.admin)


def delete_team(world: World, sandbox: Sandbox) -> None:
    orgs.team_delete(world.team, actor=world.admin)


def close(world: World, sandbox: Sandbox) -> None:
    type(world.org).objects.update(closed_at=clock.now())


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (stop, "token_unknown"),
        (disable, "token_agent_disabled"),
        (delete, "token_agent_gone"),
        (delete_team, "token_team_gone"),
        (close, "token_organization_closed"),
    ],
)
def test_it_ends_with_what_it_speaks_for(
    world: World, sandbox: Sandbox, end: Callable[[World, Sandbox], None], code: str
) -> None:
    authenticate(TOKEN)
    end(world, sandbox)
    with pytest.raises(Unauthenticated) as caught:
        authenticate(TOKEN)
    assert caught.value.error_code == code


@pytest.mark.django_db(transaction=True)
def test_a_stopped_sandbox_is_forgotten_at_once(world: World, sandbox: Sandbox) -> None:
    """Outside a transaction, where who was here before is answered from memory."""
    authenticate(TOKEN)
    stop(world, sandbox)
    with pytest.raises(Unauthenticated):
        authenticate(TOKEN)


def test_a_row_without_a_token_is_nobodys(world: World, sandbox: Sandbox) -> None:
    Sandbox.objects.update(token_hash="")
    with pytest.raises(Unauthenticated):
        authenticate(TOKEN)
