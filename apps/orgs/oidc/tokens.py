"""ID tokens, judged as OpenID Connect Core 1.0 section 3.1.3.7 says, and one notch stricter.

Checked: an asymmetric algorithm that this provider may use, and the key's own type; the signature;
`iss` equal to the provider's issuer; our client in `aud`, and nobody else there without an `azp`
that names us; `exp`, `iat`, `nbf`; `sub` present; `nonce` equal to the one of this very sign-in;
`at_hash` where it is present.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any, TypeGuard

import jwt

from apps.orgs.oidc.algorithms import KEY_TYPES, hash_name
from apps.orgs.oidc.errors import bad_answer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

LEEWAY_SECONDS = 60
MAX_TOKEN = 64_000
MAX_SUBJECT = 255


def header_of(token: object, algorithms: Collection[str]) -> dict[str, Any]:
    """The unverified header of a token that says to be signed with one of these algorithms."""
    if not isinstance(token, str) or len(token) > MAX_TOKEN:
        raise bad_answer("there is no ID token in it")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise bad_answer("its ID token cannot be read") from None
    if header.get("alg") not in set(algorithms) & set(KEY_TYPES):
        allowed = " or ".join(algorithms)
        raise bad_answer(f"its token is not signed with {allowed}", code="algorithm_refused")
    return header


def matching_key(
    header: dict[str, Any], keys: Iterable[dict[str, Any]], *, without_kid: bool = False
) -> dict[str, Any] | None:
    """The published key that the token names, or None.

    A token must name its key. `without_kid` is for the development provider, which has one key and
    names none.
    """
    alg, kid = header["alg"], header.get("kid")
    if not without_kid and not isinstance(kid, str):
        return None
    fitting = [
        key
        for key in keys
        if key.get("kty") == KEY_TYPES[alg]
        and key.get("alg", alg) == alg
        and key.get("use", "sig") == "sig"
        and (without_kid or key.get("kid") == kid)
    ]
    return fitting[0] if len(fitting) == 1 else None


def verified(
    token: str, key: dict[str, Any], *, issuer: str, client_id: str, nonce: str, access_token: str
) -> dict[str, Any]:
    """The claims of an ID token that passes every check; SignInError for one that does not."""
    algorithm = jwt.get_unverified_header(token)["alg"]
    claims = decoded(
        token, key, issuer=issuer, client_id=client_id, need=("iss", "sub", "aud", "exp", "iat")
    )
    _check_audience(claims, client_id)
    _check_subject(claims.get("sub"))
    if not nonce or not _same(claims.get("nonce"), nonce):
        raise bad_answer("its ID token is not for this sign-in (nonce)", code="nonce_mismatch")
    if "at_hash" in claims and not _same(claims["at_hash"], _half_hash(access_token, algorithm)):
        raise bad_answer("its access token is not the one it signed (at_hash)")
    return claims


def decoded(
    token: str, key: dict[str, Any], *, issuer: str, client_id: str, need: Sequence[str]
) -> dict[str, Any]:
    """The claims of a token whose signature, `iss`, `aud` and times hold; SignInError else."""
    algorithm = jwt.get_unverified_header(token)["alg"]
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            jwt.PyJWK(key, algorithm=algorithm),
            algorithms=[algorithm],
            issuer=issuer,
            audience=client_id,
            leeway=LEEWAY_SECONDS,
            options={"require": list(need), "enforce_minimum_key_length": True},
        )
    # A published key may be any nonsense, of which the library raises more than its own errors.
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise bad_answer(f"its token does not hold: {_plain(error)}") from None
    return claims


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    audience = claims["aud"]
    others = isinstance(audience, list) and audience != [client_id]
    if (others or "azp" in claims) and claims.get("azp") != client_id:
        raise bad_answer("its ID token was issued to another client (azp)")


def _check_subject(subject: object) -> None:
    if not is_name(subject):
        raise bad_answer("its ID token names no subject that we can keep")


def is_name(value: object) -> TypeGuard[str]:
    """Whether a claim names something (a subject, a session) in a text that we can keep."""
    return isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT and value.isprintable()


def _half_hash(access_token: str, algorithm: str) -> str:
    """Core section 3.1.3.6: the left half of the hash that the algorithm uses."""
    digest = hashlib.new(hash_name(algorithm), access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def _same(left: object, right: str) -> bool:
    return isinstance(left, str) and left.isascii() and hmac.compare_digest(left, right)


def _plain(error: Exception) -> str:
    """The library's words for a failed check name claims and never values."""
    return type(error).__name__
