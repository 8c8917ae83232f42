"""The platform as a sandbox sees it, at `platform.internal`: two paths on a Unix socket.

Only what is routed here exists for a sandbox. The proxies are the only clients: whoever connects is
asked of the kernel, the sandbox's own token is what authenticates, and the public addresses do not
take that token. The agent never sees it: its proxy adds it to each request.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from channels.routing import URLRouter
from django.db import connections
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from apps.mcp.asgi import PROJECT_ROUTE, inside_endpoint
from apps.mcp.gate import send_error
from apps.sandboxes.peers import is_ours
from lensagents.routing import route

if TYPE_CHECKING:
    from pathlib import Path

    from lensagents.routing import Message, Receive, Send

# Above the time for which proxies keep an idle connection, so that they never meet a closed one.
IDLE_SECONDS = 60
START_SECONDS = 5.0
STOP_SECONDS = 1


async def no_models(_scope: Message, _receive: Receive, send: Send) -> None:
    """`/llm`: the address is kept for the platform's own model access, which does not exist yet."""
    text = "This version of the platform offers no model access. Ask an administrator."
    await send_error(send, 501, "llm_not_available", text)


async def nothing(_scope: Message, _receive: Receive, send: Send) -> None:
    """Any other path. The proxy refuses these before; this stands behind it."""
    await send_error(send, 404, "not_found", "There is nothing at this address.")


application = URLRouter(
    [
        route(PROJECT_ROUTE, inside_endpoint),
        route(r"^llm(?:/|$)", no_models),
        route(r"", nothing),
    ]
)


class _ProxiesOnly(H11Protocol):
    """HTTP with processes that the kernel says are ours."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if not is_ours(transport.get_extra_info("socket")):
            transport.abort()


class InsideDoor:
    """The listening socket and a thread with an event loop of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server = Server(
            Config(
                application,
                http=_ProxiesOnly,
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="lens-inside", daemon=True)

    def start(self) -> None:
        """Listen, replacing what a dead process left; returns once requests are served."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        # Proxies have uids of their own; who they are is asked of the kernel for each connection.
        self._path.chmod(0o666)
        self._thread.start()
        until = time.monotonic() + START_SECONDS
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.005)

    def stop(self) -> None:
        """Listen no longer; what is under way has a second to end."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS + 1)
        self._path.unlink(missing_ok=True)

    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def _serve(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._listener]))
        finally:
            connections.close_all()
