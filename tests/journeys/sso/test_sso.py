"""Sign-in through real, certified providers, two of them at once in one deployment, in Chromium.

`make test-sso` installs npm `oidc-provider` (locked by hash) below build/ and runs this.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from apps.audit.models import AuditEvent
from apps.common import addresses, outbound
from apps.orgs import services
from apps.orgs.models import Identity, IdentityProvider, Membership, UserSession
from apps.orgs.selectors import actor_for
from apps.orgs.services import setup
from apps.orgs.services.identity_providers import idp_create
from apps.orgs.types import SYSTEM
from tests.apps.orgs.providers import in_use
from tests.journeys.sso.chromium import Chromium, program
from tests.twins.ca import TwinCa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_django.live_server_helper import LiveServer

    from apps.orgs.models import Organization

HERE = Path(__file__).parent
MODULES = HERE.parents[2] / "build" / "sso"
SECRET = "the-secret-of-the-client-at-the-provider"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.database,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here"),
    pytest.mark.skipif(program() is None, reason="there is no Chromium here"),
    pytest.mark.skipif(
        not (MODULES / "node_modules" / "oidc-provider").exists(),
        reason="`make test-sso` installs oidc-provider first",
    ),
]
PEOPLE: dict[str, dict[str, Any]] = {
    "ana": {"email": "ana@acme.test", "email_verified": True, "name": "Ana", "groups": ["admins"]},
    "sam": {"email": "sam@acme.test", "email_verified": True, "groups": ["sre", "other"]},
    "nobody": {"email": "nobody@acme.test", "email_verified": True, "groups": ["other"]},
    "many": {
        "email": "many@acme.test",
        "email_verified": True,
        "groups": [f"group {n}" for n in range(300)],
    },
    "unsure": {"email": "unsure@acme.test", "email_verified": False, "groups": ["sre"]},
}
EVIL: dict[str, dict[str, Any]] = {
    "gus": {"email": "gus@globex.test", "email_verified": True, "groups": ["sre"]},
    "evil": {"email": "ana@acme.test", "email_verified": True, "groups": ["sre", "admins"]},
}


@dataclass
class Deployment:
    """A running platform and the issuers of the two real providers."""

    url: str
    issuers: list[str]

    def connect(self, slug: str, issuer: str) -> IdentityProvider:
        """An organization with a proven domain, and groups that give a team or the role admin."""
        org = services.organization_create(slug=slug, name=slug.title(), actor=SYSTEM)
        services.user_invite(org, email=f"root@{slug}.test", role="admin", actor=SYSTEM)
        idp = idp_create(
            org,
            name=f"{slug} login",
            issuer=issuer,
            client_id=f"lens-{issuer.partition('//')[2].partition('.')[2].partition('.')[0]}",
            secret=SECRET,
            scopes="openid email profile groups",
            group_claim="groups",
            actor=SYSTEM,
        )
        domain = services.domain_create(idp, domain=f"{slug}.test", actor=SYSTEM)
        services.domain_mark(domain, reason="a test", actor=SYSTEM)
        team = services.team_create(org, slug="sre", name="SRE", actor=SYSTEM)
        services.mapping_create(idp, group="sre", team=team, actor=SYSTEM)
        services.mapping_create(idp, group="admins", role="admin", actor=SYSTEM)
        return idp


@pytest.fixture
def deployment(
    live_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    ca = TwinCa()
    context = ssl.create_default_context(cadata=ca.pem)
    monkeypatch.setattr(outbound, "_tls", lambda: context)
    monkeypatch.setattr(outbound, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.0.1", 0))])
    monkeypatch.setattr(outbound, "vet", lambda *_, **__: addresses.OK)
    cache.clear()
    hosts = {"login.acme.test": PEOPLE, "login.globex.test": EVIL}
    settings = {
        "modules": str(MODULES),
        "providers": [
            {
                "host": host,
                "pem": str(ca.issue(tmp_path, host)),
                "people": people,
                "client": client(host, live_server.url),
            }
            for host, people in hosts.items()
        ],
    }
    node = shutil.which("node")
    assert node
    log = tmp_path / "providers.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(  # noqa: S603  a fixed program
            [node, str(HERE / "providers.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={"NODE_EXTRA_CA_CERTS": "", "PATH": "/usr/bin:/bin"},
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.flush()
        yield Deployment(live_server.url, json.loads(process.stdout.readline()))
        process.stdin.close()


def client(host: str, base: str) -> dict[str, Any]:
    """How the platform is registered at a provider."""
    return {
        "client_id": f"lens-{host.split('.')[1]}",
        "client_secret": SECRET,
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "redirect_uris": [f"{base}/oidc/callback/"],
        "post_logout_redirect_uris": [f"{base}/logout/done/"],
        "backchannel_logout_uri": f"{base}/oidc/logout/",
        "backchannel_logout_session_required": True,
        "scope": "openid email profile groups",
    }


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "chromium") as found:
        yield found


def sign_in(browser: Chromium, login: str) -> None:
    """At the real provider: who I am, any password, and yes."""
    browser.fill("login", login)
    browser.fill("password", "any")
    browser.click("Sign-in")
    if "/interaction/" in browser.url:
        browser.click("Continue")


def role_and_teams(org: Organization, email: str) -> tuple[str, int]:
    row = Membership.objects.filter(org=org, user__email=email).first()
    actor = actor_for(row.user, org) if row else None
    return (actor.role, len(actor.team_ids)) if actor else ("", 0)


def test_two_providers_at_once_with_groups(deployment: Deployment, browser: Chromium) -> None:
    acme, globex = (
        in_use(deployment.connect(slug, issuer))
        for slug, issuer in zip(("acme", "globex"), deployment.issuers, strict=True)
    )
    for email, login, idp, role in (
        ("sam@acme.test", "sam", acme, ("member", 1)),
        ("gus@globex.test", "gus", globex, ("member", 1)),
        ("ana@acme.test", "ana", acme, ("admin", 0)),
    ):
        browser.call("Network.clearBrowserCookies")
        browser.open(f"{deployment.url}/login/")
        browser.fill("email", email)
        browser.click("Continue")
        browser.click(f"Sign in with {idp.name}")
        assert browser.url.startswith(idp.issuer)
        sign_in(browser, login)
        assert browser.url == f"{deployment.url}/", browser.text
        assert role_and_teams(idp.org, email) == role
        identity = Identity.objects.get(user__email=email)
        assert (identity.idp, identity.subject) == (idp, login)
    assert browser.dialogs == 0


@pytest.mark.parametrize(
    ("slug", "login", "said"),
    [
        ("globex", "evil", "not the one for that domain"),
        ("acme", "nobody", "No access yet"),
        ("acme", "many", "more groups of you"),
        ("acme", "unsure", "has not verified"),
    ],
)
def test_who_may_not_leaves_nothing(
    deployment: Deployment, browser: Chromium, slug: str, login: str, said: str
) -> None:
    found = {
        name: in_use(deployment.connect(name, issuer))
        for name, issuer in zip(("acme", "globex"), deployment.issuers, strict=True)
    }
    browser.open(f"{deployment.url}/login/{slug}/")
    browser.click(f"Sign in with {found[slug].name}")
    sign_in(browser, login)
    assert said in browser.text
    assert not Identity.objects.exists()
    assert not UserSession.objects.exists()


def test_out_here_out_at_the_provider(deployment: Deployment, browser: Chromium) -> None:
    """RP-initiated logout ends the provider's session, which tells us by back channel."""
    idp = in_use(deployment.connect("acme", deployment.issuers[0]))
    browser.open(f"{deployment.url}/login/acme/")
    browser.click(f"Sign in with {idp.name}")
    sign_in(browser, "ana")
    row = UserSession.objects.get()
    assert row.sid
    UserSession.objects.create(
        org=idp.org,
        idp=idp,
        user=row.user,
        subject=row.subject,
        sid=row.sid,
        expires_at=row.expires_at,
    )
    browser.run("document.getElementById('logout-form').submit()")
    browser.settle()
    assert browser.url.startswith(f"{idp.issuer}/session/end"), browser.text
    browser.click("Yes, sign me out")
    assert browser.url == f"{deployment.url}/logout/done/"
    assert "You are signed out" in browser.text
    until = time.monotonic() + 10
    while not AuditEvent.objects.filter(action="session.end_by_provider").exists():
        assert time.monotonic() < until, "the provider told nobody"
        time.sleep(0.05)
    assert {one.ended_by for one in UserSession.objects.all()} == {"sign-out", "provider"}
    browser.open(f"{deployment.url}/")
    assert "/login/" in browser.url


