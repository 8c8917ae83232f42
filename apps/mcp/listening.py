"""`subscriptions/listen`: an agent that listens hears when its own list of tools has changed.

Each token has a bus of its own, so that nobody learns from a notification that something changed
for somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mcp_types
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError

from apps.common.errors import LensError
from apps.mcp.caller import caller_of
from apps.mcp.catalog import catalog_of

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from apps.mcp.audience import Audience
    from apps.mcp.catalog import Catalog

MAX_STREAMS = 20
Shown = list[tuple[str, dict[str, Any]]]


@dataclass(eq=False, slots=True)
class _Circle:
    """The streams of one token for one project or all, and the list as they last knew it."""

    shown: Shown
    streams: int = 0
    bus: InMemorySubscriptionBus = field(default_factory=InMemorySubscriptionBus)


class Listeners:
    """All who listen in one event loop, by token."""

    def __init__(self) -> None:
        self._circles: dict[Audience, _Circle] = {}

    async def listen(
        self,
        ctx: ServerRequestContext[Any, Any],
        params: mcp_types.SubscriptionsListenRequestParams,
    ) -> mcp_types.SubscriptionsListenResult:
        """Serve one stream until its client goes away or its token is revoked."""
        caller = caller_of(ctx)
        circle = self._circles.setdefault(caller.audience, _Circle(shown_by(caller.catalog)))
        if circle.streams >= MAX_STREAMS:
            raise MCPError(mcp_types.INVALID_REQUEST, f"{MAX_STREAMS} streams are open already.")
        circle.streams += 1
        try:
            return await ListenHandler(circle.bus)(ctx, params)
        finally:
            circle.streams -= 1
            if not circle.streams:
                del self._circles[caller.audience]

    async def look(self) -> None:
        """Tell those whose list is another one than they know."""
        for audience, circle in list(self._circles.items()):
            try:
                catalog = await catalog_of(await audience.principal())
            except LensError:
                continue  # a token that holds no more is cut elsewhere
            shown = shown_by(catalog)
            if shown != circle.shown:
                circle.shown = shown
                await circle.bus.publish(ToolsListChanged())


def shown_by(catalog: Catalog) -> Shown:
    """What an agent sees of its list: names and schemas."""
    return [(name, entry.wire.input_schema) for name, entry in catalog.listed.items()]
