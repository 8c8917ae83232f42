"""Two organizations, each with a real provider of its own, and a browser's part of a sign-in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.cache import cache
from django.urls import reverse

from apps.common import addresses, outbound
from apps.orgs import services
from apps.orgs.models import Membership
from apps.orgs.services.identity_providers import (
    fingerprint_of,
    idp_create,
    idp_enable,
    idp_prove,
)
from apps.orgs.types import SYSTEM
from tests.twins.ca import TwinCa
from tests.twins.idp import CLIENT_ID, CLIENT_SECRET, IdpTwin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from django.test import Client

    from apps.orgs.models import IdentityProvider, Organization, User


@dataclass
class Tenant:
    """An organization, its provider and the provider's row."""

    org: Organization
    twin: IdpTwin
    idp: IdentityProvider

    def invite(self, email: str, **more: Any) -> Membership:
        """A member who has not signed in yet."""
        return services.user_invite(self.org, email=email, actor=SYSTEM, **more)

    def knows(self, sub: str, email: str, **claims: Any) -> None:
        """Whoever signs in at the provider from now on."""
        self.twin.person = {"sub": sub, "email": email, "email_verified": True, **claims}

    def leave(self, client: Client, **query: str) -> str:
        """Start a sign-in; the URL at the provider."""
        response = client.get(reverse("oidc_start", args=[self.idp.pk]), query)
        assert response.status_code == 302, response.content
        return str(response.headers["Location"])

    def sign_in(self, client: Client, **query: str) -> Any:
        """The whole round trip."""
        return self.arrive(client, self.twin.authorize(self.leave(client, **query)))

    @staticmethod
    def arrive(client: Client, url: str) -> Any:
        """Come back from the provider."""
        return client.get(url.removeprefix("http://testserver"))


def signed_in(client: Client) -> str:
    """The user id of a browser's session, or an empty string."""
    return str(client.session.get("_auth_user_id", ""))


def tenant(slug: str, twin: IdpTwin) -> Tenant:
    """An organization whose sign-in works."""
    org = services.organization_create(slug=slug, name=slug.title(), actor=SYSTEM)
    idp = idp_create(
        org,
        name=f"{slug} login",
        issuer=twin.issuer,
        client_id=CLIENT_ID,
        secret=CLIENT_SECRET,
        actor=SYSTEM,
    )
    return Tenant(org, twin, in_use(idp))


def in_use(idp: IdentityProvider) -> IdentityProvider:
    """The provider, as if an admin had tested and enabled it."""
    fingerprint = fingerprint_of(idp)
    idp = idp_prove(idp, fingerprint=fingerprint, by="admin@test.example", actor=SYSTEM)
    return idp_enable(idp, actor=SYSTEM)


def twins(folder: Path, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> Iterator[list[IdpTwin]]:
    """Running providers whose names lead to loopback, and whose authority is trusted."""
    ca = TwinCa()
    context = ssl.create_default_context(cadata=ca.pem)
    monkeypatch.setattr(outbound, "_tls", lambda: context)
    monkeypatch.setattr(outbound, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.0.1", 0))])
    monkeypatch.setattr(outbound, "vet", lambda *_, **__: addresses.OK)
    cache.clear()
    running = [IdpTwin(host, ca.issue(folder, host)) for host in hosts]
    for twin in running:
        twin.__enter__()
    try:
        yield running
    finally:
        for twin in running:
            twin.__exit__()


def member(tenant: Tenant, email: str) -> User:
    """The invited person with this address."""
    return Membership.objects.get(org=tenant.org, user__email=email).user