def test_an_admin_connects_a_real_provider(deployment: Deployment, browser: Chromium) -> None:
    """From the set-up's link to a provider that was tested and is in use; then a changed secret."""
    issuer = deployment.issuers[0]
    browser.open(f"{deployment.url}/setup/#{setup.setup_link_create()}")
    browser.fill("name", "Acme")
    browser.fill("slug", "acme")
    browser.fill("email", "ana@acme.test")
    browser.click("Create organization")
    browser.fill("name", "Acme login")
    browser.fill("issuer", issuer)
    browser.fill("client_id", "lens-acme")
    browser.fill("client_secret", SECRET)
    browser.click("Connect")
    browser.click("Sign in with Acme login")
    sign_in(browser, "ana")
    assert browser.url == f"{deployment.url}/"
    idp = IdentityProvider.objects.get()
    assert idp.working_at
    page = f"{deployment.url}/orgs/identityprovider/{idp.pk}"
    browser.open(f"{page}/change/")
    assert f"{deployment.url}/oidc/callback/" in browser.text
    services.idp_update(idp, scopes="openid email profile groups", actor=SYSTEM)
    browser.open(f"{page}/change/")
    assert "changes wait for a test" in browser.text.lower() or "wait for a test" in browser.text
    browser.open(f"{deployment.url}/oidc/test/{idp.pk}/")
    sign_in(browser, "ana")
    assert browser.url.startswith(page), browser.text
    idp.refresh_from_db()
    assert (idp.staged, idp.scopes) == ({}, "openid email profile groups")
