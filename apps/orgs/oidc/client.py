"""One identity provider, ready to be spoken to: the row, its secret, its endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apps.common import outbound
from apps.common.crypto import CryptoError
from apps.common.errors import LensError
from apps.orgs import devidp
from apps.orgs.oidc import metadata, tokens
from apps.orgs.oidc.errors import SignInError, bad_answer
from apps.orgs.services.identity_providers import idp_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.orgs.models import IdentityProvider
    from apps.orgs.oidc.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Client:
    """Us, as a client of one provider."""

    idp: IdentityProvider
    endpoints: Metadata
    secret: str = field(repr=False)
    loopback_origin: str = ""

    def exchange(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Send an authorization code to the token endpoint; its answer, SignInError otherwise."""
        sent = dict(form)
        sent.pop("client_secret", None)
        basic = None
        if self.endpoints.basic:
            basic = (self.idp.client_id, self.secret)
        else:
            sent["client_secret"] = self.secret
        try:
            answer = outbound.fetch(
                self.endpoints.token_endpoint,
                form=sent,
                basic=basic,
                loopback_origin=self.loopback_origin,
            )
            body = answer.json()
        except LensError as error:
            raise bad_answer(f"the token endpoint failed: {error.message}") from None
        if answer.status != 200:
            raise bad_answer(f"the token endpoint answered {answer.status}", code="code_refused")
        return body

    def key_for(self, header: dict[str, Any]) -> dict[str, Any]:
        """The key that a token names, asking for new keys once when it is unknown."""
        for fresh in (False, True):
            keys = metadata.signing_keys(
                self.endpoints, loopback_origin=self.loopback_origin, fresh=fresh
            )
            # The development provider's one key is named by nobody, and made anew at each start.
            key = tokens.matching_key(header, keys, without_kid=self.idp.is_development)
            if key is not None:
                return key
        raise bad_answer("it has not published the key that signed", code="key_unknown")

    def userinfo(self, access_token: str, subject: str) -> dict[str, Any]:
        """The claims of the userinfo endpoint; they count only for the same `sub` (Core 5.3.2)."""
        if not self.endpoints.userinfo_endpoint:
            return {}
        try:
            answer = outbound.fetch(
                self.endpoints.userinfo_endpoint,
                headers={"Authorization": f"Bearer {access_token}"},
                loopback_origin=self.loopback_origin,
            )
            claims = answer.json()
        except LensError as error:
            raise bad_answer(f"the userinfo endpoint failed: {error.message}") from None
        if answer.status != 200 or claims.get("sub") != subject:
            raise bad_answer("its userinfo is about somebody else", code="subject_mismatch")
        return claims


def client_for(idp: IdentityProvider) -> Client:
    """Ready to speak; SignInError when the provider is away or its secret cannot be opened."""
    origin = ""
    if idp.is_development:
        origin = devidp.running_origin()
        if not origin or idp.issuer != origin:
            raise SignInError(
                "development_provider_away",
                "The development identity provider is not running here. Start the platform with"
                " `manage.py up` on a loopback address, or connect your own identity provider.",
            )
    try:
        endpoints = metadata.discover(idp.issuer, loopback_origin=origin)
        return Client(idp, endpoints, idp_secret(idp), origin)
    except CryptoError as error:
        raise bad_answer(f"our client secret cannot be opened: {error}") from None
    except LensError as error:
        raise SignInError(
            "provider_away",
            "The identity provider does not answer. Try again in a minute.",
            detail=error.message,
        ) from None
