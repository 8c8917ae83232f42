"""What a provider says about itself (OpenID Connect Discovery 1.0), checked and cached."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from django.core.cache import cache

from apps.common import outbound
from apps.common.errors import Invalid, LensError, Upstream
from apps.orgs.oidc.algorithms import KEY_TYPES
from apps.orgs.oidc.errors import bad_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHE_SECONDS = 600
KEYS_REFRESH_SECONDS = 30
WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Metadata:
    """A provider's endpoints. `basic` says whether the client secret goes in a header."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    end_session_endpoint: str
    basic: bool


def discover(issuer: str, *, loopback_origin: str = "", fresh: bool = False) -> Metadata:
    """The provider's own description; raises Invalid(field="issuer") or Upstream.

    The `issuer` inside must be the very string that was asked for (Discovery section 4.3): else one
    provider could speak for another.
    """
    key = _key("metadata-2", issuer)
    known = None if fresh else cache.get(key)
    if known:
        return Metadata(**known)
    url = issuer.rstrip("/") + WELL_KNOWN
    answer = outbound.fetch(url, loopback_origin=loopback_origin, field="issuer")
    if answer.status != 200:
        raise Invalid(f"{url} answered with status {answer.status}.", field="issuer")
    found = _parse(issuer, answer.json(), loopback_origin)
    cache.set(key, asdict(found), CACHE_SECONDS)
    return found


def signing_keys(
    metadata: Metadata, *, loopback_origin: str = "", fresh: bool = False
) -> list[dict[str, Any]]:
    """The provider's published keys (RFC 7517).

    `fresh` asks again, since providers rotate, though not more often than every 30 seconds: anybody
    can send us tokens that name keys which do not exist.
    """
    key = _key("keys", metadata.jwks_uri)
    known = cache.get(key)
    if known and not (fresh and cache.add(f"{key}-asked", 1, KEYS_REFRESH_SECONDS)):
        return list(known)
    try:
        answer = outbound.fetch(metadata.jwks_uri, loopback_origin=loopback_origin)
        found = answer.json().get("keys")
    except LensError as error:
        raise bad_answer(f"its keys cannot be read: {error.message}") from None
    if answer.status != 200 or not isinstance(found, list):
        raise bad_answer("its keys cannot be read")
    keys = [entry for entry in found if isinstance(entry, dict)]
    cache.set(key, keys, CACHE_SECONDS)
    return keys


def _parse(issuer: str, raw: Mapping[str, Any], loopback_origin: str) -> Metadata:
    if raw.get("issuer") != issuer:
        raise Invalid(
            "The provider at this address calls itself something else. Copy the issuer exactly as"
            " the provider shows it.",
            field="issuer",
        )
    algorithms = raw.get("id_token_signing_alg_values_supported")
    if isinstance(algorithms, list) and not set(KEY_TYPES) & {str(name) for name in algorithms}:
        raise Invalid(f"The provider signs with none of {', '.join(KEY_TYPES)}.", field="issuer")
    endpoints = {
        name: _endpoint(raw, name, loopback_origin)
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
    }
    for name in ("userinfo_endpoint", "end_session_endpoint"):
        endpoints[name] = _endpoint(raw, name, loopback_origin) if raw.get(name) else ""
    methods = raw.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return Metadata(
        issuer=issuer,
        basic=isinstance(methods, list) and "client_secret_basic" in methods,
        **endpoints,
    )


def _endpoint(raw: Mapping[str, Any], name: str, loopback_origin: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str):
        raise Upstream(f"The provider does not say its {name}.")
    try:
        outbound.check(value, loopback_origin=loopback_origin)
    except Invalid as error:
        raise Invalid(f"The provider's {name}: {error.message}", field="issuer") from None
    return value


def _key(what: str, value: str) -> str:
    """Cache keys must be short and plain; issuers are neither."""
    return f"oidc-{what}-{hashlib.sha256(value.encode()).hexdigest()}"
