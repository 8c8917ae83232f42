"""A real OpenID provider over TLS that can be told to lie, one lie at a time.

It checks what a good provider checks (client, code used once, redirect URI, PKCE) and signs what a
test wants: `claims`, `header`, `signer` and the `replies` of its endpoints are a test's to change.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLIENT_ID = "lens-client"
CLIENT_SECRET = "lens-secret"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGERS_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
Reply = tuple[int, dict[str, str], bytes]


class IdpTwin:
    """One provider on a free port of loopback, called `host`."""

    def __init__(self, host: str, pem: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.port = self._server.server_port
        self.issuer = f"https://{host}:{self.port}"
        self._codes: dict[str, dict[str, str]] = {}
        self.secret = CLIENT_SECRET
        self.delay = 0.0
        self.person: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.token_reply: dict[str, Any] = {}
        self.replies: dict[str, Reply] = {}
        self.signer: Callable[[bytes], bytes] = _rs256
        self.keys: list[dict[str, Any]] = [public_jwk(RSA_KEY, "one"), public_jwk(EC_KEY, "two")]
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def authorize(self, url: str) -> str:
        """What the browser does here: the person agrees, and is sent back to this URL."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def answer(self, path: str, form: dict[str, str], authorization: str) -> Reply:
        """Answer one request of the platform."""
        self.asked.append(path)
        if path in self.replies:
            return self.replies[path]
        if path == "/.well-known/openid-configuration":
            return _json(200, self._metadata())
        if path == "/jwks":
            return _json(200, {"keys": self.keys})
        if path == "/token":
            return self._token(form, authorization)
        if path == "/userinfo":
            return _json(200, {**self.person, **self.userinfo})
        return _json(404, {})

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/jwks",
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            **self.metadata,
        }

    def _token(self, form: dict[str, str], authorization: str) -> Reply:
        asked = self._codes.pop(form.get("code", ""), None)
        expected = base64.b64encode(f"{CLIENT_ID}:{self.secret}".encode()).decode()
        if authorization != f"Basic {expected}":
            return _json(401, {"error": "invalid_client"})
        challenge = _b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            asked is None
            or asked.get("code_challenge") != challenge
            or asked.get("code_challenge_method") != "S256"
            or asked["redirect_uri"] != form.get("redirect_uri")
        ):
            return _json(400, {"error": "invalid_grant"})
        access_token = secrets.token_urlsafe(16)
        id_token = self.sign(self._claims(asked, access_token))
        body = {"access_token": access_token, "token_type": "Bearer", "id_token": id_token}
        return _json(200, _without_none({**body, **self.token_reply}))

    def _claims(self, asked: dict[str, str], access_token: str) -> dict[str, Any]:
        now = int(time.time())
        digest = hashlib.sha256(access_token.encode()).digest()
        honest = {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "iat": now,
            "exp": now + 300,
            "nonce": asked.get("nonce"),
            "at_hash": _b64(digest[:16]),
            **self.person,
        }
        return _without_none({**honest, **self.claims})

    def sign(self, claims: dict[str, Any]) -> str:
        """A JWS of the claims, as `header` and `signer` say."""
        header = _without_none({"alg": "RS256", "kid": "one", "typ": "JWT", **self.header})
        parts = [_b64(json.dumps(part).encode()) for part in (header, claims)]
        signed = ".".join(parts)
        return f"{signed}.{_b64(self.signer(signed.encode()))}"


def public_jwk(key: Any, kid: str) -> dict[str, Any]:
    """The public half of a key as a JWK."""
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    jwk: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return {**jwk, "kid": kid, "use": "sig"}


def signer(algorithm: str, key: Any) -> Callable[[bytes], bytes]:
    """Signs as JWA says, with any key."""
    return lambda message: jwt.get_algorithm_by_name(algorithm).sign(message, key)


def hmac_signer(key: bytes) -> Callable[[bytes], bytes]:
    """HS256 with any bytes as key, which a library refuses to do for a public key."""
    return lambda message: hmac.digest(key, message, "sha256")


_rs256 = signer("RS256", RSA_KEY)


def _handler(twin: IdpTwin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._reply({name: values[0] for name, values in parse_qs(body).items()})

        def _reply(self, form: dict[str, str]) -> None:
            time.sleep(twin.delay)
            authorization = self.headers.get("Authorization", "")
            status, headers, body = twin.answer(urlsplit(self.path).path, form, authorization)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            with suppress(OSError):  # who was kept waiting may have gone
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def _json(status: int, body: dict[str, Any]) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
