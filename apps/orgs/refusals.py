"""Refusals in the audit trail: through the spool, since the caller's transaction is rolled back.

What anybody can cause is bounded, so that a flood of bad tokens cannot fill the disk that the audit
trail needs: past `BURST`, one event every `EVERY_SECONDS` says how many it stands for.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apps.audit import emitter
from apps.audit.models import Result, Surface
from apps.orgs.events import OrgAction

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.orgs.types import Actor

BURST = 50
EVERY_SECONDS = 1.0
REMEMBERED = 4_096
HASH_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token that does not hold. `who` is what the audit columns say of its owner, if known."""

    code: str
    message: str
    who: dict[str, str | None] = field(default_factory=dict)


class Damper:
    """Lets a burst through for each key, then one in a while with the count of those before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, tuple[float, float, int]] = OrderedDict()

    def admit(self, key: str) -> int | None:
        """How many were held back before this one, or None to hold this one back too."""
        with self._lock:
            now = self._clock()
            tokens, at, held = self._keys.pop(key, (float(BURST), now, 0))
            tokens = min(BURST, tokens + (now - at) / EVERY_SECONDS)
            admitted = tokens >= 1
            self._keys[key] = (tokens - 1, now, 0) if admitted else (tokens, now, held + 1)
            if len(self._keys) > REMEMBERED:
                self._keys.popitem(last=False)
            return held if admitted else None


_damper = Damper()


def token_refused(refusal: Refusal, digest: str) -> None:
    """Audit a refused token. `digest` is its SHA-256; "" for what has not even a token's form."""
    held_back = _damper.admit(digest if refusal.who else "")
    if held_back is None:
        return
    metadata: dict[str, Any] = {"code": refusal.code}
    if digest:
        metadata["sha256_starts"] = digest[:HASH_SHOWN]
    if held_back:
        metadata["more_like_this"] = held_back
    emitter.emit(
        {
            **refusal.who,
            "surface": Surface.AUTHENTICATION,
            "action": OrgAction.TOKEN_REFUSED,
            "resource_type": "token",
            "result": Result.DENIED,
            "status": 401,
            "reason": refusal.message,
            "metadata": metadata,
        }
    )


def access_refused(actor: Actor, verb: str, resource_id: str, reason: str) -> None:
    """Audit that an actor may not do this in the control plane."""
    emitter.emit(
        {
            "org": str(actor.org_id) if actor.org_id else None,
            "principal_kind": actor.kind,
            "principal_id": actor.id,
            "principal_name": actor.name,
            "surface": Surface.ADMIN_CHANGE,
            "action": OrgAction.ACCESS_REFUSED,
            "resource_type": verb.partition(".")[0],
            "resource_id": resource_id,
            "result": Result.DENIED,
            "status": 403,
            "reason": reason,
            "metadata": {"verb": verb},
        }
    )
