"""Providers after the set-up: proof before use, changes that wait, and no way to lock out all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Conflict, Denied, Invalid
from apps.orgs import services
from apps.orgs.models import Identity, IdentityProvider, Membership
from apps.orgs.selectors import actor_for
from apps.orgs.services.identity_providers import (
    configured,
    fingerprint_of,
    idp_create,
    idp_prove,
    idp_secret,
    is_proven,
)
from apps.orgs.services.setup import MIN_REASON, setup_link_create
from apps.orgs.types import SYSTEM
from tests import factories
from tests.apps.admin_support import errors, form_data, url
from tests.apps.orgs.providers import Tenant, signed_in, tenant, twins
from tests.twins.idp import CLIENT_ID, CLIENT_SECRET, EC_KEY, RSA_KEY, signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA = "ana@acme.test"
REASON = "The provider's contract ended."


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    """Acme with its provider in use, and a second provider that is not connected yet."""
    for running in twins(tmp_path, monkeypatch, "login.acme.test", "new.acme.test"):
        old = tenant("acme", running[0])
        old.invite(ANA, role="admin")
        old.knows("ana-sub", ANA)
        new = idp_create(
            old.org,
            name="new login",
            issuer=running[1].issuer,
            client_id=CLIENT_ID,
            secret=CLIENT_SECRET,
            actor=SYSTEM,
        )
        second = Tenant(old.org, running[1], new)
        second.knows("ana-at-new", ANA)
        yield [old, second]


@pytest.fixture
def admin(tenants: list[Tenant], client: Client) -> Client:
    """Ana's browser."""
    tenants[0].sign_in(client)
    assert signed_in(client)
    return client


def try_out(tenant: Tenant, client: Client) -> Any:
    """A test sign-in, as the button does it."""
    cache.clear()
    leave = client.get(url(IdentityProvider, "test", tenant.idp.pk), follow=False)
    assert leave.status_code == 302, leave.content
    leave = client.get(leave.headers["Location"])
    assert leave.status_code == 302, leave.content
    return tenant.arrive(client, tenant.twin.authorize(leave.headers["Location"]))


def post(client: Client, what: str, idp: IdentityProvider) -> Any:
    return client.post(url(IdentityProvider, what, idp.pk), follow=True)


def said(response: Any) -> str:
    return " ".join(str(message) for message in response.context["messages"])


# ---- proof


def test_no_provider_comes_into_use_untested(tenants: list[Tenant], admin: Client) -> None:
    new = tenants[1]
    with pytest.raises(Conflict, match="Test it first"):
        services.idp_enable(new.idp, actor=SYSTEM)
    assert post(admin, "enable", new.idp).status_code == 403
    new.idp.refresh_from_db()
    assert new.idp.working_at is None


def test_a_whole_round_trip_proves_it(tenants: list[Tenant], admin: Client) -> None:
    new = tenants[1]
    response = try_out(new, admin)
    assert response.headers["Location"] == url(IdentityProvider, "change", new.idp.pk)
    new.idp.refresh_from_db()
    assert is_proven(new.idp)
    assert new.idp.proved_by == ANA
    assert not IdentityProvider.objects.get(pk=new.idp.pk).working_at
    post(admin, "enable", new.idp)
    assert IdentityProvider.objects.get(pk=new.idp.pk).working_at
    fresh = Client()
    new.sign_in(fresh)
    assert signed_in(fresh) == signed_in(admin)
    actions = AuditEvent.objects.filter(resource_type="idp").values_list("action", flat=True)
    assert {"idp.prove", "idp.enable"} <= set(actions)


def test_the_admins_own_session_stays(tenants: list[Tenant], admin: Client) -> None:
    before = admin.session.session_key
    try_out(tenants[1], admin)
    assert admin.session.session_key == before
    assert admin.get("/").wsgi_request.org == tenants[0].org  # type: ignore[attr-defined]


