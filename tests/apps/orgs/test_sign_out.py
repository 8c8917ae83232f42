"""Ways out: at the provider too, by the provider, by an admin; and honest logout tokens only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core.cache import cache
from django.test import Client

from apps.audit.models import AuditEvent
from apps.orgs import services
from apps.orgs.models import UserSession
from apps.orgs.oidc.logout import EVENT
from apps.orgs.services.sessions import MAX_HINT, sessions_forget
from apps.orgs.types import SYSTEM
from tests.apps.orgs.providers import Tenant, signed_in, tenant, twins
from tests.spooled import spooled
from tests.twins.idp import STRANGERS_KEY, signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA = "ana@acme.test"


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    for running in twins(tmp_path, monkeypatch, "login.acme.test", "login.globex.test"):
        yield [tenant("acme", running[0]), tenant("globex", running[1])]


@pytest.fixture
def acme(tenants: list[Tenant]) -> Tenant:
    tenants[0].invite(ANA, role="admin")
    tenants[0].twin.metadata = {"end_session_endpoint": f"{tenants[0].twin.issuer}/logout?a=b"}
    return tenants[0]


def come(acme: Tenant, sid: str = "", email: str = ANA, sub: str = "ana-sub") -> Client:
    cache.clear()
    acme.knows(sub, email, **({"sid": sid} if sid else {}))
    browser = Client()
    acme.sign_in(browser)
    assert signed_in(browser)
    return browser


def is_in(browser: Client) -> bool:
    return bool(browser.get("/").status_code == 200)


# ---- at the provider too


def test_sign_out_goes_on_to_the_provider(acme: Tenant) -> None:
    browser = come(acme)
    page = browser.post("/logout/")
    assert not is_in(browser)
    url = page.context["onward"]
    assert url.startswith(f"{acme.twin.issuer}/logout?a=b&")
    query = parse_qs(urlsplit(url).query)
    assert query["client_id"] == [acme.idp.client_id]
    assert query["post_logout_redirect_uri"] == ["http://testserver/logout/done/"]
    assert len(query["id_token_hint"][0].split(".")) == 3
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "You are signed out." in browser.get("/logout/done/").content.decode()
    row = UserSession.objects.get()
    assert (row.ended_by, bytes(row.hint_ciphertext)) == ("sign-out", b"")


def test_id_token_is_kept_sealed_and_not_in_the_session(acme: Tenant) -> None:
    browser = come(acme)
    assert "eyJ" not in str(dict(browser.session))
    assert b"eyJ" not in bytes(UserSession.objects.get().hint_ciphertext)


def test_a_long_id_token_is_no_hint(acme: Tenant) -> None:
    acme.twin.claims = {"padding": "x" * MAX_HINT}
    browser = come(acme)
    query = parse_qs(urlsplit(browser.post("/logout/").context["onward"]).query)
    assert "id_token_hint" not in query


@pytest.mark.parametrize("how", ["none", "away", "http"])
def test_a_provider_without_sign_out_ends_it_here(acme: Tenant, how: str) -> None:
    browser = come(acme)
    cache.clear()
    if how == "none":
        acme.twin.metadata = {}
    elif how == "http":
        acme.twin.metadata = {"end_session_endpoint": "http://login.acme.test/"}
    else:
        acme.twin.replies["/.well-known/openid-configuration"] = (503, {}, b"")
    assert browser.post("/logout/").headers["Location"] == "/login/"
    assert not is_in(browser)


def test_the_old_cookie_opens_nothing(acme: Tenant) -> None:
    browser = come(acme)
    cookie = browser.cookies["lens_session"].value
    stolen = dict(browser.session)
    browser.post("/logout/")
    thief = Client()
    thief.cookies["lens_session"] = cookie
    assert not is_in(thief)
    planted = thief.session
    planted.update(stolen)
    planted.save()
    assert not is_in(thief)


# ---- by the provider


def token(acme: Tenant, /, **changed: Any) -> str:
    """A logout token of Acme's provider about Ana; None leaves a claim out."""
    claims = {
        "iss": acme.twin.issuer,
        "aud": acme.idp.client_id,
        "iat": int(time.time()),
        "exp": int(time.time()) + 120,
        "jti": f"jti-{time.time_ns()}",
        "events": {EVENT: {}},
        "sub": "ana-sub",
        **changed,
    }
    return acme.twin.sign({name: value for name, value in claims.items() if value is not None})


def tell(value: str) -> int:
    """Post a logout token, as a provider does: no cookie, no CSRF token."""
    response = Client(enforce_csrf_checks=True).post("/oidc/logout/", {"logout_token": value})
    assert response.headers["Cache-Control"] == "no-store"
    return response.status_code


def test_a_session_whose_sid_the_provider_never_told_ends_too(acme: Tenant) -> None:
    """It may be the one that is meant. Those that are known to be others go on."""
    unnamed, other, stranger = come(acme), come(acme, sid="s2"), come(acme, sid="s3")
    assert tell(token(acme, sid="s3")) == 200
    assert [is_in(unnamed), is_in(other), is_in(stranger)] == [False, True, False]


