"""An operator's look into one organization: asked for, bounded, read-only, seen by everybody."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib import admin
from django.core import mail
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.test import Client

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Conflict, Denied, Invalid, NotFound
from apps.orgs import services
from apps.orgs.models import BreakGlass, Membership, Organization, Team
from apps.orgs.services.break_glass import break_glass_open, operator_of
from apps.orgs.services.setup import OPERATOR
from tests import factories
from tests.apps.admin_support import browser, registered, url

if TYPE_CHECKING:
    from pytest_django import Settings

    from tests.factories import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]
REASON = "Support case 4711: runs are stuck."


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def globex() -> World:
    return factories.globex()


def ask(world: World, minutes: int = 30) -> str:
    world.org.refresh_from_db()
    return services.break_glass_request(
        world.org, reason=REASON, minutes=minutes, requested_by="root", actor=OPERATOR
    ).token


def enter(token: str) -> Client:
    cache.clear()
    client = Client()
    response = client.post("/operator/open/", {"token": f"http://testserver/operator/#{token}"})
    assert response.status_code == 302, response.content
    return client


def views(world: World) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(org=world.org, action="break_glass.view").order_by("at"))


def test_the_operator_reads_what_an_auditor_reads(acme: World, globex: World) -> None:
    client = enter(ask(acme))
    for model_admin in registered():
        assert client.get(url(model_admin.model, "changelist")).status_code in (200, 302)
    assert client.get(url(Team, "change", acme.team.pk)).status_code == 200
    for model, row in ((Team, globex.team), (Organization, globex.org)):
        assert client.get(url(model, "change", row.pk)).status_code == 404
    assert (
        factories.SECRET_VALUE
        not in client.get(url(type(acme.credential), "change", acme.credential.pk)).content.decode()
    )


def test_each_page_view_is_an_event_of_the_organization(acme: World, globex: World) -> None:
    client = enter(ask(acme))
    paths = ["/", url(Team, "changelist") + "?q=x", url(Team, "change", globex.team.pk)]
    for path in paths:
        client.get(path)
    seen = views(acme)
    assert [event.metadata["path"] for event in seen] == paths
    assert [event.status for event in seen] == [200, 200, 404]
    assert {(e.principal_kind, e.principal_name, e.reason) for e in seen} == {
        ("operator", "operator root", REASON)
    }
    assert not views(globex)


def test_an_authorization_code_is_not_in_the_trail(acme: World) -> None:
    enter(ask(acme)).get("/oidc/callback/?code=secret-code&state=x")
    assert [event.metadata["path"] for event in views(acme)] == ["/oidc/callback/"]


def test_nothing_can_be_changed(acme: World) -> None:
    client = enter(ask(acme))
    for model_admin in registered():
        for path in (url(model_admin.model, "add"), url(model_admin.model, "changelist")):
            assert client.post(path, {"action": "delete_selected"}).status_code == 405
    page = url(Team, "change", acme.team.pk)
    for method in (client.post, client.put, client.patch, client.delete):
        assert method(page).status_code == 405
    assert client.get(url(Team, "add")).status_code == 403
    assert client.get(url(Team, "delete", acme.team.pk)).status_code == 403
    denied = [event for event in views(acme) if event.result == "denied"]
    assert len(denied) > 5


def test_services_refuse_the_operator_too(acme: World) -> None:
    actor = operator_of(break_glass_open(ask(acme)))
    with pytest.raises(Denied):
        services.team_create(acme.org, slug="x", name="x", actor=actor)
    with pytest.raises(NotFound):
        services.team_create(factories.globex().org, slug="x", name="x", actor=actor)


def test_a_link_works_once(acme: World) -> None:
    token = ask(acme)
    enter(token)
    cache.clear()
    assert Client().post("/operator/open/", {"token": token}).status_code == 403


def test_it_ends_by_the_clock(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = enter(ask(acme, minutes=10))
    later = clock.now() + dt.timedelta(minutes=10, seconds=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert client.get("/").headers["Location"].startswith("/login/")


def test_a_link_that_nobody_used_ends(acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = ask(acme)
    later = clock.now() + dt.timedelta(minutes=15, seconds=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    with pytest.raises(Denied, match="not valid"):
        break_glass_open(token)


@pytest.mark.parametrize("way", ["/operator/end/", "/logout/"])
def test_the_operator_ends_it(acme: World, way: str) -> None:
    client = enter(ask(acme))
    assert client.post(way).status_code == 302
    assert client.get("/").headers["Location"].startswith("/login/")
    assert BreakGlass.objects.get().ended_at is not None


def test_an_admin_ends_it(acme: World) -> None:
    client = enter(ask(acme))
    row = BreakGlass.objects.get()
    page = browser(acme.admin).post(url(BreakGlass, "end", row.pk), follow=True)
    assert page.status_code == 200
    assert client.get("/").headers["Location"].startswith("/login/")


def test_every_page_of_the_organization_says_so(acme: World, globex: World) -> None:
    said = "An operator (root)"
    pages = ["/", url(Team, "changelist"), url(Team, "change", acme.team.pk), url(Team, "add")]
    people = [browser(acme.admin), browser(acme.member), browser(globex.admin)]
    assert said not in people[0].get("/").content.decode()
    enter(ask(acme))
    for page in pages:
        text = people[0].get(page).content.decode()
        assert said in text, page
        assert "Support case 4711" in text, page
    assert said in people[1].get("/").content.decode()
    assert said not in people[2].get("/").content.decode()


def test_the_operator_is_told_who_looks(acme: World) -> None:
    text = enter(ask(acme)).get("/").content.decode()
    assert "You look into Acme Corp as an operator, read-only" in text
    assert 'action="/operator/end/"' in text


class TestConsent:
    """An organization that wants to be asked first."""

    @pytest.fixture(autouse=True)
    def wanted(self, acme: World) -> None:
        services.organization_update(acme.org, break_glass_consent=True, actor=acme.admin)

    def test_it_waits_for_an_admin(self, acme: World) -> None:
        token = ask(acme)
        with pytest.raises(Denied, match="has not answered yet") as refused:
            break_glass_open(token)
        assert refused.value.error_code == "break_glass_waits"
        row = BreakGlass.objects.get()
        client = browser(acme.admin)
        assert "asks for your approval" in client.get("/").content.decode()
        client.post(url(BreakGlass, "approve", row.pk))
        assert enter(token).get("/").status_code == 200
        event = AuditEvent.objects.get(action="break_glass.approve")
        assert event.principal_name == acme.admin.name

    def test_a_refusal_is_final(self, acme: World) -> None:
        token = ask(acme)
        row = BreakGlass.objects.get()
        client = browser(acme.admin)
        client.post(url(BreakGlass, "refuse", row.pk))
        with pytest.raises(Denied, match="not valid"):
            break_glass_open(token)
        assert client.post(url(BreakGlass, "approve", row.pk)).status_code == 403
        with pytest.raises(Conflict, match="does not wait for an answer"):
            services.break_glass_approve(row, actor=acme.admin)

    def test_only_an_admin_answers(self, acme: World, globex: World) -> None:
        ask(acme)
        row = BreakGlass.objects.get()
        for actor, error in ((acme.auditor, Denied), (acme.member, NotFound)):
            with pytest.raises(error):
                services.break_glass_approve(row, actor=actor)
        with pytest.raises(NotFound):
            services.break_glass_approve(row, actor=globex.admin)

    def test_an_operator_who_is_inside_approves_nothing(self, acme: World) -> None:
        ask(acme)
        waiting = BreakGlass.objects.get()
        with pytest.raises(Denied):
            services.break_glass_approve(waiting, actor=operator_of(waiting))

    def test_a_request_that_is_too_old(self, acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
        token = ask(acme)
        later = clock.now() + dt.timedelta(hours=25)
        monkeypatch.setattr(clock, "now", lambda: later)
        with pytest.raises(Denied, match="not valid"):
            break_glass_open(token)


def command(capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[str, str]:
    given = {"org": "acme", "reason": REASON, **options}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    call_command("break_glass", *words)
    said = capsys.readouterr()
    return said.out.strip(), said.err


def test_the_command_prints_a_link(acme: World, capsys: pytest.CaptureFixture[str]) -> None:
    link, notes = command(capsys, minutes=60)
    assert "/operator/#lnso_" in link
    assert "were not mailed" in notes
    assert enter(link.partition("#")[2]).get("/").status_code == 200
    assert BreakGlass.objects.get().minutes == 60


def test_the_command_works_for_a_user_without_a_name(
    acme: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by root without a data folder's owner, we run as a user of no name."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    command(capsys, minutes=60)
    assert BreakGlass.objects.get().requested_by == f"user {os.getuid()}"


def test_the_admins_are_mailed(
    acme: World, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    settings.MAIL_ENABLED = True
    link, notes = command(capsys)
    assert "were told by e-mail" in notes
    assert [one.to for one in mail.outbox] == [[acme.admin.name]]
    assert REASON in mail.outbox[0].body
    assert link.partition("#")[2] not in mail.outbox[0].body


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"org": "nobody"}, "no organization"),
        ({"reason": "because"}, "Say why"),
        ({"minutes": 61}, "1 to 60"),
        ({"minutes": 0}, "1 to 60"),
    ],
)
def test_the_command_refuses(
    acme: World, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        command(capsys, **options)
    assert not BreakGlass.objects.exists()


def test_nobody_of_the_organization_makes_one(acme: World) -> None:
    with pytest.raises(Denied):
        services.break_glass_request(
            acme.org, reason=REASON, minutes=5, requested_by="x", actor=acme.admin
        )
    with pytest.raises(Invalid):
        services.break_glass_request(
            acme.org, reason="short", minutes=5, requested_by="x", actor=OPERATOR
        )


def test_the_database_bounds_it_too(acme: World) -> None:
    ask(acme)
    row = BreakGlass.objects.get()
    row.minutes = 61
    with pytest.raises(IntegrityError):
        row.save()


def test_operators_of_the_installation_see_no_organization(acme: World, globex: World) -> None:
    """The flag on a person opens nothing: without break-glass an operator is nobody here."""
    user = Membership.objects.get(user_id=globex.admin.id).user
    user.is_operator = True
    user.save()
    client = browser(globex.admin)
    assert client.get(url(Team, "change", acme.team.pk)).status_code == 404
    assert admin.site.is_registered(BreakGlass)
