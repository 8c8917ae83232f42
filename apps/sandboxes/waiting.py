"""Waiting for a sandbox without holding the event loop.

The row says when it is ready. The task that makes it ready mostly runs in this very process and
gives a hint, so that nobody waits for the next look; in another process the look itself is what
finds out. It comes after 20 ms, and then less often the longer it takes: a worker that is slow or
stopped must not cost the database a thousand looks a second.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from channels.db import database_sync_to_async

from apps.common.errors import IsolationUnavailable, LensError, Unavailable
from apps.common.tenancy import scope
from apps.sandboxes.models import LIVE_STATES, Sandbox, SandboxState

if TYPE_CHECKING:
    import uuid

POLL_SECONDS = 0.02
SLOWEST_POLL_SECONDS = 0.5
WAIT_SECONDS = 60.0

_Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Event]
_waiters: dict[str, list[_Waiter]] = {}
_lock = threading.Lock()


def hint(sandbox_id: uuid.UUID) -> None:
    """Wake whoever waits for this sandbox in this process; from any thread, never raises."""
    with _lock:
        waiting = list(_waiters.get(str(sandbox_id), ()))
    for loop, event in waiting:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            continue  # that loop has ended, and its waiter with it


async def wait_ready(
    sandbox_id: uuid.UUID, *, org_id: uuid.UUID, seconds: float = WAIT_SECONDS
) -> str:
    """How the sandbox is isolated, when it is ready; raises what its row gives as the failure, or
    Unavailable."""
    event = asyncio.Event()
    waiter = (asyncio.get_running_loop(), event)
    with _lock:
        _waiters.setdefault(str(sandbox_id), []).append(waiter)
    try:
        async with asyncio.timeout(seconds):
            pause = POLL_SECONDS
            while (isolation := await _isolation(sandbox_id, org_id)) is None:
                await _pause(event, pause)
                pause = min(pause * 1.5, SLOWEST_POLL_SECONDS)
            return isolation
    except TimeoutError as error:
        raise Unavailable(
            f"The sandbox was not ready within {seconds:.0f} s.",
            code="sandbox_slow",
            remedy="Try again; if it stays so, ask an administrator whether the worker runs.",
        ) from error
    finally:
        with _lock:
            left = [other for other in _waiters[str(sandbox_id)] if other is not waiter]
            if left:
                _waiters[str(sandbox_id)] = left
            else:
                del _waiters[str(sandbox_id)]


async def _pause(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()


def _look(sandbox_id: uuid.UUID, org_id: uuid.UUID) -> tuple[str, str, str, str]:
    with scope(org_id):
        rows = Sandbox.objects.filter(pk=sandbox_id)
        row = rows.values_list("state", "failure", "reason", "isolation").first()
    return row or (SandboxState.FAILED, "sandbox_gone", "The sandbox was removed.", "")


_look_in_thread = database_sync_to_async(_look, thread_sensitive=False)


async def _isolation(sandbox_id: uuid.UUID, org_id: uuid.UUID) -> str | None:
    """None while it is being made."""
    state, failure, reason, isolation = await _look_in_thread(sandbox_id, org_id)
    if state == SandboxState.CREATING:
        return None
    if state in LIVE_STATES:
        return str(isolation)
    raise failure_of(failure, reason)


def failure_of(failure: str, reason: str) -> LensError:
    """The error that callers get for a sandbox that did not come up or was stopped meanwhile."""
    if failure == IsolationUnavailable.code:
        message = "This host cannot build an isolated sandbox."
        return IsolationUnavailable(message, remedy=reason)
    return Unavailable(
        reason or "The sandbox was stopped.",
        code=failure or "sandbox_stopped",
        remedy="Try again in some seconds; if it stays so, ask an administrator.",
    )