def test_all_sessions_of_a_person_end(acme: Tenant) -> None:
    acme.invite("bob@acme.test")
    first, second = come(acme, "s1"), come(acme, "s2")
    bob = come(acme, "s3", "bob@acme.test", "bob-sub")
    assert tell(token(acme)) == 200
    assert [is_in(one) for one in (first, second, bob)] == [False, False, True]
    event = AuditEvent.objects.get(action="session.end_by_provider")
    assert (event.org_id, event.metadata["sessions"]) == (acme.org.pk, 2)


def test_one_session_ends_by_its_sid(acme: Tenant) -> None:
    first, second = come(acme, "s1"), come(acme, "s2")
    acme.twin.header = {"typ": "logout+jwt"}
    assert tell(token(acme, sid="s1", sub=None)) == 200
    assert [is_in(one) for one in (first, second)] == [False, True]
    assert tell(token(acme, sid="s2", sub="somebody-else")) == 200
    assert is_in(second)


def test_who_is_not_there_is_fine(acme: Tenant) -> None:
    assert tell(token(acme, sub="nobody")) == 200


def test_a_token_works_once(acme: Tenant) -> None:
    come(acme)
    value = token(acme)
    assert tell(value) == 200
    again = Client()
    acme.sign_in(again)
    assert tell(value) == 400
    assert is_in(again)


LATE = int(time.time()) - 3600
BAD: dict[str, dict[str, Any]] = {
    "iss other": {"iss": "https://login.globex.test"},
    "iss absent": {"iss": None},
    "aud other": {"aud": "other"},
    "aud absent": {"aud": None},
    "iat absent": {"iat": None},
    "iat old": {"iat": LATE, "exp": None},
    "iat to come": {"iat": int(time.time()) + 3600},
    "exp passed": {"exp": LATE},
    "jti absent": {"jti": None},
    "jti a number": {"jti": 7},
    "events absent": {"events": None},
    "events a list": {"events": [EVENT]},
    "events other": {"events": {"http://schemas.openid.net/event/other": {}}},
    "event no object": {"events": {EVENT: True}},
    "nonce": {"nonce": "x"},
    "nonce empty": {"nonce": ""},
    "nobody": {"sub": None},
    "sub a list": {"sub": ["ana-sub"]},
    "sid a number": {"sid": 7},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_ends_nothing(acme: Tenant, name: str, tmp_path: Path) -> None:
    browser = come(acme, "s1")
    with spooled(tmp_path / "spool") as events:
        assert tell(token(acme, **BAD[name])) == 400, name
    assert is_in(browser)
    if name not in ("iss other", "iss absent", "aud other", "aud absent"):
        assert [event["action"] for event in events] == ["session.end_refuse"]


def test_an_id_token_is_no_logout_token(acme: Tenant) -> None:
    browser = come(acme)
    hint = parse_qs(urlsplit(browser.post("/logout/").context["onward"]).query)["id_token_hint"][0]
    again = come(acme)
    assert tell(hint) == 400
    assert is_in(again)


@pytest.mark.parametrize("value", ["", "x", "x.y.z", "x" * 100_000, "eyJhbGciOiJub25lIn0.e30."])
def test_nonsense_is_refused(acme: Tenant, value: str) -> None:
    assert tell(value) == 400


@pytest.mark.parametrize("header", [{"alg": "none"}, {"kid": "nine"}, {"typ": "at+jwt"}])
def test_a_bad_header_is_refused(acme: Tenant, header: dict[str, str]) -> None:
    browser = come(acme)
    acme.twin.header = header
    assert tell(token(acme)) == 400
    assert is_in(browser)


def test_a_strangers_signature_is_refused(acme: Tenant) -> None:
    browser = come(acme)
    acme.twin.signer = signer("RS256", STRANGERS_KEY)
    assert tell(token(acme)) == 400
    assert is_in(browser)


def test_another_provider_ends_nothing_here(acme: Tenant, tenants: list[Tenant]) -> None:
    browser = come(acme)
    assert tell(token(tenants[1], iss=tenants[1].twin.issuer)) == 200
    assert tell(tenants[1].twin.sign({"iss": acme.twin.issuer, "aud": acme.idp.client_id})) == 400
    assert is_in(browser)


def test_a_strangers_row_of_the_same_client_does_not_shield_a_session(
    acme: Tenant, tenants: list[Tenant]
) -> None:
    """Globex connects Acme's issuer and client too, with algorithms that never fit."""
    services.idp_create(
        tenants[1].org,
        name="a shield",
        issuer=acme.twin.issuer,
        client_id=acme.idp.client_id,
        secret="x",
        algorithms=["ES512"],
        actor=SYSTEM,
    )
    browser = come(acme)
    assert tell(token(acme)) == 200
    assert not is_in(browser)


def test_get_is_refused() -> None:
    assert Client().get("/oidc/logout/").status_code == 405


# ---- by an admin


def test_an_admin_ends_a_session(acme: Tenant) -> None:
    browser, other = come(acme), come(acme)
    row = UserSession.objects.order_by("created_at")[0]
    services.session_end(row, actor=SYSTEM)
    assert [is_in(one) for one in (browser, other)] == [False, True]
    page = other.get("/orgs/usersession/").content.decode()
    assert ANA in page


def test_old_rows_are_forgotten(acme: Tenant) -> None:
    come(acme)
    row = UserSession.objects.get()
    assert sessions_forget() == 0
    row.expires_at = row.created_at.replace(year=2020)
    row.save()
    assert sessions_forget() == 1
