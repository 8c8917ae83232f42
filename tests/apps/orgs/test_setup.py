"""The first start: the link, the set-up session, and the sign-in that closes it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Denied
from apps.orgs.models import Identity, IdentityProvider, Organization, SetupLink, User
from apps.orgs.services import setup
from tests.apps.orgs.browser import DEV_IDP_MARKS

if TYPE_CHECKING:
    from apps.orgs.devidp import DevIdp
    from tests.apps.orgs.browser import Browser

pytestmark = [
    pytest.mark.database,
    pytest.mark.django_db(transaction=True),
    *DEV_IDP_MARKS,
]
ACME = {"name": "Acme", "slug": "acme", "admin_name": "Ana", "email": "admin@example.com"}


def enter(browser: Browser) -> None:
    """Open the set-up with a fresh link."""
    browser.open("/setup/")
    browser.send("/setup/open/", token=setup.setup_link_create())


def test_whole_setup_ends_signed_in(browser: Browser, dev_idp: DevIdp) -> None:
    enter(browser)
    assert browser.path == "/setup/organization/"
    browser.send(**ACME)
    assert browser.path == "/setup/sign-in/"
    browser.follow("Sign in with development provider")
    browser.choose("admin")

    assert browser.path == "/"
    assert browser.page.status_code == 200
    identity = Identity.objects.get()
    assert (identity.idp.issuer, identity.subject) == (dev_idp.issuer, "admin")
    assert identity.user.email == "admin@example.com"
    assert IdentityProvider.objects.get().working_at is not None
    actions = list(AuditEvent.objects.order_by("at", "id").values_list("action", flat=True))
    assert actions == [
        "setup_link.create",
        "setup_link.use",
        "organization.create",
        "membership.create",
        "idp.create",
        "identity.bind",
        "idp.prove",
        "idp.enable",
        "person.sign_in",
    ]


def test_second_visit_signs_in_and_out(browser: Browser, dev_idp: DevIdp) -> None:
    test_whole_setup_ends_signed_in(browser, dev_idp)
    session = browser.client.cookies["lens_session"]
    browser.open("/login/")
    assert browser.path == "/"
    browser.client.cookies.clear()
    browser.open("/?page=1")
    assert browser.path == "/login/"
    browser.follow("Sign in with development provider")
    before = browser.client.cookies["lens_session"]
    browser.choose("admin")
    assert str(browser.page.url).endswith("/?page=1")
    assert browser.client.cookies["lens_session"] not in (before, session)

    browser.send("/logout/")
    assert browser.path == "/login/"
    assert browser.open("/").url.path == "/login/"


def test_development_provider_does_not_close_the_setup(browser: Browser, dev_idp: DevIdp) -> None:
    """Whoever tried things out goes on to a real provider, with the organization that exists."""
    test_whole_setup_ends_signed_in(browser, dev_idp)
    browser.client.cookies.clear()
    enter(browser)
    assert browser.path == "/setup/sign-in/"
    assert Organization.objects.count() == 1


def test_link_works_once(browser: Browser, dev_idp: DevIdp) -> None:
    token = setup.setup_link_create()
    setup.setup_link_use(token)
    with pytest.raises(Denied):
        setup.setup_link_use(token)
    browser.open("/setup/")
    assert browser.send("/setup/open/", token=token).status_code == 403
    assert AuditEvent.objects.filter(action="setup_link.refuse", result="denied").count() == 2


def test_link_ends_after_fifteen_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    token = setup.setup_link_create()
    later = clock.now() + dt.timedelta(minutes=15, seconds=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    with pytest.raises(Denied):
        setup.setup_link_use(token)


@pytest.mark.parametrize("token", ["", "lnsu_", "lnsu_" + "A" * 43, "x" * 10_000, "\0"])
def test_forged_link_is_refused(token: str) -> None:
    setup.setup_link_create()
    with pytest.raises(Denied):
        setup.setup_link_use(token)


def test_new_link_ends_the_one_before() -> None:
    first, second = setup.setup_link_create(), setup.setup_link_create()
    with pytest.raises(Denied):
        setup.setup_link_use(first)
    setup.setup_link_use(second)


def test_only_the_hash_is_stored() -> None:
    token = setup.setup_link_create()
    stored = SetupLink.objects.get().token_hash
    assert token not in stored
    assert len(stored) == 64
    assert not AuditEvent.objects.filter(metadata__icontains=token).exists()


def test_pages_of_the_setup_need_its_session(browser: Browser) -> None:
    for path in ("/setup/organization/", "/setup/sign-in/"):
        assert browser.open(path).url.path == "/setup/"
    browser.send("/setup/admin/", email="evil@example.com")
    assert browser.path == "/setup/"
    assert not Organization.objects.exists()


def test_link_pasted_whole_is_understood(browser: Browser) -> None:
    browser.open("/setup/")
    browser.send("/setup/open/", token=f"{browser.base}/setup/#{setup.setup_link_create()}")
    assert browser.path == "/setup/organization/"


def test_bad_organization_is_refused_at_its_field(browser: Browser) -> None:
    enter(browser)
    browser.send(**{**ACME, "slug": "Acme Corp"})
    assert "Not a valid slug" in browser.page.text
    assert not Organization.objects.exists()
    assert not User.objects.exists()


def test_somebody_else_does_not_become_admin(browser: Browser, dev_idp: DevIdp) -> None:
    enter(browser)
    browser.send(**ACME)
    browser.follow("Sign in with development provider")
    browser.choose("member")
    assert browser.page.status_code == 403
    assert "You signed in as member@example.com" in browser.page.text
    assert not Identity.objects.exists()
    assert IdentityProvider.objects.get().working_at is None


def test_setup_goes_on_after_a_new_link(browser: Browser, dev_idp: DevIdp) -> None:
    """A typing error in the first admin's address is not the end."""
    enter(browser)
    browser.send(**{**ACME, "email": "adnim@example.com"})
    browser.client.cookies.clear()
    enter(browser)
    assert browser.path == "/setup/sign-in/"
    browser.send("/setup/admin/", email="admin@example.com")
    browser.follow("Sign in with development provider")
    browser.choose("admin")
    assert browser.path == "/"
    assert User.objects.get().email == "admin@example.com"


def test_guessing_is_slowed_down(browser: Browser, dev_idp: DevIdp) -> None:
    browser.open("/setup/")
    codes = []
    for _ in range(12):
        codes.append(browser.send("/setup/open/", token="lnsu_x").status_code)
        browser.open("/setup/")
    assert codes == [403] * 10 + [429] * 2
