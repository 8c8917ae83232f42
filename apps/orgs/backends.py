"""The one authentication backend: OpenID Connect, with the provider taken from the flow.

It keeps mozilla-django-oidc's sequence (code, token, claims, user) and replaces every step in which
the stock backend trusts one global provider: it never reads `OIDC_*` settings, checks `iss`, `aud`
and `sub`, asks only through `outbound`, and never looks a person up by e-mail address alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import reverse
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.utils import absolutify

from apps.orgs import session
from apps.orgs.models import User
from apps.orgs.oidc import tokens
from apps.orgs.oidc.client import client_for
from apps.orgs.oidc.errors import bad_answer
from apps.orgs.oidc.flow import Purpose
from apps.orgs.services.sessions import Arrival
from apps.orgs.services.setup import setup_complete
from apps.orgs.services.sign_in import prove, sign_in

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from django.http import HttpRequest

    from apps.orgs.oidc.flow import Flow

    Claims = Mapping[str, Any]

CALLBACK = "oidc_authentication_callback"
_OF_AN_ADDRESS = ("email", "email_verified", "xms_edov")


class OrganizationBackend(OIDCAuthenticationBackend):
    """Signs in through one organization's provider; SignInError for everything that fails."""

    def __init__(self) -> None:
        """Needs no provider: Django makes a backend for each request that has a session."""

    def authenticate(
        self,
        request: HttpRequest | None,
        *,
        nonce: str = "",
        code_verifier: str = "",
    ) -> User | None:
        """The person behind the authorization code of this request's flow, or SignInError."""
        flow: Flow | None = getattr(request, "oidc_flow", None)
        if request is None or flow is None:
            return None
        arrival = self.arrival(request, flow, nonce, code_verifier)
        request.oidc_arrival = arrival  # type: ignore[attr-defined]  # for the session
        if flow.purpose is Purpose.SETUP:
            recovered = session.recovered_organization(request)
            return setup_complete(flow.idp, arrival.claims, flow.fingerprint, recovered)
        if flow.purpose is Purpose.TEST:
            return prove(flow.idp, arrival.claims, flow.fingerprint)
        return sign_in(flow.idp, arrival.claims, flow.invitation)

    def arrival(self, request: HttpRequest, flow: Flow, nonce: str, code_verifier: str) -> Arrival:
        """What the provider says of whoever came back, verified."""
        client = client_for(flow.idp)
        answer = client.exchange(
            {
                "grant_type": "authorization_code",
                "client_id": flow.idp.client_id,
                "code": request.GET["code"],
                "code_verifier": code_verifier,
                "redirect_uri": absolutify(request, reverse(CALLBACK)),
            }
        )
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        header = tokens.header_of(id_token, flow.idp.algorithms)
        if not isinstance(access_token, str) or not isinstance(id_token, str):
            raise bad_answer("there is no access token in it")
        if not access_token.isascii() or not access_token.isprintable():
            raise bad_answer("its access token is none (RFC 6749 appendix A.12)")
        claims = tokens.verified(
            id_token,
            client.key_for(header),
            issuer=flow.idp.issuer,
            client_id=flow.idp.client_id,
            nonce=nonce,
            access_token=access_token,
        )
        lacking = {"email", flow.idp.group_claim} - {""} - claims.keys()
        if lacking:
            claims = _completed(claims, client.userinfo(access_token, claims["sub"]))
        return Arrival(claims, id_token)

    def get_user(self, user_id: uuid.UUID | str) -> User | None:
        """The active person of a session, read anew in each request."""
        return User.objects.filter(pk=user_id, is_active=True).first()


def _completed(claims: Claims, told: Claims) -> dict[str, Any]:
    """The ID token's claims, and what userinfo tells beside them.

    An address counts with what is said of this very address: not with a mark of another one.
    """
    if "email" not in claims:
        claims = _without_address(claims)
    elif told.get("email") != claims["email"]:
        told = _without_address(told)
    return {**told, **claims}


def _without_address(claims: Claims) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in _OF_AN_ADDRESS}
