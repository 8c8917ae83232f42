"""Organizations, teams, projects, people and grants: bad input, races and what is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.db import IntegrityError, transaction

from apps.agents.models import Agent
from apps.audit.models import AuditEvent
from apps.common.errors import Conflict, Denied, Invalid, NotFound
from apps.orgs import services
from apps.orgs.models import Membership, Organization, Project, ProjectGrant, Team, User
from apps.orgs.revision import read_seq
from apps.orgs.types import SYSTEM
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.orgs.types import Actor
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def membership(world: World, person: str) -> Membership:
    return Membership.objects.get(org=world.org, user=UUID(getattr(world, person).id))


CREATES: dict[str, Callable[[World, str], object]] = {
    "organization": lambda _, slug: services.organization_create(slug=slug, name="X", actor=SYSTEM),
    "team": lambda w, slug: services.team_create(w.org, slug=slug, name="X", actor=w.admin),
    "project": lambda w, slug: services.project_create(w.org, slug=slug, name="X", actor=w.admin),
}


@pytest.mark.parametrize("noun", CREATES)
@pytest.mark.parametrize(
    "slug", ["Platform", "-a", "a-", "a b", "ä", "", "a" * 64, "a\n", "a/b", "A"], ids=repr
)
def test_a_slug_that_is_none_is_refused_with_the_field(noun: str, slug: str, acme: World) -> None:
    events = AuditEvent.objects.count()
    with pytest.raises(Invalid) as refused:
        CREATES[noun](acme, slug)
    assert refused.value.field == "slug"
    assert AuditEvent.objects.count() == events


def test_the_sentence_about_a_slug_says_what_would_be_right(acme: World) -> None:
    with pytest.raises(Invalid, match="Lower-case letters, digits and inner hyphens"):
        services.team_create(acme.org, slug="Platform", name="X", actor=acme.admin)


@pytest.mark.parametrize("noun", CREATES)
def test_a_slug_in_use_is_a_conflict_and_leaves_nothing(noun: str, acme: World) -> None:
    CREATES[noun](acme, "taken")
    events, seq = AuditEvent.objects.count(), read_seq()
    with pytest.raises(Conflict, match="Choose another slug"):
        CREATES[noun](acme, "taken")
    assert (AuditEvent.objects.count(), read_seq()) == (events, seq)


def test_two_organizations_use_the_same_slugs(acme: World) -> None:
    assert factories.globex().team.slug == acme.team.slug


def test_an_empty_name_is_refused(acme: World) -> None:
    with pytest.raises(Invalid) as refused:
        services.team_create(acme.org, slug="x", name="", actor=acme.admin)
    assert refused.value.field == "name"


def test_a_time_zone_must_exist(acme: World) -> None:
    with pytest.raises(Invalid) as refused:
        services.organization_update(acme.org, time_zone="Mars/Olympus", actor=acme.admin)
    assert refused.value.field == "time_zone"
    changed = services.organization_update(acme.org, time_zone="Asia/Tokyo", actor=acme.admin)
    assert changed.time_zone == "Asia/Tokyo"


LIMITS = [
    ("sandbox_idle_minutes", 1440, 30),
    ("sandbox_max_age_hours", 168, 12),
    ("sandboxes_per_principal", 1_000, 10),
    ("sandboxes_total", 10_000, 100),
]


@pytest.mark.parametrize(("name", "most", "default"), LIMITS)
def test_limits_of_sandboxes(name: str, most: int, default: int, acme: World) -> None:
    def limit(value: int, actor: Actor) -> int:
        given: dict[str, Any] = {name: value}
        changed = services.organization_update(acme.org, **given, actor=actor)
        return int(getattr(changed, name))

    for wrong in (0, -1, most + 1):
        with pytest.raises(Invalid) as refused:
            limit(wrong, acme.admin)
        assert refused.value.field == name
    assert [limit(value, acme.admin) for value in (1, most)] == [1, most]
    events = AuditEvent.objects.filter(action="organization.update").order_by("at")
    changes = [event.metadata["changes"] for event in events]
    assert changes == [{name: [default, 1]}, {name: [1, most]}]
    with pytest.raises(Denied):
        limit(2, acme.auditor)
    with pytest.raises(IntegrityError), transaction.atomic():
        Organization.objects.filter(pk=acme.org.pk).update(**{name: 0})


def test_nothing_changed_leaves_no_event_and_no_revision(acme: World) -> None:
    before = AuditEvent.objects.count(), read_seq()
    services.organization_update(acme.org, name=acme.org.name, actor=acme.admin)
    services.team_update(acme.team, name=acme.team.name, actor=acme.admin)
    services.project_update(acme.project, actor=acme.admin)
    services.grant_set(acme.team, acme.project, role="member", actor=acme.admin)
    services.membership_update(
        membership(acme, "member"), role="member", teams=[acme.team], actor=acme.admin
    )
    assert (AuditEvent.objects.count(), read_seq()) == before


def test_an_event_has_old_and_new(acme: World) -> None:
    services.team_update(acme.team, name="Site Reliability", actor=acme.admin)
    event = AuditEvent.objects.get(action="team.update")
    assert event.metadata["changes"] == {"name": ["SRE", "Site Reliability"]}
    assert (event.team_slug, event.principal_id) == ("sre", acme.admin.id)


def test_a_stale_row_in_hand_does_not_undo_a_change(acme: World) -> None:
    """Only what is given is written, over the row as it is now."""
    stale = Team.objects.get(pk=acme.team.pk)
    services.team_update(acme.team, name="New name", actor=acme.admin)
    services.team_update(stale, description="New text", actor=acme.admin)
    row = Team.objects.get(pk=acme.team.pk)
    assert (row.name, row.description) == ("New name", "New text")


class TestDeletedTeams:
    """They stay as rows, and nobody can do anything with them."""

    def test_twice_is_not_found(self, acme: World) -> None:
        services.team_delete(acme.team, actor=acme.admin)
        with pytest.raises(NotFound):
            services.team_delete(acme.team, actor=acme.admin)
        with pytest.raises(NotFound):
            services.team_update(acme.team, name="X", actor=acme.admin)
        with pytest.raises(NotFound):
            services.grant_set(acme.team, acme.other_project, actor=acme.admin)
        with pytest.raises(Invalid):
            services.membership_update(
                membership(acme, "outsider"), teams=[acme.team], actor=acme.admin
            )

    def test_agents_and_audit_keep_it(self, acme: World) -> None:
        services.team_delete(acme.team, actor=acme.admin)
        assert Agent.objects.get(pk=acme.agent.pk).team_id == acme.team.pk

    def test_its_slug_stays_taken(self, acme: World) -> None:
        services.team_delete(acme.team, actor=acme.admin)
        with pytest.raises(Conflict):
            services.team_create(acme.org, slug="sre", name="SRE", actor=acme.admin)


def test_a_grant_changes_its_role(acme: World) -> None:
    changed = services.grant_set(acme.team, acme.project, role="admin", actor=acme.admin)
    assert (changed.pk, changed.role) == (acme.grant.pk, "admin")
    event = AuditEvent.objects.get(action="grant.update")
    assert event.metadata["changes"] == {"role": ["member", "admin"]}
    assert (event.team_slug, event.project_slug) == ("sre", "production")
    with pytest.raises(Invalid) as refused:
        services.grant_set(acme.team, acme.project, role="owner", actor=acme.admin)
    assert refused.value.field == "role"


class TestProjects:
    """Deleting one ends its grants."""

    def test_its_grants_go_with_it(self, acme: World) -> None:
        services.project_delete(acme.project, actor=acme.admin)
        assert not ProjectGrant.objects.filter(project=acme.project).exists()
        event = AuditEvent.objects.get(action="project.delete")
        assert event.metadata["changes"]["granted_teams"] == [["leads", "sre"], []]
        with pytest.raises(NotFound):
            services.project_update(acme.project, name="X", actor=acme.admin)
        with pytest.raises(NotFound):
            services.grant_set(acme.team, acme.project, actor=acme.admin)

    def test_its_admin_edits_it_but_cannot_delete_or_grant(self, acme: World) -> None:
        from apps.common.errors import Denied  # noqa: PLC0415  used here alone

        services.project_update(acme.project, name="X", actor=acme.project_admin)
        with pytest.raises(Denied):
            services.project_delete(acme.project, actor=acme.project_admin)
        with pytest.raises(NotFound):
            services.grant_set(acme.team, acme.project, actor=acme.project_admin)
        assert Project.objects.get(pk=acme.project.pk).deleted_at is None


class TestPeople:
    """Invitations, roles and teams."""

    @pytest.mark.parametrize("email", ["", "nobody", "a@b", "a b@c.example", "x" * 300 + "@a.bc"])
    def test_an_address_must_be_one(self, email: str, acme: World) -> None:
        with pytest.raises(Invalid) as refused:
            services.user_invite(acme.org, email=email, actor=acme.admin)
        assert refused.value.field == "email"

    def test_a_role_must_be_one(self, acme: World) -> None:
        with pytest.raises(Invalid) as refused:
            services.user_invite(acme.org, email="a@b.example", role="root", actor=acme.admin)
        assert refused.value.field == "role"
        assert not User.objects.filter(email="a@b.example").exists()

    def test_a_person_of_two_organizations_is_one_person(self, acme: World) -> None:
        stranger = factories.globex()
        user = membership(acme, "member").user
        second = services.user_invite(
            stranger.org, email=user.email.upper(), name="Changed", actor=stranger.admin
        )
        assert second.user == user
        assert User.objects.get(pk=user.pk).name == user.name

    def test_twice_is_a_conflict(self, acme: World) -> None:
        with pytest.raises(Conflict, match="already a member"):
            services.user_invite(acme.org, email="MEMBER@acme.example", actor=acme.admin)

    def test_the_last_admin_stays(self, acme: World) -> None:
        last = membership(acme, "admin")
        for change in (
            lambda: services.membership_update(last, role="member", actor=acme.admin),
            lambda: services.membership_remove(last, actor=acme.admin),
        ):
            with pytest.raises(Conflict, match="last admin"):
                change()
        services.membership_update(membership(acme, "member"), role="admin", actor=acme.admin)
        services.membership_update(last, role="member", actor=acme.admin)

    def test_an_inactive_admin_does_not_count(self, acme: World) -> None:
        second = services.user_invite(
            acme.org, email="b@acme.example", role="admin", actor=acme.admin
        )
        User.objects.filter(pk=second.user.pk).update(is_active=False)
        with pytest.raises(Conflict):
            services.membership_remove(membership(acme, "admin"), actor=acme.admin)

    def test_removing_a_member_takes_its_teams(self, acme: World) -> None:
        services.membership_remove(membership(acme, "member"), actor=acme.admin)
        assert acme.team.memberships.count() == 0
        assert User.objects.filter(email="member@acme.example").exists()
