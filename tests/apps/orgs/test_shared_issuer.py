"""Two organizations whose providers have one issuer: many customers of one vendor share it.

What one of them lets its provider say of a person is nothing to the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection
from django.test import Client

from apps.common.tenancy import OutsideScope, edge, scope
from apps.orgs import services
from apps.orgs.models import Identity, Membership, UserSession
from apps.orgs.types import SYSTEM
from tests.apps.orgs.providers import Tenant, member, signed_in, tenant, twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.database, pytest.mark.django_db]
MIKE = "mike@x.test"


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    for (running,) in twins(tmp_path, monkeypatch, "login.vendor.test"):
        yield [tenant("acme", running), tenant("globex", running)]


@pytest.fixture
def acme(tenants: list[Tenant]) -> Tenant:
    """Mike is invited, and has not come so far. No domain is verified."""
    tenants[0].invite(MIKE, role="admin")
    return tenants[0]


@pytest.fixture
def globex(tenants: list[Tenant]) -> Tenant:
    return tenants[1]


def come(at: Tenant, sub: str, client: Client | None = None) -> Client:
    """Mike, so the provider says, signs in at this organization; the browser."""
    at.knows(sub, MIKE)
    browser = client or Client()
    browser.answer = at.sign_in(browser)  # type: ignore[attr-defined]  # for the test
    return browser


def where(client: Client) -> object:
    """The organization in which the next page is opened."""
    return client.get("/").wsgi_request.org  # type: ignore[attr-defined]


def test_who_is_let_in_by_one_organization_opens_no_other(acme: Tenant, globex: Tenant) -> None:
    """Globex's admin invites Acme's guest, and has somebody of their own say to be the guest."""
    globex.invite(MIKE)
    evil = come(globex, "evil-sub")
    assert where(evil) == globex.org
    session = evil.session
    session.update({"org": str(acme.org.pk), "home": str(acme.org.pk)})
    session.save()
    assert where(evil) == globex.org
    Membership.objects.get(org=globex.org, user__email=MIKE).delete()
    assert where(evil) is None


def test_the_true_person_is_not_locked_out(acme: Tenant, globex: Tenant) -> None:
    globex.invite(MIKE)
    come(globex, "evil-sub")
    true = come(acme, "mike-sub")
    assert signed_in(true) == str(member(acme, MIKE).pk)
    assert where(true) == acme.org
    assert come(acme, "evil-sub").answer.status_code == 403  # type: ignore[attr-defined]


def test_a_person_of_two_organizations_may_have_two_subjects(acme: Tenant, globex: Tenant) -> None:
    """Pairwise subjects: the provider calls a person otherwise to each client (Entra ID does)."""
    globex.invite(MIKE)
    for at, sub in ((acme, "mike-at-acme"), (globex, "mike-at-globex")) * 2:
        assert where(come(at, sub)) == at.org
    bound = Identity.objects.filter(user__email=MIKE).values_list("idp", "org", "subject")
    assert set(bound) == {
        (acme.idp.pk, acme.org.pk, "mike-at-acme"),
        (globex.idp.pk, globex.org.pk, "mike-at-globex"),
    }


def test_one_subject_may_be_two_people(acme: Tenant, globex: Tenant) -> None:
    """What one organization's provider calls somebody says nothing of whom the other one means."""
    come(acme, "1")
    globex.invite("pia@y.test")
    globex.knows("1", "pia@y.test")
    browser = Client()
    globex.sign_in(browser)
    assert signed_in(browser) == str(member(globex, "pia@y.test").pk)


def test_the_other_sign_in_page_works_while_signed_in_here(acme: Tenant, globex: Tenant) -> None:
    globex.invite(MIKE)
    browser = come(acme, "mike-sub")
    assert browser.get("/login/").status_code == 302
    assert browser.get("/login/acme/").status_code == 302
    page = browser.get("/login/globex/")
    assert f"/oidc/start/{globex.idp.pk}/" in page.content.decode()
    assert "signed in to Acme" in page.content.decode()
    first = UserSession.objects.get()
    assert where(come(globex, "mike-sub", browser)) == globex.org
    first.refresh_from_db()
    assert first.ended_by == "new sign-in"


def test_the_other_organization_sees_no_accounts(acme: Tenant, globex: Tenant) -> None:
    """PostgreSQL shows them to no forgotten filter either; SQLite has the guard of scopes alone."""
    globex.invite(MIKE, role="admin")
    come(acme, "mike-sub")
    page = come(globex, "other-sub").get("/orgs/membership/").content.decode()
    assert MIKE in page
    with scope(globex.org.pk):
        seen = set(Identity.objects.values_list("subject", flat=True))
    visible = {"other-sub"} if connection.vendor == "postgresql" else {"other-sub", "mike-sub"}
    assert seen == visible
    with edge(), pytest.raises(OutsideScope):
        Identity.objects.exists()


def test_a_deleted_provider_takes_its_accounts_along(acme: Tenant, globex: Tenant) -> None:
    """Connected anew, it is another provider: the verified address binds once more."""
    globex.invite(MIKE)
    come(globex, "mike-at-globex")
    come(acme, "old-sub")
    services.idp_disable(acme.idp, actor=SYSTEM)
    services.idp_delete(acme.idp, actor=SYSTEM)
    assert [row.idp for row in Identity.objects.all()] == [globex.idp]
