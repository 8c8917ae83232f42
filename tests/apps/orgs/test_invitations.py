"""Invitations: a link that works once, for one address, and makes nobody before it is accepted."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from django.core import mail
from django.core.cache import cache
from django.db import connection
from django.test import Client

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Conflict, Denied, Invalid
from apps.orgs import services
from apps.orgs.models import Identity, Invitation, Membership, User
from apps.orgs.services.invitations import invitation_mail, invitation_of
from apps.orgs.types import SYSTEM
from tests import factories
from tests.apps.admin_support import browser, form_data, url
from tests.apps.orgs.providers import Tenant, signed_in, tenant, twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_django import Settings

pytestmark = [pytest.mark.database, pytest.mark.django_db]
GUEST = "guest@people.test"


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    for running in twins(tmp_path, monkeypatch, "login.acme.test", "login.globex.test"):
        yield [tenant("acme", running[0]), tenant("globex", running[1])]


@pytest.fixture
def acme(tenants: list[Tenant]) -> Tenant:
    tenants[0].knows("guest-sub", GUEST)
    return tenants[0]


def invite(acme: Tenant, **more: Any) -> str:
    return services.invitation_create(acme.org, email=GUEST, actor=SYSTEM, **more).token


def follow(token: str) -> Client:
    """A browser that opened the link."""
    cache.clear()
    client = Client()
    response = client.post("/invitation/open/", {"token": f"http://testserver/invitation/#{token}"})
    assert response.headers["Location"] == "/invitation/sign-in/"
    assert GUEST in client.get("/invitation/sign-in/").content.decode()
    return client


def test_the_guest_becomes_a_member(acme: Tenant) -> None:
    team = services.team_create(acme.org, slug="sre", name="SRE", actor=SYSTEM)
    token = invite(acme, name="Gus", role="auditor", teams=[team])
    assert not User.objects.filter(email=GUEST).exists()
    client = follow(token)
    acme.sign_in(client)
    row = Membership.objects.get(user__email=GUEST)
    assert signed_in(client) == str(row.user_id)
    assert (row.role, row.manual_role, list(row.teams.all())) == ("auditor", "auditor", [team])
    assert row.expires_at is not None
    assert row.user.name == "Gus"
    assert AuditEvent.objects.get(action="invitation.accept").org_id == acme.org.pk


def test_a_known_account_takes_it_under_its_new_address(acme: Tenant) -> None:
    """An account is a person for good, whatever its address is now: nobody is made beside."""
    acme.invite("boss@acme.test", role="admin")
    gus = acme.invite("gus@acme.test").user
    acme.knows("guest-sub", "gus@acme.test")
    acme.sign_in(Client())
    services.membership_remove(gus.memberships.get(), actor=SYSTEM)
    acme.knows("guest-sub", GUEST)
    client = follow(invite(acme))
    acme.sign_in(client)
    assert signed_in(client) == str(gus.pk)
    assert not User.objects.filter(email=GUEST).exists()


def test_a_link_works_once(acme: Tenant) -> None:
    token = invite(acme)
    second = follow(token)
    acme.sign_in(follow(token))
    acme.knows("thief-sub", GUEST)
    assert acme.sign_in(second).status_code == 403
    with pytest.raises(Denied):
        invitation_of(token)


@pytest.mark.parametrize("lie", [{"email": "evil@people.test"}, {"email_verified": False}])
def test_the_address_must_be_the_invited_one_and_verified(
    acme: Tenant, lie: dict[str, Any]
) -> None:
    client = follow(invite(acme))
    acme.twin.claims = lie
    assert acme.sign_in(client).status_code == 403
    assert not Identity.objects.exists()
    assert not User.objects.filter(email__endswith="people.test").exists()
    assert Invitation.objects.get().accepted_at is None


def test_the_provider_must_be_the_inviting_organizations(tenants: list[Tenant]) -> None:
    client = follow(invite(tenants[0]))
    tenants[1].knows("guest-sub", GUEST)
    assert tenants[1].sign_in(client).status_code == 403
    assert Invitation.objects.get().accepted_at is None


def test_without_the_link_the_address_is_nobody(acme: Tenant) -> None:
    invite(acme)
    assert acme.sign_in(Client()).status_code == 403


@pytest.mark.parametrize("how", ["expired", "withdrawn", "replaced", "closed"])
def test_a_link_that_is_over_is_refused(
    acme: Tenant, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = invite(acme)
    started = follow(token)
    if how == "expired":
        later = clock.now() + dt.timedelta(days=7, seconds=1)
        monkeypatch.setattr(clock, "now", lambda: later)
    elif how == "withdrawn":
        services.invitation_revoke(Invitation.objects.get(), actor=SYSTEM)
    elif how == "replaced":
        invite(acme)
    else:
        acme.org.closed_at = clock.now()
        acme.org.save()
    client = Client()
    cache.clear()
    page = client.post("/invitation/open/", {"token": token})
    assert page.status_code == 403
    assert "not valid" in page.content.decode()
    if how != "closed":
        assert acme.sign_in(started).status_code == 403
    assert not User.objects.filter(email=GUEST).exists()


@pytest.mark.parametrize("token", ["", "lnsi_", "lnsi_" + "A" * 43, "x" * 10_000])
def test_forged_links_are_refused(acme: Tenant, token: str) -> None:
    invite(acme)
    with pytest.raises(Denied):
        invitation_of(token)


def test_only_the_hash_is_stored(acme: Tenant) -> None:
    token = invite(acme)
    assert token not in str(Invitation.objects.values())
    assert not AuditEvent.objects.filter(metadata__icontains=token).exists()


def test_members_are_not_invited_and_days_are_bounded(acme: Tenant) -> None:
    acme.invite(GUEST)
    with pytest.raises(Conflict, match="already a member"):
        invite(acme)
    with pytest.raises(Invalid) as refused:
        services.invitation_create(acme.org, email="x@people.test", days=31, actor=SYSTEM)
    assert refused.value.field == "days"


def test_the_admin_shows_the_link_once() -> None:
    world = factories.acme()
    client = browser(world.admin)
    data = form_data(client.get(url(Invitation, "add"))) | {"email": GUEST, "name": "Gus"}
    response = client.post(url(Invitation, "add"), data | {"teams": [str(world.team.pk)]})
    text = response.content.decode()
    assert "http://testserver/invitation/#lnsi_" in text
    assert "no-store" in response.headers["Cache-Control"]
    token = text.partition("/invitation/#")[2].partition("<")[0].strip()
    assert invitation_of(token).email == GUEST
    row = Invitation.objects.get()
    assert token not in client.get(url(Invitation, "change", row.pk)).content.decode()
    client.post(url(Invitation, "revoke", row.pk))
    with pytest.raises(Denied):
        invitation_of(token)


def test_the_admin_mails_the_link_after_its_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail server that hangs must not keep the database's one writer waiting."""
    world = factories.acme()
    client = browser(world.admin)
    outside, seen = len(connection.savepoint_ids), []

    def send(*_: object) -> bool:
        seen.append(len(connection.savepoint_ids))
        return True

    monkeypatch.setattr("apps.orgs.admin.access.invitation_mail", send)
    data = form_data(client.get(url(Invitation, "add"))) | {"email": GUEST}
    text = client.post(url(Invitation, "add"), data).content.decode()
    assert "The link was sent" in text
    assert "lnsi_" not in text
    assert seen == [outside]
    assert (
        client.post(url(Invitation, "add"), data | {"email": world.admin.name}).status_code == 200
    )
    assert len(seen) == 1


def test_the_link_is_mailed_where_mail_is_set_up(acme: Tenant, settings: Settings) -> None:
    settings.MAIL_ENABLED = True
    invited = services.invitation_create(acme.org, email=GUEST, actor=SYSTEM)
    assert invitation_mail(invited, f"http://testserver/invitation/#{invited.token}")
    (sent,) = mail.outbox
    assert sent.to == [GUEST]
    assert invited.token in sent.body
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    assert not invitation_mail(invited, "x")
