"""Logout tokens, judged as OpenID Connect Back-Channel Logout 1.0 section 2.6 says.

Checked: signature and algorithm as for an ID token; `iss`, `aud`; `iat` at most five minutes old;
`exp` where it is present; `events` names a logout; `sub`, `sid` or both; no `nonce`, so that no ID
token passes for one; `jti` not seen before.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import jwt
from django.core.cache import cache

from apps.orgs.oidc import tokens
from apps.orgs.oidc.client import client_for
from apps.orgs.oidc.errors import bad_answer

if TYPE_CHECKING:
    from apps.orgs.models import IdentityProvider

EVENT = "http://schemas.openid.net/event/backchannel-logout"
MAX_AGE_SECONDS = 300
_TYPES = (None, "jwt", "logout+jwt", "application/logout+jwt")


def addressed_to(token: str) -> tuple[str, set[str]]:
    """The issuer and the audience that an unverified token names; SignInError when it is none."""
    if not token or len(token) > tokens.MAX_TOKEN:
        raise bad_answer("there is no logout token")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise bad_answer("its logout token cannot be read") from None
    audience = claims.get("aud")
    names = audience if isinstance(audience, list) else [audience]
    return str(claims.get("iss")), {name for name in names if tokens.is_name(name)}


def verified(token: str, idp: IdentityProvider) -> dict[str, Any]:
    """The claims of a logout token of this provider; SignInError for one that does not hold."""
    header = tokens.header_of(token, idp.algorithms)
    kind = header.get("typ")
    if not (kind is None or isinstance(kind, str)) or (kind and kind.lower()) not in _TYPES:
        raise bad_answer("it is no logout token (typ)")
    claims = tokens.decoded(
        token,
        client_for(idp).key_for(header),
        issuer=idp.issuer,
        client_id=idp.client_id,
        need=("iss", "aud", "iat", "jti", "events"),
    )
    _check(claims)
    digest = hashlib.sha256(f"{idp.pk}\0{claims['jti']}".encode()).hexdigest()
    if not cache.add(f"oidc-logout-{digest}", 1, 2 * MAX_AGE_SECONDS):
        raise bad_answer("its logout token was used already (jti)")
    return claims


def _check(claims: dict[str, Any]) -> None:
    events = claims["events"]
    if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
        raise bad_answer("its token is about something else (events)")
    if "nonce" in claims:
        raise bad_answer("a logout token has no nonce")
    if not tokens.is_name(claims["jti"]):
        raise bad_answer("its logout token has no name (jti)")
    if not isinstance(claims["iat"], int | float) or time.time() - claims["iat"] > MAX_AGE_SECONDS:
        raise bad_answer("its logout token is too old (iat)")
    named = [claims[name] for name in ("sub", "sid") if name in claims]
    if not named or not all(map(tokens.is_name, named)):
        raise bad_answer("its logout token names nobody (sub, sid)")
