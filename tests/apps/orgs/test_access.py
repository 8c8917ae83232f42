"""Who may do what: every verb, every role, and a stranger in each."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import apps
from apps.agents.selectors import agents_visible, tokens_visible
from apps.audit.models import AuditEvent
from apps.common.errors import Denied, NotFound
from apps.connections.selectors import credentials_visible
from apps.orgs import selectors
from apps.orgs.access import ROLES, VERBS, can, can_somewhere, require
from apps.orgs.models import Membership, Project
from apps.orgs.types import SYSTEM, Actor, PrincipalKind
from apps.policies.selectors import policies_visible
from lensagents.management.commands import access_table
from tests import factories
from tests.spooled import spooled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]

# Each person of a `World` has exactly these on its team `sre` and project `production`.
HELD = {
    "admin": {"admin"},
    "auditor": {"auditor"},
    "member": {"member", "project_member", "team_member"},
    "project_admin": {"member", "project_admin"},
    "outsider": {"member"},
}


@pytest.fixture
def acme() -> World:
    return factories.acme()


def row_of(noun: str, world: World) -> Any:
    """A row of the noun that belongs to the team `sre` and the project `production`."""
    rows: dict[str, Callable[[], Any]] = {
        "organization": lambda: world.org,
        "membership": lambda: Membership.objects.filter(org=world.org).first(),
        "team": lambda: world.team,
        "project": lambda: world.project,
        "grant": lambda: world.grant,
        "credential": lambda: world.credential,
        "policy": lambda: world.policy,
        "agent": lambda: world.agent,
        "token": lambda: world.minted.token,
        "audit": lambda: AuditEvent.objects.filter(org=world.org).first(),
    }
    return rows.get(noun, lambda: world.org)()


def counting(noun: str, held: set[str]) -> set[str]:
    """The held roles that count for the noun's row: it has a project, a team, both or none."""
    project = {"project", "grant", "credential"}
    team = {"team", "grant", "policy", "agent"}
    out = set() if noun in project else {"project_admin", "project_member"}
    return held - out - (set() if noun in team else {"team_member"})


@pytest.mark.parametrize("verb", VERBS)
def test_the_table_is_what_is_decided(verb: str, acme: World) -> None:
    noun = verb.partition(".")[0]
    row = row_of(noun, acme)
    for person, held in HELD.items():
        access = can(getattr(acme, person), verb, row)
        counted = counting(noun, held)
        assert access.allowed == bool(counted & VERBS[verb]), (person, verb)
        assert access.visible == (access.allowed or bool(counted & VERBS[f"{noun}.view"]))
        assert access.reason.endswith(".")


@pytest.mark.parametrize("verb", VERBS)
def test_a_stranger_sees_what_nobody_sees(verb: str, acme: World) -> None:
    """Absent and not yours are one answer, for a stranger in any role."""
    row = row_of(verb.partition(".")[0], acme)
    nothing = can(acme.admin, verb, None)
    assert (nothing.allowed, nothing.visible) == (False, False)
    stranger = factories.globex()
    for person in HELD:
        assert can(getattr(stranger, person), verb, row) == nothing


def test_nobody_and_unknown_verbs_are_refused(acme: World) -> None:
    assert can(None, "team.view", acme.team) == can(acme.admin, "team.view", None)
    assert not can(acme.admin, "team.explode", acme.team).allowed
    assert not can(SYSTEM, "team.explode", acme.team).allowed
    assert not can(acme.admin, "", acme.team).allowed


def test_an_actor_without_organization_is_a_stranger_everywhere(acme: World) -> None:
    nowhere = dataclasses.replace(acme.admin, org_id=None)
    assert not can(nowhere, "team.view", acme.team).visible
    # A row without an organization (a platform event) belongs to nobody, not to them.
    assert not can(nowhere, "audit.view", AuditEvent(org=None)).allowed


def test_a_role_that_the_table_does_not_know_carries_nothing(acme: World) -> None:
    odd = dataclasses.replace(acme.admin, role="superuser")
    assert not can(odd, "organization.view", acme.org).allowed


def test_roles_of_another_project_do_not_count(acme: World) -> None:
    assert can(acme.project_admin, "project.update", acme.project).allowed
    assert can(acme.project_admin, "project.update", acme.other_project).visible is False
    assert not can(acme.project_admin, "credential.create", acme.other_project).allowed
    # A credential without a project is the organization's own.
    assert not can(acme.project_admin, "credential.create", acme.org).allowed


def test_the_platform_itself_passes(acme: World) -> None:
    assert all(can(SYSTEM, verb, row_of(verb.partition(".")[0], acme)).allowed for verb in VERBS)


def test_no_token_holds_a_role_here(acme: World) -> None:
    """An agent's identity dressed up as an actor has no organization role, hence nothing."""
    agent = Actor(PrincipalKind.AGENT, str(acme.agent.pk), "Bot", acme.org.pk)
    assert not any(can(agent, verb, row_of(verb.partition(".")[0], acme)).visible for verb in VERBS)


def test_somewhere_is_for_menus(acme: World) -> None:
    assert can_somewhere(acme.project_admin, "credential.create", acme.org).allowed
    assert not can_somewhere(acme.member, "credential.create", acme.org).allowed
    assert can_somewhere(acme.member, "team.view", acme.org).allowed
    assert not can_somewhere(acme.outsider, "team.view", acme.org).allowed
    assert not can_somewhere(factories.globex().admin, "team.view", acme.org).visible
    assert not can_somewhere(None, "team.view", acme.org).allowed


