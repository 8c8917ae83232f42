"""The ASGI entry point: the MCP endpoints by path, everything else to Django.

MCP stands in front of Django's handler because a Django view costs several times the CPU of a tool
call. Web sockets are refused until something speaks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

from lensagents.routing import route
from lensagents.settings.env import choose_settings

if TYPE_CHECKING:
    from lensagents.routing import Message, Receive, Send

choose_settings("lensagents.settings.embedded")
django_application = get_asgi_application()

from apps.mcp.asgi import PROJECT_ROUTE  # noqa: E402  models must be loaded before
from apps.mcp.asgi import endpoint as mcp_endpoint  # noqa: E402  same
from lensagents.bodies import bounded  # noqa: E402  same
from lensagents.health import livez, readyz  # noqa: E402  same


async def refuse_websocket(_scope: Message, receive: Receive, send: Send) -> None:
    """Close a web socket before it opens (the server turns this into HTTP 403)."""
    await receive()
    await send({"type": "websocket.close", "code": 1008})


application = ProtocolTypeRouter(
    {
        "http": URLRouter(
            [
                route(r"^mcp$", mcp_endpoint),
                route(PROJECT_ROUTE, mcp_endpoint),
                route(r"^livez$", livez),
                route(r"^readyz$", readyz),
                route(r"", bounded(django_application)),
            ]
        ),
        "websocket": refuse_websocket,
    }
)
