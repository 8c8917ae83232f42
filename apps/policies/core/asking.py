"""How a request is put to `decide`: the one reading of the proxy, the simulator and policy tests.

Whoever explains or replays a request asks what the enforcer asks, or the answer is about another
request. So authorities and targets are read here for all of them, and nothing that a decision looks
at has a default: a caller that does not know whether a request opens a WebSocket has not understood
it. A proxy sees an `https` URL in two steps: a tunnel to host and port is asked for first, and each
request inside it afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from apps.common.hosts import HostError, parse_host
from apps.policies.core.decide import decide
from apps.policies.types import (
    WEBSOCKET,
    Action,
    Bundle,
    ConnectRequest,
    Decision,
    HttpRequest,
    ToolRequest,
)

HTTP_PORT = 80
HTTPS_PORT = 443
# What a request line may hold (RFC 9112 section 3): everything else has no single meaning.
METHOD = r"[A-Z](?:[A-Z-]{0,30}[A-Z])?"
TARGET = r"[!-~]+"

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,254})(?::([1-9][0-9]{0,4}))?")
_METHOD = re.compile(METHOD)
_TARGET = re.compile(TARGET)
_SCHEMES = {
    "http": ("http", HTTP_PORT),
    "ws": ("http", HTTP_PORT),
    "https": ("https", HTTPS_PORT),
    "wss": ("https", HTTPS_PORT),
}

Request = ConnectRequest | HttpRequest | ToolRequest


class RequestError(ValueError):
    """What was asked has no single meaning; `code` is the machine's word for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Authority:
    """A host (lower-case name, dotted IPv4, or IPv6 without brackets) and a port."""

    host: str
    port: int

    def header(self, default_port: int) -> str:
        """The authority as a `Host` value, without the scheme's default port."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == default_port else f"{name}:{self.port}"


def parse_authority(text: str, default_port: int | None) -> Authority:
    """Parse `host[:port]` (RFC 3986 3.2 without userinfo); raises RequestError.

    Not accepted: userinfo, percent-escapes, non-ASCII, and what `apps.common.hosts` cannot
    read in exactly one way (odd IPv4 spellings, empty labels). The host comes back in its one form.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise RequestError("authority", "malformed host or port")
    port = int(match[2]) if match[2] else default_port
    if port is None or port > 65535:
        raise RequestError("authority", "a port from 1 to 65535 is required")
    try:
        return Authority(parse_host(match[1]).name, port)
    except HostError as error:
        raise RequestError("authority", f"the host {error}") from error


def split_target(rest: str, default_port: int) -> tuple[Authority, str]:
    """Authority and origin-form target of what follows `scheme://`; raises RequestError."""
    cut = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    path = rest[cut:]
    return parse_authority(rest[:cut], default_port), path if path.startswith("/") else "/" + path


def tunnel(authority: Authority, addresses: tuple[str, ...] = ()) -> ConnectRequest:
    """A tunnel to host and port."""
    return ConnectRequest(authority.host, authority.port, addresses)


def http_request(
    scheme: str,
    host: str,
    port: int,
    method: str,
    target: str,
    *,
    addresses: tuple[str, ...],
    websocket: bool,
) -> HttpRequest:
    """One request; see `HttpRequest` for each value. Nothing is checked: `decide` does."""
    return HttpRequest(scheme, host, port, method, target, addresses, websocket)


def asked(method: str, url: str, addresses: tuple[str, ...] = ()) -> tuple[Request, ...]:
    """The requests that a client's `method` and URL make, in the order in which a proxy sees them.

    `CONNECT` takes `host:port`. `ws://`, `wss://` and the method `WEBSOCKET` of the rules stand for
    a GET that asks to become a WebSocket. A fragment is left out, as clients do. With `addresses`,
    which the host resolves to, each is asked again about those. Raises RequestError.
    """
    if method == "CONNECT":
        return _resolved(tunnel(parse_authority(url, None)), addresses)
    if _METHOD.fullmatch(method) is None:
        raise RequestError("request_line", "the method is not a word in capitals, as in `GET`")
    named, separator, rest = url.partition("://")
    scheme, port = _SCHEMES.get(named.lower(), ("", 0))
    if not separator or not scheme:
        raise RequestError("target_form", "write the whole URL, as in `https://example.com/path`")
    where, target = split_target(rest.partition("#")[0], port)
    if _TARGET.fullmatch(target) is None:
        raise RequestError("request_line", "the URL holds spaces, or letters that are not escaped")
    request = http_request(
        scheme,
        where.host,
        where.port,
        "GET" if method == WEBSOCKET else method,
        target,
        addresses=(),
        websocket=method == WEBSOCKET or named.lower() in ("ws", "wss"),
    )
    outside = _resolved(tunnel(where), addresses) if scheme == "https" else ()
    return (*outside, *_resolved(request, addresses))


def answer(bundle: Bundle | None, requests: tuple[Request, ...]) -> Decision:
    """What comes of them: the first refusal, else the answer to the last.

    Nothing is asked inside a tunnel that is not read.
    """
    decision = decide(bundle, requests[0])
    for request in requests[1:]:
        tunnelled = decision.action is Action.DIRECT and isinstance(request, HttpRequest)
        if not decision.allowed or tunnelled:
            break
        decision = decide(bundle, request)
    return decision


def _resolved(
    request: ConnectRequest | HttpRequest, addresses: tuple[str, ...]
) -> tuple[Request, ...]:
    """A host is resolved only for a request that was allowed, and then the addresses are judged."""
    return (request, replace(request, addresses=addresses)) if addresses else (request,)
