"""A small real ticketing API over HTTPS on loopback: what the demo's agent talks to.

It has its own certificate authority, made at start, and insists on a bearer token, so that a 200
proves that the right credential arrived. It never sends the token back, and keeps what it saw for
the demo to check.
"""

from __future__ import annotations

import datetime as dt
import hmac
import json
import ssl
import tempfile
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apps.common import clock

MAX_BODY = 64 * 1024
PREFIX = "/api/v2/tickets"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived: `authorized` = it carried the real credential."""

    method: str
    path: str
    authorized: bool


class TicketingTwin:
    """Serves `host` with a certificate from its own CA; `ca_pem` is what a client must trust."""

    def __init__(self, host: str, token: str) -> None:
        self.host = host
        self.seen: list[Seen] = []
        self.tickets: dict[int, dict[str, Any]] = {
            4711: {"id": 4711, "subject": "Cannot sign in", "status": "open", "comments": []},
            4712: {"id": 4712, "subject": "Invoice is missing", "status": "open", "comments": []},
        }
        self._token = token
        self.ca_pem, context = _tls(host)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.twin = self
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="ticketing-twin")

    @property
    def port(self) -> int:
        """The loopback port that it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def authorized(self, header: str) -> bool:
        """Whether an Authorization header carries the real token."""
        return hmac.compare_digest(header.encode(), f"Bearer {self._token}".encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    twin: TicketingTwin


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    @property
    def twin(self) -> TicketingTwin:
        return cast("_Server", self.server).twin

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Quiet: the transcript is the demo's only output."""

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.path == PREFIX:
            self._answer(200, {"tickets": list(self.twin.tickets.values())})
            return
        ticket = self._ticket(self.path.removeprefix(PREFIX))
        if ticket is not None:
            self._answer(200, ticket)

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MAX_BODY))
        if self._refused():
            return
        ticket = self._ticket(self.path.removeprefix(PREFIX).removesuffix("/comments"))
        if ticket is None:
            return
        comment = {"id": len(ticket["comments"]) + 1, "body": json.loads(body)["body"]}
        ticket["comments"].append(comment)
        self._answer(201, comment)

    def do_DELETE(self) -> None:
        if not self._refused():
            self._answer(204, None)

    def _refused(self) -> bool:
        authorized = self.twin.authorized(self.headers.get("Authorization", ""))
        self.twin.seen.append(Seen(self.command, self.path, authorized))
        if not authorized:
            self._answer(401, {"error": "a valid token is required"})
        return not authorized

    def _ticket(self, rest: str) -> dict[str, Any] | None:
        number = rest.removeprefix("/")
        ticket = self.twin.tickets.get(int(number)) if number.isdecimal() else None
        if ticket is None:
            self._answer(404, {"error": "no such ticket"})
        return ticket

    def _answer(self, status: int, body: object) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _tls(host: str) -> tuple[str, ssl.SSLContext]:
    """A CA certificate (PEM) and a server context with a leaf for `host`, valid for a day."""
    ca_key, leaf_key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    ca_name, leaf_name = _name("Ticketing twin CA"), _name(host)
    ca = (
        _certificate(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    leaf = (
        _certificate(leaf_name, ca_name, leaf_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "leaf.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + _pem(leaf_key))
        context.load_cert_chain(chain)
    return ca.public_bytes(serialization.Encoding.PEM).decode(), context


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
