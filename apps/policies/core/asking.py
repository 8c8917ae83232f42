"""How an HTTP request is put to `decide`: the one constructor of the proxy and of the simulator.

Whoever explains or replays a request asks what the enforcer asks, or the answer is about another
request. So nothing that a decision looks at has a default here: a caller that does not know whether
a request opens a WebSocket has not understood it.
"""

from __future__ import annotations

import re

from apps.policies.types import WEBSOCKET, HttpRequest

_PORTS = {"http": 80, "https": 443}
_UPGRADES = {"ws": "http", "wss": "https"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]@]*\]|[^\[\]@:]*)(?::([1-9][0-9]{0,4}))?")


class UrlError(ValueError):
    """A URL that nobody can ask for; the message is a sentence fit for a form."""


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


def request_of_url(method: str, url: str, *, addresses: tuple[str, ...] = ()) -> HttpRequest:
    """The request that the proxy sees when a client asks for `url`; raises UrlError.

    `ws://`, `wss://` and the method `WEBSOCKET` of the rules stand for a GET that asks to become a
    WebSocket. A fragment is left out, as clients do.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        raise UrlError("Write the whole URL, as in `https://api.example.com/path`.")
    named = parts[1].lower()
    scheme = _UPGRADES.get(named, named)
    if scheme not in _PORTS:
        raise UrlError("Only http, https, ws and wss URLs are let through.")
    authority = _AUTHORITY.fullmatch(parts[2])
    if authority is None or not authority[1]:
        raise UrlError("The URL names no host, or a user or port that is none.")
    websocket = named in _UPGRADES or method == WEBSOCKET
    return http_request(
        scheme,
        authority[1].removeprefix("[").removesuffix("]"),
        int(authority[2] or _PORTS[scheme]),
        "GET" if websocket and method == WEBSOCKET else method,
        parts[3] if parts[3].startswith("/") else f"/{parts[3]}",
        addresses=addresses,
        websocket=websocket,
    )
