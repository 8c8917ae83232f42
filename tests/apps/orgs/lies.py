"""What a hostile provider may say, one lie at a time: (place on the twin, what is said there)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.twins.idp import (
    CLIENT_SECRET,
    RSA_KEY,
    STRANGERS_KEY,
    hmac_signer,
    public_jwk,
    signer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ANA = "ana@acme.test"
Lie = dict[str, Any]
PUBLIC_PEM = RSA_KEY.public_key().public_numbers().n.to_bytes(256)
LATE = int(time.time()) - 3600
SOON = int(time.time()) + 3600
LIES: dict[str, tuple[str, Lie]] = {
    "alg none": ("header", {"alg": "none"}),
    "alg None": ("header", {"alg": "None"}),
    "alg absent": ("header", {"alg": None}),
    "alg RS384": ("header", {"alg": "RS384"}),
    "alg of another key": ("header", {"alg": "ES256"}),
    "kid unknown": ("header", {"kid": "nine"}),
    "kid absent": ("header", {"kid": None}),
    "kid a number": ("header", {"kid": 1}),
    "kid of another key": ("header", {"kid": "two"}),
    "crit": ("header", {"crit": ["exp"], "exp": 1}),
    "iss other": ("claims", {"iss": "https://login.globex.test"}),
    "iss with slash": ("claims", {"iss": "https://login.acme.test/"}),
    "iss a list": ("claims", {"iss": ["https://login.acme.test"]}),
    "iss absent": ("claims", {"iss": None}),
    "aud other": ("claims", {"aud": "other-client"}),
    "aud empty": ("claims", {"aud": []}),
    "aud absent": ("claims", {"aud": None}),
    "aud shared, no azp": ("claims", {"aud": ["lens-client", "other-client"]}),
    "aud shared, azp other": ("claims", {"aud": ["lens-client", "x"], "azp": "x"}),
    "azp other": ("claims", {"azp": "other-client"}),
    "exp passed": ("claims", {"exp": LATE}),
    "exp absent": ("claims", {"exp": None}),
    "exp a word": ("claims", {"exp": "soon"}),
    "iat absent": ("claims", {"iat": None}),
    "iat to come": ("claims", {"iat": SOON}),
    "nbf to come": ("claims", {"nbf": SOON}),
    "nonce other": ("claims", {"nonce": "x" * 43}),
    "nonce absent": ("claims", {"nonce": None}),
    "nonce a list": ("claims", {"nonce": []}),
    "sub absent": ("claims", {"sub": None}),
    "sub empty": ("claims", {"sub": ""}),
    "sub a number": ("claims", {"sub": 7}),
    "sub too long": ("claims", {"sub": "s" * 256}),
    "at_hash other": ("claims", {"at_hash": "x" * 22}),
    "at_hash a list": ("claims", {"at_hash": ["x"]}),
    "email unverified": ("claims", {"email_verified": False}),
    "email_verified absent": ("claims", {"email_verified": None}),
    "email_verified 1": ("claims", {"email_verified": "yes"}),
    "email a list": ("claims", {"email": [ANA]}),
    "email of nobody": ("claims", {"email": "nobody@acme.test"}),
    "no id_token": ("token_reply", {"id_token": None}),
    "id_token a word": ("token_reply", {"id_token": "x.y.z"}),
    "id_token a number": ("token_reply", {"id_token": 5}),
    "id_token huge": ("token_reply", {"id_token": "x" * 100_000}),
    "no access_token": ("token_reply", {"access_token": None}),
}

FORGERIES: dict[str, tuple[Lie, Callable[[bytes], bytes]]] = {
    "a stranger's key": ({}, signer("RS256", STRANGERS_KEY)),
    "HS256 with the public key": ({"alg": "HS256"}, hmac_signer(PUBLIC_PEM)),
    "HS256 with the client secret": ({"alg": "HS256"}, hmac_signer(CLIENT_SECRET.encode())),
    "a key in the header": (
        {"jwk": public_jwk(STRANGERS_KEY, "one")},
        signer("RS256", STRANGERS_KEY),
    ),
    "a key at an address": (
        {"jku": "https://evil.test/jwks", "kid": "evil"},
        signer("RS256", STRANGERS_KEY),
    ),
    "no signature": ({}, lambda _: b""),
}
