"""Sign-in against real providers, honest and not: what must come in does, and nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import reverse

from apps.audit.models import AuditEvent
from apps.orgs import services
from apps.orgs.models import Identity, User
from apps.orgs.types import SYSTEM
from tests.apps.orgs.lies import FORGERIES, LIES, Lie
from tests.apps.orgs.providers import Tenant, member, signed_in, tenant, twins
from tests.spooled import spooled
from tests.twins.idp import (
    CLIENT_SECRET,
    EC_KEY,
    RSA_KEY,
    STRANGERS_KEY,
    hmac_signer,
    public_jwk,
    signer,
)

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
    tenants[0].knows("ana-sub", ANA)
    return tenants[0]


@pytest.fixture
def globex(tenants: list[Tenant]) -> Tenant:
    return tenants[1]


def test_invited_person_comes_in_and_is_bound(acme: Tenant, client: Client) -> None:
    response = acme.sign_in(client, next="/?page=1")
    assert (response.status_code, response.headers["Location"]) == (302, "/?page=1")
    identity = Identity.objects.get()
    assert (identity.idp, identity.subject) == (acme.idp, "ana-sub")
    assert signed_in(client) == str(member(acme, ANA).pk)
    event = AuditEvent.objects.get(action="person.sign_in")
    assert (event.org_id, event.principal_name, event.result) == (acme.org.pk, ANA, "success")


def test_identity_counts_and_not_the_address(acme: Tenant, client: Client) -> None:
    acme.sign_in(client)
    acme.knows("ana-sub", "ana.new-name@acme.test")
    again = Client()
    acme.sign_in(again)
    assert signed_in(again) == signed_in(client)


def test_es256_is_accepted(acme: Tenant, client: Client) -> None:
    acme.twin.header, acme.twin.signer = {"alg": "ES256", "kid": "two"}, signer("ES256", EC_KEY)
    acme.sign_in(client)
    assert signed_in(client)


def test_address_may_come_from_userinfo(acme: Tenant, client: Client) -> None:
    acme.twin.claims = {"email": None, "email_verified": None}
    acme.sign_in(client)
    assert signed_in(client)
    assert "/userinfo" in acme.twin.asked


def test_rotated_key_is_found(acme: Tenant, client: Client) -> None:
    acme.sign_in(client)
    acme.twin.keys = [public_jwk(STRANGERS_KEY, "three")]
    acme.twin.header, acme.twin.signer = {"kid": "three"}, signer("RS256", STRANGERS_KEY)
    again = Client()
    acme.sign_in(again)
    assert signed_in(again)
    assert acme.twin.asked.count("/jwks") == 2


def test_request_carries_nonce_state_and_pkce(acme: Tenant, client: Client) -> None:
    query = parse_qs(urlsplit(acme.leave(client)).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["code_challenge"][0]) == 43
    assert min(len(query["state"][0]), len(query["nonce"][0])) >= 43
    assert query["redirect_uri"] == ["http://testserver/oidc/callback/"]


# ---- lies in the ID token


@pytest.mark.parametrize("name", LIES)
def test_lie_is_refused(acme: Tenant, client: Client, name: str, tmp_path: Path) -> None:
    place, lie = LIES[name]
    setattr(acme.twin, place, lie)
    with spooled(tmp_path / "spool") as events:
        response = acme.sign_in(client)
    assert response.status_code == 403, name
    assert not signed_in(client)
    assert not Identity.objects.exists()
    assert [event["action"] for event in events] == ["person.sign_in_refuse"]
    assert events[0]["result"] == "denied"
    assert CLIENT_SECRET not in str(events)


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_is_refused(acme: Tenant, client: Client, name: str) -> None:
    acme.twin.header, acme.twin.signer = FORGERIES[name]
    assert acme.sign_in(client).status_code == 403
    assert not signed_in(client)


def test_published_secret_key_is_not_used(acme: Tenant, client: Client) -> None:
    """A key set may hold symmetric keys; HS256 is never verified with anything."""
    acme.twin.keys.append({"kty": "oct", "kid": "h", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI"})
    acme.twin.header = {"alg": "HS256", "kid": "h"}
    acme.twin.signer = hmac_signer(b"secretsecretsecretsecret12")
    assert acme.sign_in(client).status_code == 403


def test_two_keys_with_one_kid_are_refused(acme: Tenant, client: Client) -> None:
    acme.twin.keys = [public_jwk(STRANGERS_KEY, "one"), public_jwk(RSA_KEY, "one")]
    assert acme.sign_in(client).status_code == 403


# ---- lies of the endpoints

REPLIES: dict[str, tuple[str, tuple[int, dict[str, str], bytes]]] = {
    "token: 500": ("/token", (500, {}, b"{}")),
    "token: no JSON": ("/token", (200, {}, b"<html>")),
    "token: a list": ("/token", (200, {}, b"[]")),
    "token: elsewhere": ("/token", (302, {"Location": "https://evil.test/"}, b"")),
    "token: too long": ("/token", (200, {}, b" " * 1_000_001)),
    "keys: 500": ("/jwks", (500, {}, b"{}")),
    "keys: none": ("/jwks", (200, {}, b"{}")),
    "keys: nonsense": ("/jwks", (200, {}, b'{"keys": [1, "x", {"kty": "RSA", "kid": "one"}]}')),
}


@pytest.mark.parametrize("name", REPLIES)
def test_broken_endpoint_is_refused(acme: Tenant, client: Client, name: str) -> None:
    path, reply = REPLIES[name]
    acme.twin.replies[path] = reply
    assert acme.sign_in(client).status_code == 403
    assert not signed_in(client)


@pytest.mark.parametrize(
    ("in_token", "in_userinfo"),
    [
        ({"email_verified": None}, {"email": "other@acme.test"}),
        ({"email": None}, {"email_verified": False}),
    ],
)
def test_mark_of_one_address_verifies_no_other(
    acme: Tenant, client: Client, in_token: Lie, in_userinfo: Lie
) -> None:
    """Userinfo is asked here for the groups, or for the address."""
    services.idp_update(acme.idp, group_claim="groups", actor=SYSTEM)
    acme.twin.claims, acme.twin.userinfo = in_token, in_userinfo
    assert acme.sign_in(client).status_code == 403
    assert not signed_in(client)


def test_userinfo_of_somebody_else_is_refused(acme: Tenant, client: Client) -> None:
    acme.twin.claims = {"email": None, "email_verified": None}
    acme.twin.userinfo = {"sub": "somebody-else"}
    assert acme.sign_in(client).status_code == 403


@pytest.mark.parametrize(("seconds", "fine"), [(50, True), (70, False)])
@pytest.mark.parametrize("claim", ["iat", "nbf", "exp"])
def test_clocks_may_differ_by_a_minute(
    acme: Tenant,
    client: Client,
    claim: str,
    seconds: int,
    fine: bool,  # noqa: FBT001  a table
) -> None:
    now = int(time.time())
    acme.twin.claims = {claim: now - seconds if claim == "exp" else now + seconds}
    acme.sign_in(client)
    assert bool(signed_in(client)) is fine


def test_provider_that_drips_is_given_up(
    acme: Tenant, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = acme.twin.authorize(acme.leave(client))
    monkeypatch.setattr("apps.common.outbound.MAX_SECONDS", 0.3)
    acme.twin.delay = 1.0
    started = time.monotonic()
    response = acme.arrive(client, url)
    assert time.monotonic() - started < 5
    assert response.status_code == 403
    assert not signed_in(client)


# ---- state, code and session


def test_state_works_once(acme: Tenant, client: Client) -> None:
    url = acme.twin.authorize(acme.leave(client))
    acme.arrive(client, url)
    assert signed_in(client)
    assert acme.arrive(client, url).status_code == 403


def test_state_of_another_browser_is_refused(acme: Tenant, client: Client) -> None:
    url = acme.twin.authorize(acme.leave(client))
    stranger = Client()
    acme.leave(stranger)
    assert acme.arrive(stranger, url).status_code == 403
    assert not signed_in(stranger)


@pytest.mark.parametrize("query", ["", "?code=x", "?state=x", "?code=x&state=x", "?error=x"])
def test_callback_that_nobody_asked_for(acme: Tenant, client: Client, query: str) -> None:
    assert client.get(f"/oidc/callback/{query}").status_code == 403
    assert not signed_in(client)


def test_old_state_is_refused(
    acme: Tenant, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = acme.twin.authorize(acme.leave(client))
    later = time.time() + 601
    monkeypatch.setattr("apps.orgs.oidc.flow.time.time", lambda: later)
    assert acme.arrive(client, url).status_code == 403


def test_code_of_another_sign_in_fails_at_pkce(acme: Tenant, client: Client) -> None:
    """A stolen code, injected into the attacker's own flow."""
    stolen = parse_qs(urlsplit(acme.twin.authorize(acme.leave(client))).query)["code"][0]
    attacker = Client()
    own = acme.twin.authorize(acme.leave(attacker))
    code = parse_qs(urlsplit(own).query)["code"][0]
    assert acme.arrive(attacker, own.replace(code, stolen)).status_code == 403
    assert not signed_in(attacker)


