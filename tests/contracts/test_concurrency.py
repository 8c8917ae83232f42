"""Services that run at the same time wait for each other in one order: none is a victim."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.db import connection

from apps.agents import services as agents
from apps.audit.models import AuditEvent
from apps.common.errors import Conflict, LensError
from apps.connections import services as connections
from apps.orgs import services as orgs
from apps.orgs.models import Membership
from apps.orgs.revision import read_seq
from apps.policies.documents import PolicyDocument, document_of
from apps.policies.models import Policy
from apps.policies.services import policy_save
from tests import factories
from tests.tenancy import everywhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.factories import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

ROUNDS = 6


@pytest.fixture
def acme() -> World:
    return factories.acme()


def together(*works: Callable[[int], Any], rounds: int = ROUNDS) -> list[BaseException]:
    """Each work in a thread of its own, `rounds` times; what was raised but errors of ours."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[int], Any]) -> None:
        try:
            start.wait(timeout=30)
            with everywhere():
                for number in range(rounds):
                    _tolerant(work, number)
        except BaseException as error:  # noqa: BLE001  to be looked at by the test
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    return failures


def _tolerant(work: Callable[[int], Any], number: int) -> None:
    """A refusal is an answer; a deadlock or a timeout of the database is not."""
    try:
        work(number)
    except LensError as refusal:
        assert refusal.status in (400, 404, 409)  # noqa: PT017  the database's errors pass


def test_changes_of_everything_at_once(acme: World) -> None:
    member = Membership.objects.get(org=acme.org, user=UUID(acme.member.id))
    numbers = count()

    def save_policy(_: int) -> None:
        policy = Policy.objects.get(pk=acme.policy.pk)
        document = replace(document_of(policy), description=f"Text {next(numbers)}")
        policy_save(acme.org, document=document, policy=policy, actor=acme.admin)

    failures = together(
        lambda n: orgs.organization_update(acme.org, name=f"Acme {n}", actor=acme.admin),
        lambda n: orgs.team_update(acme.team, name=f"SRE {n}", actor=acme.admin),
        lambda n: orgs.membership_update(
            member, teams=[acme.team] if n % 2 else [], actor=acme.admin
        ),
        lambda n: connections.credential_update(
            acme.credential, value=f"value-{n}", actor=acme.admin
        ),
        lambda n: agents.token_create(acme.agent, name=f"Token {n}", actor=acme.admin),
        save_policy,
    )
    assert failures == []


def test_a_thing_that_goes_while_another_points_to_it(acme: World) -> None:
    """Each pair once: who comes second is told, and nothing points to what is gone."""
    agent_policy = PolicyDocument(name="Bot", kind="agent", agent=acme.agent)
    spare = connections.credential_create(
        acme.org,
        slug="spare",
        name="Spare",
        value="secret",
        allowed_hosts=["api.github.com"],
        allowed_teams=[acme.team],
        actor=acme.admin,
    )
    policy = Policy.objects.get(pk=acme.policy.pk)
    document = document_of(policy)
    bound = replace(document, bindings=(replace(document.bindings[0], credential=spare),))
    failures = together(
        lambda _: agents.agent_delete(acme.agent, actor=acme.admin),
        lambda _: policy_save(acme.org, document=agent_policy, actor=acme.admin),
        lambda _: connections.credential_delete(spare, actor=acme.admin),
        lambda _: policy_save(acme.org, document=bound, policy=policy, actor=acme.admin),
        lambda _: orgs.project_delete(acme.other_project, actor=acme.admin),
        lambda _: orgs.grant_set(acme.other_team, acme.other_project, actor=acme.admin),
        rounds=1,
    )
    assert failures == []


def test_two_admins_who_demote_each_other_leave_one(acme: World) -> None:
    second = orgs.user_invite(acme.org, email="b@acme.example", role="admin", actor=acme.admin)
    first = Membership.objects.get(org=acme.org, user=UUID(acme.admin.id))
    failures = together(
        lambda _: orgs.membership_update(first, role="member", actor=acme.admin),
        lambda _: orgs.membership_remove(second, actor=acme.admin),
        rounds=1,
    )
    assert failures == []
    assert Membership.objects.filter(org=acme.org, role="admin").count() == 1


def test_of_two_who_take_a_name_one_gets_it(acme: World) -> None:
    refused: list[Conflict] = []

    def create(_: int) -> None:
        try:
            orgs.team_create(acme.org, slug="new", name="New", actor=acme.admin)
        except Conflict as conflict:
            refused.append(conflict)

    events, seq = AuditEvent.objects.count(), read_seq()
    assert together(create, create, create, rounds=1) == []
    assert [str(conflict) for conflict in refused] == [
        "A team with the slug “new” exists. Choose another slug."
    ] * 2
    assert (AuditEvent.objects.count(), read_seq()) == (events + 1, seq + 1)
