"""The set-up with an organization's own provider, over TLS, and with what people type wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from apps.common.errors import Conflict
from apps.orgs.models import Identity, IdentityProvider
from apps.orgs.services import setup
from apps.orgs.services.identity_providers import idp_secret
from tests.apps.orgs.providers import Tenant, signed_in, twins
from tests.twins.idp import CLIENT_ID, CLIENT_SECRET, IdpTwin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA = "ana@acme.test"
HOST = "login.acme.test"


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IdpTwin]:
    for running in twins(tmp_path, monkeypatch, HOST):
        running[0].person = {"sub": "ana-sub", "email": ANA, "email_verified": True}
        yield running[0]


@pytest.fixture
def browser(client: Client) -> Client:
    """A browser in the set-up, with the organization made."""
    cache.clear()
    client.post("/setup/open/", {"token": setup.setup_link_create()})
    made = {"name": "Acme", "slug": "acme", "email": ANA}
    assert client.post("/setup/organization/", made).headers["Location"] == "/setup/sign-in/"
    return client


def form(twin: IdpTwin, **changed: str) -> dict[str, str]:
    right = {"name": "Acme login", "issuer": twin.issuer, "client_id": CLIENT_ID}
    return {**right, "client_secret": CLIENT_SECRET, **changed}


def finish(browser: Client, twin: IdpTwin) -> Any:
    leave = browser.get(reverse("setup_prove", args=[IdentityProvider.objects.get().pk]))
    return Tenant.arrive(browser, twin.authorize(leave.headers["Location"]))


def test_own_provider_is_connected_and_proven(browser: Client, twin: IdpTwin) -> None:
    assert browser.post("/setup/sign-in/", form(twin)).status_code == 302
    idp = IdentityProvider.objects.get()
    assert idp.working_at is None
    assert CLIENT_SECRET.encode() not in bytes(idp.secret_ciphertext)
    assert idp_secret(idp) == CLIENT_SECRET
    page = browser.get("/setup/sign-in/").content.decode()
    assert "http://testserver/oidc/callback/" in page
    assert CLIENT_SECRET not in page

    assert finish(browser, twin).headers["Location"] == "/"
    assert signed_in(browser) == str(Identity.objects.get().user_id)
    assert IdentityProvider.objects.get().working_at is not None
    with pytest.raises(Conflict):
        setup.setup_link_create()


def test_wrong_secret_is_corrected_with_the_same_form(browser: Client, twin: IdpTwin) -> None:
    browser.post("/setup/sign-in/", form(twin, client_secret="wrong"))
    assert finish(browser, twin).status_code == 403
    assert not Identity.objects.exists()
    browser.post("/setup/sign-in/", form(twin))
    assert finish(browser, twin).status_code == 302
    assert IdentityProvider.objects.count() == 1


@pytest.mark.parametrize(
    ("issuer", "said"),
    [
        ("http://login.acme.test", "must begin with https"),
        ("login.acme.test", "must begin with https"),
        ("https://user:pass@login.acme.test", "must not contain a user name"),
        ("https://login.acme.test/\\evil", "must not contain a user name or a backslash"),
        ("{issuer}/", "calls itself something else"),
        ("{issuer}/tenant", "answered with status 404"),
    ],
)
def test_wrong_issuer_is_said_at_its_field(
    browser: Client, twin: IdpTwin, issuer: str, said: str
) -> None:
    typed = form(twin, issuer=issuer.format(issuer=twin.issuer))
    page = browser.post("/setup/sign-in/", typed)
    assert page.status_code == 200
    assert said in page.content.decode()
    assert 'id="id_issuer_error"' in page.content.decode()
    assert not IdentityProvider.objects.exists()


def test_address_inside_is_refused(
    browser: Client, twin: IdpTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    page = browser.post("/setup/sign-in/", form(twin, issuer="https://169.254.169.254"))
    assert "metadata" in page.content.decode()
    assert not IdentityProvider.objects.exists()


def test_secret_is_never_shown_again(browser: Client, twin: IdpTwin) -> None:
    page = browser.post("/setup/sign-in/", form(twin, issuer="http://x.test"))
    assert CLIENT_SECRET not in page.content.decode()


def test_setup_session_of_another_browser_counts_nothing(browser: Client, twin: IdpTwin) -> None:
    browser.post("/setup/sign-in/", form(twin))
    idp = IdentityProvider.objects.get()
    stranger = Client()
    assert stranger.get(reverse("setup_prove", args=[idp.pk])).headers["Location"] == "/setup/"
    assert stranger.get(reverse("oidc_start", args=[idp.pk])).status_code == 404


def test_set_up_session_ends(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    until = browser.session["setup_until"]
    monkeypatch.setattr("apps.orgs.session.time.time", lambda: until + 1)
    assert browser.get("/setup/sign-in/").headers["Location"] == "/setup/"
