"""The only way in which the control plane reaches a URL that somebody typed.

Rules.
1. https only. The one exception is an origin that the caller names: our own development identity
   provider on loopback.
2. The name is resolved once, every address is vetted (`apps.common.addresses`), and the connection
   goes to a vetted address; TLS is verified against the name. One refused address refuses the name,
   so that a name server cannot mix.
3. No redirect is followed, no proxy or netrc of the environment is used.
4. The body is cut off at a size, and the whole exchange at a time.

An error says what went wrong and names the host. It never carries the URL, which may hold secrets,
nor the answer.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from dataclasses import dataclass
from functools import cache
from socket import SOCK_STREAM, getaddrinfo
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlencode, urlsplit

import httpcore
from django.conf import settings

from apps.common.addresses import vet
from apps.common.errors import Invalid, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_BYTES = 1_000_000
MAX_SECONDS = 10.0
MAX_URL = 2_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and at most `MAX_BYTES` of body."""

    host: str
    status: int
    content_type: str
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; raises Upstream when it is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Upstream(f"{self.host} did not answer with a JSON object")
        return found


def fetch(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    basic: tuple[str, str] | None = None,
    loopback_origin: str = "",
    field: str = "",
) -> Answer:
    """GET a URL, or POST a form to it, and read the answer whatever its status.

    Raises Invalid (with `field`) for a URL that may not be reached, Upstream when the other side is
    away, too slow or too long. `loopback_origin` is the one http origin that is allowed. `basic` is
    a user and a password, sent as RFC 6749 section 2.3.1 wants them: form-encoded first.
    """
    parts = check(url, loopback_origin=loopback_origin, field=field)
    host = parts.hostname or ""
    own = bool(loopback_origin) and _origin(parts) == loopback_origin
    backend = _Backend(time.monotonic() + MAX_SECONDS, field, vetted=not own)
    sent = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "LensAgents"}
    sent |= headers or {}
    if basic:
        sent["Authorization"] = _basic(*basic)
    content = None
    if form is not None:
        content = urlencode(form).encode()
        sent |= {"Content-Type": "application/x-www-form-urlencoded"}
        sent |= {"Content-Length": str(len(content))}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool,
            pool.stream(
                "GET" if form is None else "POST",
                parts._replace(fragment="").geturl(),
                headers=[("Host", parts.netloc), *sent.items()],
                content=content,
            ) as response,
        ):
            return _read(response, host)
    except _OUR_FAULTS as error:
        raise Upstream(f"{host} could not be reached ({_why(error)})") from None


def check(url: str, *, loopback_origin: str = "", field: str = "") -> SplitResult:
    """The parts of a URL that may be asked for; raises Invalid with a sentence that says why not.

    Addresses are vetted later, when the connection is made: a name may change between the two.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Invalid("This is not a URL.", field=field) from None
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or port == 0:
        raise Invalid("This is not a URL.", field=field)
    if loopback_origin and _origin(parts) == loopback_origin:
        return parts
    if parts.scheme != "https" or not host:
        raise Invalid("The URL must begin with https:// and a host name.", field=field)
    if "@" in parts.netloc or "\\" in url:
        raise Invalid("The URL must not contain a user name or a backslash.", field=field)
    return parts


class _Backend(httpcore.SyncBackend):
    """Connects to vetted addresses only, and ends everything at one deadline."""

    def __init__(self, deadline: float, field: str, *, vetted: bool) -> None:
        super().__init__()
        self._deadline = deadline
        self._field = field
        self._vetted = vetted

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  the deadline rules
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host, port) if self._vetted else [host]
        while True:
            left = _left(self._deadline)
            address = addresses.pop(0)
            try:
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise
            else:
                return _Stream(stream, self._deadline)

    def _addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a name, when all of them may be reached."""
        try:
            found = getaddrinfo(host, port, type=SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Invalid(f"{host} has no address.", field=self._field) from None
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            verdict = vet(address, allow=settings.OUTBOUND_PRIVATE)
            if not verdict.ok:
                what = f"{host} may not be reached: it is {verdict.reason}."
                raise Invalid(what, field=self._field)
        return addresses


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  same
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  same
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  same
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


_OUR_FAULTS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


def _read(response: httpcore.Response, host: str) -> Answer:
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Upstream(f"{host} answered with more than {MAX_BYTES} bytes")
    named = {name.lower(): value for name, value in response.headers}
    kind = named.get(b"content-type", b"").decode("latin-1")
    return Answer(host, response.status, kind, bytes(body))


def _basic(user: str, password: str) -> str:
    encoded = ":".join(urlencode({"": part})[1:] for part in (user, password))
    return "Basic " + base64.b64encode(encoded.encode()).decode()


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}"


@cache
def _tls() -> ssl.SSLContext:
    """The system's certificate authorities; making the context costs tens of milliseconds."""
    return ssl.create_default_context()


def _why(error: Exception) -> str:
    """A word for the person who typed the URL; the library's own text may repeat the URL."""
    if isinstance(error, httpcore.TimeoutException):
        return "no answer in time"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "its certificate is not trusted"
    return "no connection"
