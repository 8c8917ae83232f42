"""What is under way, by the token it came with, so that revoking the token cuts it.

Streams and calls outlive the check at their beginning. Again and again each token that has
something under way is authenticated anew (from memory, while nothing changed), and when that fails
all of it is cancelled: open streams end, running commands are killed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from apps.common.errors import LensError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.mcp.audience import Audience

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Running:
    """One stream or call. `cut` is why it was cancelled, if it was."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    cut: LensError | None = None


class Live:
    """Everything under way in one event loop."""

    def __init__(self) -> None:
        self._running: dict[Audience, set[Running]] = {}

    @contextmanager
    def under(self, audience: Audience) -> Iterator[Running]:
        """Run the block so that it can be cut; a cut block is left silently, with `cut` set."""
        running = Running()
        self._running.setdefault(audience, set()).add(running)
        try:
            with running.scope:
                yield running
        finally:
            mine = self._running[audience]
            mine.discard(running)
            if not mine:
                del self._running[audience]

    async def look(self) -> None:
        """Cut what came with a token that does not hold any more, or not for this."""
        await asyncio.gather(*map(self._check, list(self._running)))

    async def _check(self, audience: Audience) -> None:
        try:
            await audience.principal()
        except LensError as error:
            self._cut(audience, error)
        except Exception:
            logger.exception("a token could not be looked at again")
            self._cut(audience, Unavailable("The platform cannot tell whether the token holds."))

    def _cut(self, audience: Audience, error: LensError) -> None:
        for running in list(self._running.get(audience, ())):
            running.cut = error
            running.scope.cancel()
