"""People, teams, projects and grants through the admin's forms."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from apps.audit.models import AuditEvent
from apps.orgs import services
from apps.orgs.models import (
    Identity,
    IdentityProvider,
    Membership,
    Organization,
    Project,
    ProjectGrant,
    Team,
    User,
)
from tests import factories
from tests.apps.admin_support import browser, errors, form_data, url

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def globex() -> World:
    return factories.globex()


def test_a_team_is_created_with_one_event(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "add")
    data = form_data(client.get(page)) | {"name": "Backend", "slug": "backend"}
    assert client.post(page, data).status_code == 302
    team = Team.objects.get(org=acme.org, slug="backend")
    events = AuditEvent.objects.filter(resource_id=str(team.pk))
    assert [(event.action, event.principal_name) for event in events] == [
        ("team.create", acme.admin.name)
    ]


@pytest.mark.parametrize("slug", ["SRE", "a_b", "-a", "ä", ""])
def test_a_bad_slug_is_an_error_at_its_field(acme: World, slug: str) -> None:
    client = browser(acme.admin)
    page = url(Team, "add")
    response = client.post(page, form_data(client.get(page)) | {"name": "X", "slug": slug})
    assert response.status_code == 200
    assert "slug" in errors(response)
    assert Team.objects.filter(org=acme.org).count() == 2


def test_a_taken_slug_is_refused_by_the_service_and_shown(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "add")
    response = client.post(page, form_data(client.get(page)) | {"name": "X", "slug": "sre"})
    assert response.status_code == 200
    assert "exists" in str(errors(response))


def test_a_saved_slug_ignores_what_is_posted(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "change", acme.team.pk)
    data = form_data(client.get(page)) | {"slug": "other", "name": "Site reliability"}
    assert client.post(page, data).status_code == 302
    acme.team.refresh_from_db()
    assert (acme.team.slug, acme.team.name) == ("sre", "Site reliability")
    event = AuditEvent.objects.get(action="team.update")
    assert event.metadata["changes"] == {"name": ["SRE", "Site reliability"]}


def test_saving_without_a_change_leaves_no_event(acme: World) -> None:
    client = browser(acme.admin)
    before = AuditEvent.objects.count()
    for row in (acme.team, acme.project, acme.org, acme.grant):
        page = url(type(row), "change", row.pk)
        assert client.post(page, form_data(client.get(page))).status_code == 302
    assert AuditEvent.objects.count() == before


def test_grants_of_a_team_are_edited_in_place(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "change", acme.team.pk)
    data = form_data(client.get(page))
    data |= {"grants-0-role": "admin", "grants-TOTAL_FORMS": "2"}
    data |= {"grants-1-project": str(acme.other_project.pk), "grants-1-role": "member"}
    assert client.post(page, data).status_code == 302
    assert set(acme.team.grants.values_list("project__slug", "role")) == {
        ("production", "admin"),
        ("staging", "member"),
    }
    data = form_data(client.get(page)) | {"grants-0-DELETE": "on"}
    assert client.post(page, data).status_code == 302
    assert acme.team.grants.count() == 1


def test_members_of_a_team_are_edited_in_place(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "change", acme.team.pk)
    outsider = Membership.objects.get(user_id=acme.outsider.id)
    data = form_data(client.get(page))
    data |= {"team_memberships-TOTAL_FORMS": "2", "team_memberships-1-membership": outsider.pk}
    data |= {"team_memberships-0-DELETE": "on"}
    assert client.post(page, data).status_code == 302
    assert [row.membership for row in acme.team.team_memberships.all()] == [outsider]
    assert AuditEvent.objects.filter(action="membership.update").count() >= 2


def test_ids_of_another_organization_are_no_choices(acme: World, globex: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "change", acme.team.pk)
    data = form_data(client.get(page)) | {"grants-TOTAL_FORMS": "2", "grants-1-role": "admin"}
    response = client.post(page, data | {"grants-1-project": str(globex.project.pk)})
    assert response.status_code == 200
    page = url(ProjectGrant, "add")
    data = {"team": str(globex.team.pk), "project": str(globex.project.pk), "role": "admin"}
    assert set(errors(client.post(page, data))) == {"team", "project"}
    member = Membership.objects.get(user_id=acme.member.id)
    page = url(Membership, "change", member.pk)
    data = form_data(client.get(page)) | {"member_of": [str(globex.team.pk)]}
    assert "member_of" in errors(client.post(page, data))
    assert not ProjectGrant.objects.filter(project=globex.project, team=acme.team).exists()


def test_inline_rows_of_another_organization_cannot_be_changed(acme: World, globex: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "change", acme.team.pk)
    data = form_data(client.get(page))
    data |= {"grants-0-id": str(globex.grant.pk), "grants-0-role": "admin"}
    assert client.post(page, data).status_code == 200
    globex.grant.refresh_from_db()
    assert globex.grant.role == "member"


def test_a_person_is_invited_with_teams(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Membership, "add")
    data = form_data(client.get(page))
    data |= {"email": "New@acme.example", "name": "New", "role": "auditor"}
    assert client.post(page, data | {"member_of": [str(acme.team.pk)]}).status_code == 302
    row = Membership.objects.get(user__email="new@acme.example")
    assert (row.role, list(row.teams.all())) == ("auditor", [acme.team])
    assert "already a member" in str(errors(client.post(page, data)))


def test_the_last_admin_stays_admin(acme: World) -> None:
    client = browser(acme.admin)
    row = Membership.objects.get(user_id=acme.admin.id)
    page = url(Membership, "change", row.pk)
    response = client.post(page, form_data(client.get(page)) | {"role": "member"})
    assert "last admin" in str(errors(response))
    assert (
        "last admin"
        in client.post(
            url(Membership, "delete", row.pk), {"post": "yes"}, follow=True
        ).content.decode()
    )
    row.refresh_from_db()
    assert row.role == "admin"


def test_what_fails_late_leaves_nothing_behind(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "change", acme.team.pk)
    data = form_data(client.get(page)) | {"name": "Renamed", "grants-TOTAL_FORMS": "2"}
    data |= {"grants-1-project": str(acme.project.pk), "grants-1-role": "nonsense"}
    assert client.post(page, data).status_code == 200
    acme.team.refresh_from_db()
    assert acme.team.name == "SRE"
    assert not AuditEvent.objects.filter(action="team.update").exists()


def test_deleting_a_team_says_what_else_happens(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Team, "delete", acme.team.pk)
    assert "1 agent is refused" in client.get(page).content.decode()
    assert client.post(page, {"post": "yes"}).status_code == 302
    acme.team.refresh_from_db()
    assert acme.team.deleted_at is not None
    assert client.get(url(Team, "change", acme.team.pk)).status_code == 404


def test_projects_and_the_organization_are_edited(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Project, "add")
    data = form_data(client.get(page)) | {"name": "Shop", "slug": "shop"}
    assert client.post(page, data).status_code == 302
    page = url(Organization, "change", acme.org.pk)
    data = form_data(client.get(page)) | {"name": "Acme", "time_zone": "Europe/Helsinki"}
    assert client.post(page, data).status_code == 302
    acme.org.refresh_from_db()
    assert (acme.org.name, acme.org.time_zone) == ("Acme", "Europe/Helsinki")
    assert client.get(url(Organization, "changelist"))["Location"] == page
    for view in (url(Organization, "add"), url(Organization, "delete", acme.org.pk)):
        assert client.get(view).status_code == 403


def test_deleting_several_asks_once_and_says_what_happens(acme: World) -> None:
    client = browser(acme.admin)
    ids = [str(acme.team.pk), str(acme.other_team.pk)]
    data = {"action": "delete_selected", "_selected_action": ids}
    text = client.post(url(Team, "changelist"), data).content.decode()
    assert "1 agent is refused" in text
    assert all(row in text for row in ids)
    assert Team.objects.filter(pk__in=ids, deleted_at=None).count() == 2
    client.post(url(Team, "changelist"), data | {"post": "yes"})
    assert not Team.objects.filter(pk__in=ids, deleted_at=None).exists()


def test_the_history_says_what_changed(acme: World) -> None:
    client = browser(acme.admin)
    row = Membership.objects.get(user_id=acme.member.id)
    page = url(Membership, "change", row.pk)
    client.post(page, form_data(client.get(page)) | {"member_of": [str(acme.other_team.pk)]})
    text = client.get(url(Membership, "history", row.pk)).content.decode()
    assert "- sre" in text
    assert "+ leads" in text


def test_a_sign_in_elsewhere_is_not_seen_here(acme: World, globex: World) -> None:
    """Globex adds a person of Acme: when that person comes to work there stays Acme's."""
    row = services.user_invite(
        globex.org, email=User.objects.get(pk=acme.admin.id).email, actor=globex.admin
    )
    client = browser(globex.admin)
    when = dt.datetime(2031, 5, 17, 13, 47, tzinfo=dt.UTC)
    browser(acme.admin)
    idps = {idp.org_id: idp for idp in IdentityProvider.objects.all()}
    theirs = Identity(org=acme.org, idp=idps[acme.org.pk], user=row.user, subject="a")
    theirs.last_login_at = when
    theirs.save()
    pages = [url(Membership, "changelist"), url(Membership, "change", row.pk)]
    for page in pages:
        text = client.get(page).content.decode()
        assert row.user.email in text
        assert "2031" not in text
    Identity.objects.create(
        org=globex.org,
        idp=idps[globex.org.pk],
        user=row.user,
        subject="a",
        last_login_at=when,
    )
    for page in pages:
        assert "2031" in client.get(page).content.decode()