LIES: dict[str, tuple[str, dict[str, Any]]] = {
    "signature": ("header", {"alg": "none"}),
    "unverified": ("claims", {"email_verified": False}),
    "nobody": ("claims", {"email": "nobody@acme.test"}),
    "a member": ("claims", {"email": "member@acme.test"}),
    "another admin": ("claims", {"email": "admin@globex.example"}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_test_that_fails_proves_nothing(tenants: list[Tenant], admin: Client, name: str) -> None:
    tenants[0].invite("member@acme.test")
    factories.globex()
    place, lie = LIES[name]
    setattr(tenants[1].twin, place, lie)
    response = try_out(tenants[1], admin)
    assert response.status_code == 403
    tenants[1].idp.refresh_from_db()
    assert not is_proven(tenants[1].idp)
    assert not Identity.objects.filter(idp=tenants[1].idp).exists()
    assert admin.get("/").status_code == 200


def test_the_admin_is_told_what_was_wrong(tenants: list[Tenant], admin: Client) -> None:
    tenants[1].twin.replies["/token"] = (401, {}, b"{}")
    page = try_out(tenants[1], admin).content.decode()
    assert "the token endpoint answered 401" in page
    assert url(IdentityProvider, "change", tenants[1].idp.pk) in page


def test_a_test_is_the_admins_alone(tenants: list[Tenant], admin: Client) -> None:
    tenants[0].invite("member@acme.test")
    tenants[0].knows("member-sub", "member@acme.test")
    member, stranger = Client(), Client()
    tenants[0].sign_in(member)
    path = reverse("oidc_test", args=[tenants[1].idp.pk])
    assert member.get(path).status_code == 404
    assert stranger.get(path).status_code == 404
    leave = admin.get(path).headers["Location"]
    Membership.objects.filter(user__email=ANA).update(role="member", manual_role="member")
    back = tenants[1].arrive(admin, tenants[1].twin.authorize(leave))
    assert back.status_code == 403
    tenants[1].idp.refresh_from_db()
    assert not is_proven(tenants[1].idp)


def test_what_changes_during_the_test_is_not_proven(tenants: list[Tenant], admin: Client) -> None:
    new = tenants[1]
    leave = admin.get(reverse("oidc_test", args=[new.idp.pk])).headers["Location"]
    services.idp_update(new.idp, scopes="openid email groups", actor=SYSTEM)
    assert new.arrive(admin, new.twin.authorize(leave)).status_code == 403
    new.idp.refresh_from_db()
    assert not is_proven(new.idp)


def test_only_the_platform_says_proven(tenants: list[Tenant]) -> None:
    world = factories.globex()
    idp = idp_create(
        world.org, name="x", issuer="https://x.example", client_id="x", secret="x", actor=SYSTEM
    )
    with pytest.raises(Denied):
        idp_prove(idp, fingerprint=fingerprint_of(idp), by="x", actor=world.admin)


@pytest.mark.parametrize(
    "change",
    [{"client_id": "x"}, {"secret": "x"}, {"scopes": "openid email x"}, {"algorithms": ["ES256"]}],
)
def test_every_setting_that_matters_voids_the_proof(
    tenants: list[Tenant], admin: Client, change: dict[str, Any]
) -> None:
    try_out(tenants[1], admin)
    idp = services.idp_update(tenants[1].idp, **change, actor=SYSTEM)
    assert not is_proven(idp)
    with pytest.raises(Conflict):
        services.idp_enable(idp, actor=SYSTEM)


def test_a_domain_moves_from_the_old_provider_to_the_new_one(
    tenants: list[Tenant], admin: Client
) -> None:
    """The test is done while the domain is the old one's; people come in when it has moved."""
    old, new = tenants
    row = services.domain_create(old.idp, domain="acme.test", actor=SYSTEM)
    row = services.domain_mark(row, reason="a test", actor=SYSTEM)
    assert try_out(new, admin).status_code == 302
    post(admin, "enable", new.idp)
    assert not signed_in_anew(new)
    services.domain_move(row, idp=new.idp, actor=SYSTEM)
    assert signed_in_anew(new)


def test_a_provider_out_of_use_keeps_no_domain_from_the_organization(
    tenants: list[Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tenants
    row = services.domain_create(old.idp, domain="acme.test", actor=SYSTEM)
    services.domain_mark(row, reason="a test", actor=SYSTEM)
    browser = recover(capsys, "--disable-providers")
    assert finish(browser, new).headers["Location"] == "/"
    assert signed_in_anew(new)


def test_an_admin_whose_time_is_over_proves_nothing(tenants: list[Tenant], admin: Client) -> None:
    """What a group gives goes on; the role admin was by hand, and no sweep has run yet."""
    tenants[0].invite("old@acme.test", role="admin")
    Membership.objects.filter(user__email="old@acme.test").update(
        expires_at=clock.now(), group_role="member"
    )
    tenants[1].knows("old-sub", "old@acme.test")
    assert try_out(tenants[1], admin).status_code == 403


# ---- changes of a provider in use


def test_a_mistyped_secret_locks_nobody_out(tenants: list[Tenant], admin: Client) -> None:
    old = tenants[0]
    page = url(IdentityProvider, "change", old.idp.pk)
    data = form_data(admin.get(page)) | {"client_secret": "mistyped"}
    assert admin.post(page, data).status_code == 302
    assert "changes wait for a test" in admin.get(page).content.decode()
    again = Client()
    old.sign_in(again)
    assert signed_in(again)
    assert try_out(old, admin).status_code == 403
    old.idp.refresh_from_db()
    assert idp_secret(old.idp) == CLIENT_SECRET


def test_a_tested_change_takes_over(tenants: list[Tenant], admin: Client) -> None:
    old = tenants[0]
    services.idp_update(old.idp, secret="new", scopes="openid email", actor=SYSTEM)
    old.idp.refresh_from_db()
    assert (old.idp.scopes, configured(old.idp).scopes) == ("openid email profile", "openid email")
    assert "mistyped" not in str(old.idp.staged)
    old.twin.secret = "new"
    assert not signed_in_anew(old)
    assert try_out(old, admin).status_code == 302
    old.idp.refresh_from_db()
    assert (idp_secret(old.idp), old.idp.scopes, old.idp.staged) == ("new", "openid email", {})
    assert signed_in_anew(old)


def signed_in_anew(tenant: Tenant) -> str:
    cache.clear()
    browser = Client()
    tenant.sign_in(browser)
    return signed_in(browser)


def test_algorithms_are_the_providers(tenants: list[Tenant], admin: Client) -> None:
    new = tenants[1]
    new.twin.header, new.twin.signer = {"alg": "PS384"}, signer("PS384", RSA_KEY)
    new.twin.claims = {"at_hash": None}
    assert try_out(new, admin).status_code == 403
    services.idp_update(new.idp, algorithms=["PS384"], actor=SYSTEM)
    assert try_out(new, admin).status_code == 302
    new.twin.header, new.twin.signer = {"alg": "ES256", "kid": "two"}, signer("ES256", EC_KEY)
    assert try_out(new, admin).status_code == 403


def test_scopes_are_asked_for(tenants: list[Tenant], admin: Client) -> None:
    services.idp_update(tenants[1].idp, scopes="openid email groups", actor=SYSTEM)
    leave = admin.get(reverse("oidc_test", args=[tenants[1].idp.pk])).headers["Location"]
    assert "scope=openid+email+groups" in leave
    assert "prompt=login" in leave


BAD: dict[str, dict[str, Any]] = {
    "scopes": {"scopes": "openid"},
    "group_claim": {"group_claim": "my groups"},
    "algorithms": {"algorithms": ["HS256"]},
    "secret": {"secret": "a\nb"},
    "client_id": {"client_id": ""},
}


@pytest.mark.parametrize("field", BAD)
def test_bad_settings_name_their_field(tenants: list[Tenant], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        services.idp_update(tenants[0].idp, **BAD[field], actor=SYSTEM)
    assert refused.value.field == field


@pytest.mark.parametrize("issuer", ["http://x.example", "x.example", "https://a:b@x.example"])
def test_an_issuer_is_https(tenants: list[Tenant], admin: Client, issuer: str) -> None:
    page = url(IdentityProvider, "add")
    data = form_data(admin.get(page)) | {
        "name": "x",
        "issuer": issuer,
        "client_id": "x",
        "client_secret": "the-secret",
    }
    response = admin.post(page, data)
    assert "issuer" in errors(response)
    assert "the-secret" not in response.content.decode()


def test_the_page_says_what_to_register(tenants: list[Tenant], admin: Client) -> None:
    page = admin.get(url(IdentityProvider, "add")).content.decode()
    for text in ("http://testserver/oidc/callback/", "http://testserver/oidc/logout/"):
        assert text in page
    for name in ("Okta", "Microsoft Entra ID", "Google Workspace", "Keycloak", "JumpCloud"):
        assert f"<summary>{name}</summary>" in page


# ---- no lock-out


def test_the_last_provider_stays(tenants: list[Tenant], admin: Client) -> None:
    old, new = tenants
    assert "only way in" in said(post(admin, "disable", old.idp))
    try_out(new, admin)
    post(admin, "enable", new.idp)
    assert "done" in said(post(admin, "disable", old.idp))
    old.idp.refresh_from_db()
    assert old.idp.working_at is None


def test_a_provider_in_use_is_not_deleted(tenants: list[Tenant], admin: Client) -> None:
    response = admin.post(
        url(IdentityProvider, "delete", tenants[0].idp.pk), {"post": "yes"}, follow=True
    )
    assert "Disable it first" in said(response)
    admin.post(url(IdentityProvider, "delete", tenants[1].idp.pk), {"post": "yes"})
    assert list(IdentityProvider.objects.all()) == [tenants[0].idp]


def test_a_development_provider_that_does_not_run_is_no_way_in(tenants: list[Tenant]) -> None:
    services.idp_enable(
        idp_create(
            tenants[0].org,
            name="dev",
            issuer="http://127.0.0.1:9",
            client_id="x",
            secret="x",
            is_development=True,
            actor=SYSTEM,
        ),
        actor=SYSTEM,
    )
    ana = actor_for(Membership.objects.get(user__email=ANA).user, tenants[0].org)
    assert ana is not None
    with pytest.raises(Conflict, match="only way in"):
        services.idp_disable(tenants[0].idp, actor=ana)


def test_sessions_of_a_disabled_provider_open_nothing(tenants: list[Tenant], admin: Client) -> None:
    services.idp_disable(tenants[0].idp, actor=SYSTEM)
    assert admin.get("/").wsgi_request.actor is None  # type: ignore[attr-defined]


# ---- the provider is lost


def recover(capsys: pytest.CaptureFixture[str], *options: str) -> Client:
    """The operator's command, and a browser that opened its link."""
    call_command("recover_sign_in", "--org", "acme", "--reason", REASON, *options)
    link = capsys.readouterr().out.strip()
    browser = Client()
    cache.clear()
    response = browser.post("/setup/open/", {"token": link})
    assert response.headers["Location"] == "/setup/sign-in/"
    return browser


def finish(browser: Client, new: Tenant) -> Any:
    leave = browser.get(reverse("setup_prove", args=[new.idp.pk]))
    return new.arrive(browser, new.twin.authorize(leave.headers["Location"]))


def test_recovery_brings_an_admin_in_through_a_new_provider(
    tenants: list[Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    browser = recover(capsys)
    assert finish(browser, tenants[1]).headers["Location"] == "/"
    assert signed_in(browser)
    tenants[1].idp.refresh_from_db()
    assert tenants[1].idp.working_at is not None
    events = AuditEvent.objects.filter(action__startswith="recovery.")
    assert {(event.org_id, event.reason) for event in events} == {(tenants[0].org.pk, REASON)}
    page = browser.get("/").content.decode()
    assert "the operator connected the sign-in" in page
    assert "contract ended" in page


def test_recovery_link_is_taken_by_its_page(
    tenants: list[Tenant], admin: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page hands the token over by its form, also where others can sign in already, and in a
    browser that is signed in."""
    call_command("recover_sign_in", "--org", "acme", "--reason", REASON)
    link = capsys.readouterr().out.strip()
    page = admin.get("/setup/").content.decode()
    assert 'action="/setup/open/"' in page
    assert "orgs/setup.js" in page
    other = factories.globex()
    call_command("recover_sign_in", "--org", other.org.slug, "--reason", REASON)
    for wrong in ("lnsu_unknown", ""):
        assert admin.post("/setup/open/", {"token": wrong}).status_code == 403
    theirs = capsys.readouterr().out.strip()
    assert admin.post("/setup/open/", {"token": theirs}).headers["Location"] == "/setup/sign-in/"
    assert not signed_in(admin)
    assert Client().post("/setup/open/", {"token": link}).status_code == 302


def test_recovery_makes_nobody_admin(
    tenants: list[Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    browser = recover(capsys)
    tenants[1].knows("evil", "evil@acme.test")
    assert finish(browser, tenants[1]).status_code == 403
    assert browser.post("/setup/admin/", {"email": "evil@acme.test"}).status_code == 404
    assert browser.get("/setup/organization/").headers["Location"] == "/setup/sign-in/"
    assert not signed_in(browser)


def test_recovery_reaches_one_organization(
    tenants: list[Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    other = factories.globex()
    theirs = idp_create(
        other.org,
        name="x",
        issuer=tenants[1].twin.issuer,
        client_id=CLIENT_ID,
        secret=CLIENT_SECRET,
        actor=SYSTEM,
    )
    browser = recover(capsys)
    assert browser.get(reverse("setup_prove", args=[theirs.pk])).status_code == 404


def test_recovery_can_first_end_what_cannot_be_trusted(
    tenants: list[Tenant], admin: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    recover(capsys, "--disable-providers")
    tenants[0].idp.refresh_from_db()
    assert tenants[0].idp.working_at is None
    assert admin.get("/").wsgi_request.actor is None  # type: ignore[attr-defined]
    event = AuditEvent.objects.get(action="idp.disable")
    assert event.principal_name == "Operator"


@pytest.mark.parametrize(
    ("org", "reason", "message"),
    [("nobody", REASON, "no organization"), ("acme", "x" * (MIN_REASON - 1), "Say why")],
)
def test_recovery_needs_a_reason(
    tenants: list[Tenant], org: str, reason: str, message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("recover_sign_in", "--org", org, "--reason", reason)


def test_a_set_up_link_is_no_recovery(tenants: list[Tenant]) -> None:
    """With a provider in use there is no set-up."""
    with pytest.raises(Conflict, match="closed"):
        setup_link_create()
