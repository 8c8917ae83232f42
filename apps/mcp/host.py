"""What runs beside the requests in one event loop: the SDK's session manager and the watch.

The manager needs a task group that is entered and left in one task, and the web server gives no
start-up event: so a task of our own holds it, begun with the first request.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from apps.mcp.gate import transport_security
from apps.mcp.listening import Listeners
from apps.mcp.live import Live
from apps.mcp.server import Governed
from apps.sandboxes.client import AsyncSandboxd
from apps.sandboxes.paths import sandboxd_socket

if TYPE_CHECKING:
    from apps.mcp.audience import Door
    from apps.orgs.types import Principal

MAX_BODY = 4 * 1024 * 1024
MAX_SESSIONS = 100
WATCH_SECONDS = 0.25
VERSION = "0.1.0"
logger = logging.getLogger(__name__)


class Host:
    """One for each event loop, for as long as the loop runs."""

    def __init__(self, door: Door) -> None:
        self.loop = asyncio.get_running_loop()
        self.live = Live()
        self._listeners = Listeners()
        self._sandboxd = AsyncSandboxd(sandboxd_socket(), connections=256)
        governed = Governed(self._sandboxd, self.live, self._listeners)
        self.manager = StreamableHTTPSessionManager(
            governed.server(VERSION),
            security_settings=transport_security(door.hosts()),
            max_request_body_size=MAX_BODY,
        )
        self._started: asyncio.Future[None] = self.loop.create_future()
        # Kept here, and it ends with the loop.
        self._task = self.loop.create_task(self._serve(), name="lens-mcp")

    def usable(self) -> bool:
        """Whether this is the running loop's and still serves."""
        return self.loop is asyncio.get_running_loop() and not self._task.done()

    async def ready(self) -> None:
        """Return when requests can be served; raise what kept the manager from starting."""
        await asyncio.shield(self._started)

    def crowded(self, principal: Principal) -> bool:
        """Whether this token has as many sessions as it may, so that none takes all of them."""
        mine = str(principal.token_id)
        owners = self.manager._session_owners.values()  # noqa: SLF001  the SDK bounds only the sum
        return sum(owner["client_id"] == mine for owner in owners) >= MAX_SESSIONS

    def foreign(self, session: str, principal: Principal) -> bool:
        """Whether a session is another token's. The SDK answers as if there were none."""
        owner = self.manager._session_owners.get(session)  # noqa: SLF001  only to audit it
        return owner is not None and owner["client_id"] != str(principal.token_id)

    async def _serve(self) -> None:
        try:
            async with self.manager.run():
                self._started.set_result(None)
                await self._watch()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise
        finally:
            self._sandboxd.close()

    async def _watch(self) -> None:
        """Again and again, for ever: a fault of ours must not end it, or nothing would be cut."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.live.look()
                await self._listeners.look()
            except Exception:
                logger.exception("the watch over open streams and calls failed")
