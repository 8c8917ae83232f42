"""One request to the platform itself: other rules than the policy's, the same way to forward it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from apps.policies.core.asking import HTTP_PORT, Authority
from apps.proxy.egress import inject, platform
from apps.proxy.egress.answers import PROXY_LAYER, RefusedError, denied
from apps.proxy.egress.exchange import Asked, Exchange

if TYPE_CHECKING:
    from apps.proxy.egress.lines import Line
    from apps.proxy.egress.plane import Plane
    from apps.proxy.egress.wire import Wire

# However the agent came, the platform is asked in the clear, on a socket of this host.
_DOOR = Authority(platform.HOST, HTTP_PORT)


class PlatformExchange(Exchange):
    """Handles one request to `platform.internal`."""

    def __init__(self, plane: Plane, line: Line, wire: Wire, asked: Asked) -> None:
        super().__init__(plane, line, wire, asked)
        self._came = asked
        self._asked = replace(asked, scheme="http", authority=_DOOR)

    def _serve(self) -> bool:
        record, config, head = self._record, self._plane.config, self._asked.head
        record.rule, record.layer = platform.RULE, PROXY_LAYER
        platform.check(self._plane, self._came.scheme, self._came.authority.port)
        if head.upgrade:
            raise RefusedError(denied("the platform has no WebSockets", "upgrade"))
        target = platform.target_for(config, self._asked.target)
        record.reason = "A sandbox reaches this part of the platform."
        injected = platform.injected(config.sandbox_token)
        sent = inject.request_bytes(head, target, platform.HOST, strip=True, injected=injected)
        return self._forward(sent, injected)
