"""A call's sandbox: found or asked for when the call first needs it, warm from then on.

Which sandbox belongs to (principal, project) is remembered in process. That memory is only a short
cut: sandboxd says `sandbox_not_found` or `sandbox_over` when it is wrong, and the right one is
found, once. A command is repeated only then, since it cannot have run.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from channels.db import database_sync_to_async

from apps.common.errors import LensError, Unavailable
from apps.common.tenancy import scope
from apps.orgs.types import SYSTEM
from apps.sandboxes.models import Sandbox, SandboxState
from apps.sandboxes.services import sandbox_for, sandbox_lost
from apps.sandboxes.waiting import failure_of, wait_ready

if TYPE_CHECKING:
    import uuid

    from apps.orgs.types import Grant, Principal
    from apps.sandboxes.client import AsyncSandboxd

WORKSPACE = "/workspace"
NOT_FOUND = "sandbox_not_found"
OVER = "sandbox_over"
STOPPED = "sandbox_stopped"
REMEMBERED = 10_000
_Key = tuple[str, str, str, str, str]


class Found(NamedTuple):
    """A sandbox, and how it is isolated."""

    id: uuid.UUID
    isolation: str


class Warm:
    """(principal, project) → sandbox. One event loop's."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, Found] = OrderedDict()

    def find(self, key: _Key) -> Found | None:
        """The remembered sandbox."""
        return self._known.get(key)

    def remember(self, key: _Key, sandbox: Found) -> None:
        """Keep it, and forget the one that was remembered longest ago when there are too many."""
        self._known[key] = sandbox
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, key: _Key) -> None:
        """It was wrong."""
        self._known.pop(key, None)


class Workplace:
    """Where one call works."""

    def __init__(
        self, principal: Principal, grant: Grant, sandboxd: AsyncSandboxd, warm: Warm
    ) -> None:
        self._principal = principal
        self._grant = grant
        self._sandboxd = sandboxd
        self._warm = warm
        self._key = (
            str(principal.kind),
            str(principal.id),
            str(principal.team_id),
            str(grant.project_id),
            principal.on_behalf_of,
        )
        self.sandbox_id: uuid.UUID | None = None
        self.isolation = ""

    async def do(self, operation: str, body: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """One operation of sandboxd's API in this sandbox; a lost sandbox is replaced once."""
        try:
            return await self._do(operation, body, seconds)
        except LensError as error:
            if error.error_code not in (NOT_FOUND, OVER, STOPPED) or self.sandbox_id is None:
                raise
            self._warm.forget(self._key)
            await _lost(self.sandbox_id, self._principal.org_id)
            if error.error_code == STOPPED:
                # It ended under the call: what was asked for may have happened.
                raise _ended(error) from error
        return await self._do(operation, body, seconds)

    async def _do(self, operation: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        found = self._warm.find(self._key) or await self._acquire()
        self.sandbox_id, self.isolation = found
        return await self._sandboxd.call(str(found.id), operation, body, seconds=seconds)

    async def _acquire(self) -> Found:
        row = await _ask(self._principal, self._grant)
        sandbox_id: uuid.UUID = row.pk
        self.sandbox_id = sandbox_id
        if row.state == SandboxState.FAILED:
            raise failure_of(row.failure, row.reason)
        isolation = row.isolation
        if row.state == SandboxState.CREATING:
            isolation = await wait_ready(sandbox_id, org_id=row.org_id)
        found = Found(sandbox_id, isolation)
        self._warm.remember(self._key, found)
        return found


def _ended(error: LensError) -> Unavailable:
    return Unavailable(
        f"Your sandbox ended while this ran: {error.message}.",
        code=STOPPED,
        remedy="Call again: you get a new sandbox, without the files of the old one.",
    )


def _sandbox_for(principal: Principal, grant: Grant) -> Sandbox:
    with scope(principal.org_id):
        return sandbox_for(principal=principal, project_id=grant.project_id)


def _lost_row(sandbox_id: uuid.UUID, org_id: uuid.UUID) -> None:
    with scope(org_id):
        sandbox_lost(sandbox_id, actor=SYSTEM)


_ask = database_sync_to_async(_sandbox_for, thread_sensitive=False)
_lost = database_sync_to_async(_lost_row, thread_sensitive=False)
