"""The library's own backend against the lies that ours refuses: the tests bite.

Ours is judged by the same cases in test_sign_in.py. Only the transport is replaced here; every
check is the library's.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from django.contrib.sessions.backends.cache import SessionStore
from django.core.exceptions import SuspiciousOperation
from django.test import RequestFactory
from mozilla_django_oidc import auth

from tests.apps.orgs.lies import ANA, FORGERIES, LIES
from tests.apps.orgs.providers import Tenant, member, tenant, twins
from tests.twins.idp import CLIENT_ID, CLIENT_SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from apps.orgs.models import User
    from tests.twins.idp import IdpTwin

pytestmark = [pytest.mark.database, pytest.mark.django_db]
NONCE = "n" * 43
# What the library's backend believes. It reads no `iss`, no `aud`, no `azp`, no `sub`, no `at_hash`
# and no `email_verified`; those of these that ours believes too would fail in test_sign_in.py.
BELIEVED = {
    "iss other",
    "iss with slash",
    "iss absent",
    "iss a list",
    "aud other",
    "aud empty",
    "aud absent",
    "aud shared, no azp",
    "aud shared, azp other",
    "azp other",
    "exp absent",
    "iat absent",
    "sub absent",
    "sub empty",
    "sub too long",
    "at_hash other",
    "at_hash a list",
    "email unverified",
    "email_verified absent",
    "email_verified 1",
    "no access_token",
}

# It takes the address from userinfo, which does not lie here.
ELSEWHERE = {"email a list", "email of nobody"}


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    for running in twins(tmp_path, monkeypatch, "login.acme.test", "login.globex.test"):
        acme, globex = tenant("acme", running[0]), tenant("globex", running[1])
        acme.invite(ANA)
        acme.knows("ana-sub", ANA)
        yield [acme, globex]


def stock(twin: IdpTwin, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stock backend, set up for this provider as its documentation says."""
    settings = {
        "OIDC_OP_TOKEN_ENDPOINT": "/token",
        "OIDC_OP_USER_ENDPOINT": "/userinfo",
        "OIDC_OP_JWKS_ENDPOINT": "/jwks",
        "OIDC_RP_CLIENT_ID": CLIENT_ID,
        "OIDC_RP_CLIENT_SECRET": CLIENT_SECRET,
        "OIDC_RP_SIGN_ALGO": "RS256",
        "OIDC_CREATE_USER": False,
    }

    def ask(url: str, data: dict[str, str] | None = None, **_: Any) -> httpx.Response:
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        status, headers, body = twin.answer(url, data or {}, f"Basic {basic}")
        return httpx.Response(
            status, headers=headers, content=body, request=httpx.Request("GET", "https://x.test")
        )

    monkeypatch.setattr(auth.requests, "post", ask)
    monkeypatch.setattr(auth.requests, "get", ask)

    class Stock(auth.OIDCAuthenticationBackend):
        @staticmethod
        def get_settings(attr: str, *args: Any) -> Any:
            return settings.get(attr, args[0] if args else None)

    return Stock()


def come(twin: IdpTwin, monkeypatch: pytest.MonkeyPatch) -> User | None:
    """Whom the stock backend takes the person for who comes back from the provider."""
    verifier = "v" * 43
    challenge = auth.base64.urlsafe_b64encode(auth.hashlib.sha256(verifier.encode()).digest())
    asked = {
        "state": "s",
        "nonce": NONCE,
        "client_id": CLIENT_ID,
        "redirect_uri": "http://testserver/oidc/callback/",
        "code_challenge": challenge.rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    back = twin.authorize(f"{twin.issuer}/authorize?{urlencode(asked)}")
    code = parse_qs(urlsplit(back).query)["code"][0]
    request = RequestFactory().get("/oidc/callback/", {"state": "s", "code": code})
    request.session = SessionStore()
    backend = stock(twin, monkeypatch)
    try:
        found: User | None = backend.authenticate(request, nonce=NONCE, code_verifier=verifier)
    except (SuspiciousOperation, auth.jwt.PyJWTError, KeyError, AttributeError, TypeError):
        return None
    return found


def test_the_stock_backend_works_at_all(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert come(tenants[0].twin, monkeypatch) == member(tenants[0], ANA)


def test_the_stock_backend_takes_a_stranger_for_ana(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The takeover: Globex' provider says somebody has Ana's address, and that is enough."""
    tenants[1].knows("evil-sub", ANA)
    assert come(tenants[1].twin, monkeypatch) == member(tenants[0], ANA)


@pytest.mark.parametrize("name", LIES)
def test_what_the_stock_backend_believes(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place, lie = LIES[name]
    setattr(tenants[0].twin, place, lie)
    assert (come(tenants[0].twin, monkeypatch) is not None) == (name in BELIEVED | ELSEWHERE)


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused_by_both(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    signature: Callable[[bytes], bytes]
    tenants[0].twin.header, signature = FORGERIES[name]
    tenants[0].twin.signer = signature
    assert come(tenants[0].twin, monkeypatch) is None