def test_error_of_the_provider_uses_the_state_up(acme: Tenant, client: Client) -> None:
    url = acme.twin.authorize(acme.leave(client))
    state = parse_qs(urlsplit(url).query)["state"][0]
    refused = client.get("/oidc/callback/", {"state": state, "error": "<script>access_denied"})
    assert refused.status_code == 403
    assert b"<script>access" not in refused.content
    assert acme.arrive(client, url).status_code == 403


def test_answer_of_another_issuer_is_refused(acme: Tenant, globex: Tenant, client: Client) -> None:
    url = acme.twin.authorize(acme.leave(client))
    changed = url.replace("login.acme.test", "login.globex.test")
    assert acme.arrive(client, changed).status_code == 403


def test_next_leads_nowhere_else(acme: Tenant, client: Client) -> None:
    for target in ("https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)"):
        browser = Client()
        assert acme.sign_in(browser, next=target).headers["Location"] == "/"


def test_session_is_new_after_sign_in(acme: Tenant, client: Client) -> None:
    acme.leave(client)
    planted = client.session
    planted["planted"] = "x"
    planted.save()
    acme.sign_in(client)
    assert client.session.session_key != planted.session_key
    assert "planted" not in client.session
    assert "oidc_states" not in client.session


def test_session_ends_by_age(acme: Tenant, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.sign_in(client)
    assert client.get("/").status_code == 200
    later = time.time() + 12 * 3600 + 1
    monkeypatch.setattr("apps.orgs.session.time.time", lambda: later)
    assert client.get("/").headers["Location"].startswith("/login/")


# ---- people and organizations


def test_unknown_person_leaves_nothing_behind(acme: Tenant, client: Client) -> None:
    acme.knows("bob-sub", "bob@acme.test")
    before = User.objects.count()
    response = acme.sign_in(client)
    assert response.status_code == 403
    assert b"No access yet" in response.content
    assert b"bob@acme.test" in response.content
    assert User.objects.count() == before
    assert not Identity.objects.exists()


def test_second_subject_with_the_same_address_is_refused(acme: Tenant, client: Client) -> None:
    acme.sign_in(client)
    acme.knows("somebody-new", ANA)
    thief = Client()
    assert acme.sign_in(thief).status_code == 403
    assert not signed_in(thief)


def test_other_provider_cannot_take_an_address_over(
    acme: Tenant, globex: Tenant, client: Client
) -> None:
    """The stock backend signs this person in as Ana: it looks people up by address."""
    acme.sign_in(client)
    globex.knows("evil-sub", ANA)
    evil = Client()
    assert globex.sign_in(evil).status_code == 403
    assert not signed_in(evil)


def test_invitation_by_another_organization_opens_nothing_here(
    acme: Tenant, globex: Tenant, client: Client
) -> None:
    """Globex invites Ana's address and has its own provider say that it is she."""
    acme.sign_in(client)
    globex.invite(ANA, role="admin")
    globex.knows("evil-sub", ANA)
    evil = Client()
    globex.sign_in(evil)
    page = evil.get("/")
    assert page.wsgi_request.org == globex.org  # type: ignore[attr-defined]


def test_token_of_one_provider_is_nothing_to_another(
    acme: Tenant, globex: Tenant, client: Client
) -> None:
    """Globex' provider hands on a token that Acme's really signed."""
    nonce = parse_qs(urlsplit(globex.leave(client)).query)["nonce"][0]
    now = int(time.time())
    person = {"sub": "ana-sub", "email": ANA, "email_verified": True}
    token = acme.twin.sign(
        {"iss": acme.twin.issuer, "aud": "lens-client", "iat": now, "exp": now + 60, **person}
        | {"nonce": nonce}
    )
    globex.twin.token_reply = {"id_token": token}
    assert globex.sign_in(client).status_code == 403


@pytest.mark.parametrize("how", ["inactive", "removed", "closed"])
def test_who_may_no_longer_is_out_with_the_next_click(
    acme: Tenant, client: Client, how: str
) -> None:
    acme.invite("boss@acme.test", role="admin")
    acme.sign_in(client)
    assert client.get("/").wsgi_request.actor is not None  # type: ignore[attr-defined]
    ana = member(acme, ANA)
    if how == "inactive":
        User.objects.filter(pk=ana.pk).update(is_active=False)
    elif how == "removed":
        services.membership_remove(ana.memberships.get(), actor=SYSTEM)
    else:
        acme.org.closed_at = acme.org.created_at
        acme.org.save()
    request = client.get("/").wsgi_request
    assert request.actor is None  # type: ignore[attr-defined]
    assert request.org is None  # type: ignore[attr-defined]
    if how != "closed":
        assert acme.sign_in(Client()).status_code == 403


def test_provider_that_does_not_work_yet_signs_nobody_in(acme: Tenant, client: Client) -> None:
    acme.idp.working_at = None
    acme.idp.save()
    assert client.get(reverse("oidc_start", args=[acme.idp.pk])).status_code == 404


def test_provider_that_is_away_is_a_page(acme: Tenant, client: Client) -> None:
    acme.twin.replies["/.well-known/openid-configuration"] = (503, {}, b"")
    response = client.get(reverse("oidc_start", args=[acme.idp.pk]))
    assert response.status_code == 403
    assert b"does not answer" in response.content


METADATA: dict[str, Lie] = {
    "another issuer": {"issuer": "https://login.globex.test"},
    "token endpoint over http": {"token_endpoint": "http://login.acme.test/token"},
    "keys from a file": {"jwks_uri": "file:///etc/passwd"},
    "no keys": {"jwks_uri": None},
    "symmetric only": {"id_token_signing_alg_values_supported": ["HS256"]},
    "credentials in it": {"authorization_endpoint": "https://a:b@login.acme.test/"},
}


@pytest.mark.parametrize("name", METADATA)
def test_bad_description_is_refused(acme: Tenant, client: Client, name: str) -> None:
    acme.twin.metadata = METADATA[name]
    assert client.get(reverse("oidc_start", args=[acme.idp.pk])).status_code == 403


# ---- pages


def test_login_asks_for_the_organization_when_there_are_several(
    acme: Tenant, globex: Tenant, client: Client
) -> None:
    page = client.get("/login/").content.decode()
    assert 'name="organization"' in page
    assert "acme login" not in page
    assert "acme login" in client.get("/login/", {"organization": "ACME "}).content.decode()
    assert "globex login" in client.get("/login/globex/").content.decode()
    assert "There is no sign-in for" in client.get("/login/nobody/").content.decode()


def test_no_password_form_anywhere(acme: Tenant, client: Client) -> None:
    for path in ("/login/", "/admin/", "/password_change/", "/orgs/user/add/"):
        page = client.get(path, follow=True)
        assert b'type="password"' not in page.content
    client.post("/login/", {"username": ANA, "password": "b", "email": ANA})
    assert not signed_in(client)


def test_sign_out_needs_a_form_and_is_audited(acme: Tenant, client: Client) -> None:
    acme.sign_in(client)
    assert client.get("/logout/").status_code == 405
    assert Client(enforce_csrf_checks=True).post("/logout/").status_code == 403
    client.post("/logout/")
    assert not signed_in(client)
    assert AuditEvent.objects.get(action="person.sign_out").org_id == acme.org.pk
