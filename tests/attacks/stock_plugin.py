"""The obvious plugin for stock proxy.py: our policy, asked in the hooks that it offers."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.http.exception import HttpRequestRejected
from proxy.http.proxy import HttpProxyBasePlugin

from apps.common.hosts import HostError
from apps.policies import codec
from apps.policies.core.decide import decide
from apps.policies.types import ConnectRequest, HttpRequest

if TYPE_CHECKING:
    from proxy.http.parser import HttpParser

_FOLDER = Path(os.environ["LENS_STOCK"])  # noqa: TID251  a process of its own
_BUNDLE = codec.decode((_FOLDER / "bundle").read_bytes())
_PLACES = ast.literal_eval((_FOLDER / "places").read_text())


class Policy(HttpProxyBasePlugin):
    """Decides on CONNECT and on each request that the hooks show."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host, self._port = "", 0

    def resolve_dns(self, host: str, port: int) -> tuple[str | None, Any]:
        place = _PLACES.get(f"{host}:{port}") or _PLACES.get(host)
        if place is None:
            raise HttpRequestRejected(status_code=502)
        return place[0], None

    def before_upstream_connection(self, request: HttpParser) -> HttpParser | None:
        self._host = (request.host or b"").decode("latin-1").lower()
        self._port = request.port or 443
        if request.is_https_tunnel:
            self._judge(ConnectRequest(self._host, self._port))
        else:
            self._judge_request(request, "http")
        place = _PLACES.get(f"{self._host}:{self._port}") or _PLACES.get(self._host)
        if place is not None:
            request.port = place[1]
        return request

    def handle_client_request(self, request: HttpParser) -> HttpParser | None:
        if not request.is_https_tunnel:
            self._judge_request(request, "https" if self._port == 443 else "http")
        return request

    def _judge_request(self, request: HttpParser, scheme: str) -> None:
        method = (request.method or b"").decode("latin-1")
        target = (request.path or b"/").decode("latin-1")
        self._judge(HttpRequest(scheme, self._host, self._port, method, target))

    def _judge(self, request: ConnectRequest | HttpRequest) -> None:
        try:
            allowed = decide(_BUNDLE, request).allowed
        except HostError:
            allowed = False
        if not allowed:
            raise HttpRequestRejected(status_code=403, reason=b"denied")