class TestRequire:
    """The refusal as an error, and in the trail."""

    def test_what_is_seen_is_denied_with_who_may(self, acme: World, tmp_path: Path) -> None:
        with spooled(tmp_path) as events, pytest.raises(Denied) as refused:
            require(acme.auditor, "team.update", acme.team)
        assert refused.value.message == "Only an organization admin may do this (team.update)."
        (event,) = events
        assert event["principal_id"] == acme.auditor.id
        assert event["metadata"]["verb"] == "team.update"
        assert (event["resource_type"], event["resource_id"]) == ("team", str(acme.team.pk))

    @pytest.mark.parametrize("person", ["outsider", "stranger"])
    def test_what_is_not_seen_is_not_found(self, person: str, acme: World, tmp_path: Path) -> None:
        actor = factories.globex().admin if person == "stranger" else acme.outsider
        with spooled(tmp_path) as events, pytest.raises(NotFound) as refused:
            require(actor, "team.update", acme.team)
        assert refused.value.message == "Not found."
        assert refused.value.data == {}
        assert len(events) == 1

    def test_an_allowed_request_leaves_no_refusal(self, acme: World, tmp_path: Path) -> None:
        with spooled(tmp_path) as events:
            require(acme.admin, "team.update", acme.team)
        assert events == []


LISTS = {
    "team": selectors.teams_visible,
    "project": selectors.projects_visible,
    "membership": selectors.memberships_visible,
    "grant": selectors.grants_visible,
    "organization": selectors.organizations_visible,
    "credential": credentials_visible,
    "policy": policies_visible,
    "agent": agents_visible,
    "token": tokens_visible,
}


def test_every_visible_list_is_compared_with_the_table() -> None:
    found = {
        name
        for info in pkgutil.walk_packages(apps.__path__, "apps.")
        if info.name.count(".") == 2 and info.name.endswith(".selectors")
        for name, _ in inspect.getmembers(importlib.import_module(info.name), inspect.isfunction)
        if name.endswith("_visible")
    }
    assert found == {selector.__name__ for selector in LISTS.values()}


@pytest.mark.parametrize("noun", LISTS)
def test_lists_show_exactly_what_may_be_viewed(noun: str, acme: World) -> None:
    """The query and the table agree on every row, of our organization and of the stranger's."""
    stranger = factories.globex()
    everyone = [getattr(world, person) for world in (acme, stranger) for person in HELD]
    every_row = type(row_of(noun, acme))._default_manager.all()
    assert every_row.count() >= 2
    for actor in everyone:
        listed = set(LISTS[noun](actor).values_list("pk", flat=True))
        allowed = {row.pk for row in every_row if can(actor, f"{noun}.view", row).allowed}
        assert listed == allowed, actor.name


@pytest.mark.parametrize("noun", LISTS)
def test_nobody_sees_nothing(noun: str, acme: World) -> None:
    assert not LISTS[noun](None).exists()
    assert not LISTS[noun](SYSTEM).exists()
    unborn = Actor(PrincipalKind.USER, "x", "x", uuid.uuid4(), role="admin")
    assert not LISTS[noun](unborn).exists()


def test_deleted_teams_and_projects_are_not_listed(acme: World) -> None:
    from apps.orgs import services  # noqa: PLC0415  used here alone

    services.team_delete(acme.other_team, actor=acme.admin)
    services.project_delete(acme.other_project, actor=acme.admin)
    assert list(selectors.teams_visible(acme.admin)) == [acme.team]
    assert list(selectors.projects_visible(acme.admin)) == [acme.project]


class TestActorFor:
    """A person as an actor."""

    def test_it_has_roles_of_its_own_organization_only(self, acme: World) -> None:
        stranger = factories.globex()
        user = Membership.objects.get(org=acme.org, role="auditor").user
        assert selectors.actor_for(user, stranger.org) is None
        Membership.objects.create(org=stranger.org, user=user, role="member", manual_role="member")
        there = selectors.actor_for(user, stranger.org)
        assert there is not None
        assert (there.org_id, there.role, there.team_ids) == (stranger.org.pk, "member", ())

    def test_who_is_inactive_is_nobody(self, acme: World) -> None:
        user = Membership.objects.get(org=acme.org, role="admin").user
        user.is_active = False
        user.save()
        assert selectors.actor_for(user, acme.org) is None

    def test_a_closed_organization_has_no_actors(self, acme: World) -> None:
        user = Membership.objects.get(org=acme.org, role="admin").user
        acme.org.closed_at = acme.org.created_at
        acme.org.save()
        assert selectors.actor_for(user, acme.org) is None

    def test_a_deleted_team_gives_nothing(self, acme: World) -> None:
        from apps.orgs import services  # noqa: PLC0415  used here alone

        user = Membership.objects.get(org=acme.org, user=uuid.UUID(acme.project_admin.id)).user
        services.team_delete(acme.other_team, actor=acme.admin)
        actor = selectors.actor_for(user, acme.org)
        assert actor is not None
        assert (actor.project_roles, actor.team_ids) == ((), ())

    def test_both_roles_of_two_teams_are_held(self, acme: World) -> None:
        both = factories.person(acme.org, "both", teams=[acme.team, acme.other_team])
        assert set(both.project_roles) == {
            (acme.project.pk, "admin"),
            (acme.project.pk, "member"),
        }
        assert Project.objects.filter(pk__in=selectors.projects_of(both, "admin")).count() == 1


def test_the_documented_table_is_fresh() -> None:
    page = access_table.PAGE.read_text()
    assert access_table.filled(page) == page, "run `manage.py access_table --write`"


def test_every_role_and_code_is_documented() -> None:
    page = access_table.PAGE.read_text()
    assert all(f"| `{role}` |" in page for role in ROLES)
