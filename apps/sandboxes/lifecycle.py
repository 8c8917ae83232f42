"""The life of what runs: in use or idle, too old, lost with the sandbox service.

Rules.
1. sandboxd counts the calls in each sandbox, so a call writes nothing. The watcher asks for the
   counts every two seconds and writes what is different now: a sandbox that is called again and
   again costs a row `busy` once, `last_used_at` every `NOTE_EVERY`, and `idle` at the end.
2. `busy`: a call runs, or ran less than `BUSY_FOR` ago. `idle`: none for longer. `ready`: none yet.
3. A sandbox ends when it was idle for as long as its organization says, and when it is older than
   that says: if it is in use then, `AGE_GRACE` later, which is more than any one call may take.
4. Before one is stopped for being idle, sandboxd is asked again: rows lag behind by seconds.
5. A sandbox service that was started anew, or is not there at all, has no sandboxes any more: their
   rows fail, and the next call of each principal gets a new one.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction

from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock
from apps.common.errors import LensError
from apps.orgs.types import SYSTEM
from apps.sandboxes import selectors
from apps.sandboxes.driver import driver_for
from apps.sandboxes.events import SandboxAction
from apps.sandboxes.models import SandboxState
from apps.sandboxes.services import sandbox_lost, sandbox_stop
from apps.sandboxes.sweeping import for_each

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Iterator

    from apps.sandboxes.driver import Activity, Use
    from apps.sandboxes.models import Sandbox

    Written = dict[uuid.UUID, tuple[str, dt.datetime]]

BUSY_FOR = timedelta(seconds=5)
NOTE_EVERY = timedelta(seconds=30)
AGE_GRACE = timedelta(minutes=30)
PROCESS = "process"
_ENDED = {
    "init_ended": "Its process 1 ended.",
    "proxy_ended": "Its egress proxy ended.",
    "proxy_failed": "Its egress proxy did not answer.",
}
logger = logging.getLogger(__name__)


def note_use(activity: Activity, written: Written) -> int:
    """Write down which sandboxes are busy and which idle; how many rows that took.

    `written` is what this process wrote last, with the time, and is kept up to date.
    """
    now = clock.now()
    news = [
        (key, use)
        for key, use in activity.sandboxes.items()
        if use.ever and _is_news(written.get(key), state_of(use), now)
    ]
    with transaction.atomic():
        for key, use in news:
            selectors.running().filter(pk=key).update(
                state=state_of(use), last_used_at=now - (use.quiet or timedelta()), updated_at=now
            )
    written.update((key, (state_of(use), now)) for key, use in news)
    for key in written.keys() - activity.sandboxes.keys():
        del written[key]
    return len(news)


def state_of(use: Use) -> SandboxState:
    """Busy or idle, for what was used at all."""
    return SandboxState.BUSY if use.within(BUSY_FOR) else SandboxState.IDLE


def _is_news(before: tuple[str, dt.datetime] | None, state: str, now: dt.datetime) -> bool:
    if before is None or before[0] != state:
        return True
    return state == SandboxState.BUSY and now - before[1] >= NOTE_EVERY


def reap(name: str = PROCESS) -> int:
    """Stop every sandbox that is idle or old beyond the limits of its organization; how many."""
    seen = _activity(name)
    now = clock.now()
    over = dict((*_too_old(seen, now), *_idle(seen, now)))

    def stop(row: Sandbox) -> bool:
        sandbox_stop(row, reason=over[row], actor=SYSTEM)
        kill(row)
        return True

    return for_each([row for row in over if row.driver == name], stop)


def _activity(name: str) -> Activity | None:
    try:
        return driver_for(name).activity()
    except LensError as error:
        logger.warning("which sandboxes are in use is not known: %s", error.message)
        return None


def _idle(seen: Activity | None, now: dt.datetime) -> Iterator[tuple[Sandbox, str]]:
    for minutes, rows in selectors.unused_too_long(now):
        for row in rows:
            if not _in_use(row, seen, timedelta(minutes=minutes)):
                yield row, f"Idle for {minutes} min."


def _too_old(seen: Activity | None, now: dt.datetime) -> Iterator[tuple[Sandbox, str]]:
    for hours, rows in selectors.older_than_allowed(now):
        for row in rows:
            grace = now - row.created_at < timedelta(hours=hours) + AGE_GRACE
            if not (grace and _in_use(row, seen, BUSY_FOR)):
                yield row, f"Older than {hours} h."


def _in_use(row: Sandbox, seen: Activity | None, span: timedelta) -> bool:
    """Whether it was used within `span` as sandboxd knows it; what cannot be asked about may be."""
    if row.state == SandboxState.CREATING:
        return False
    if seen is None:
        return True
    use = seen.sandboxes.get(row.pk)
    return use is not None and use.within(span)


def kill(row: Sandbox) -> None:
    """End what runs of a sandbox whose row is over, now. Where that fails its job does it."""
    try:
        driver_for(row.driver).stop(row.pk)
    except LensError as error:
        logger.warning("sandbox %s is left to its job: %s", row.pk, error.error_code)
    except Exception:
        logger.exception("sandbox %s is left to its job", row.pk)


def reconcile(name: str = PROCESS) -> int:
    """Make rows and the sandbox service agree; how many differed. Run at start and now and then.

    The rows are read first: a sandbox that becomes ready in between is not taken for lost.
    """
    expected = _expected(name)
    driver = driver_for(name)
    exists = driver.activity().sandboxes
    lost = [key for key in expected if key not in exists or exists[key].state == "failed"]
    strays = exists.keys() - set(selectors.live().values_list("pk", flat=True))

    def agree(key: uuid.UUID) -> bool:
        if key not in exists:
            sandbox_lost(key, actor=SYSTEM)
            return True
        if key not in strays:
            reason = _ENDED.get(exists[key].reason, "Its processes ended.")
            sandbox_lost(key, reason=reason, actor=SYSTEM)
        driver.stop(key)
        return True

    return for_each([*lost, *strays], agree)


def service_away(name: str = PROCESS) -> int:
    """Fail every sandbox of a service that is not there; how many. 0 where it is."""
    if not driver_for(name).away():
        return 0

    def lose(key: uuid.UUID) -> bool:
        sandbox_lost(key, actor=SYSTEM)
        return True

    return for_each(_expected(name), lose)


def service_restarted(before: str, after: str) -> None:
    """Fail what the service had when it ended, and say that it was started anew."""
    ended = reconcile()
    logger.warning("the sandbox service was started anew; %d sandboxes were over", ended)
    record(
        actor=SYSTEM,
        org_id=None,
        surface=Surface.SANDBOX_OPERATION,
        action=SandboxAction.SERVICE_RESTART,
        resource_type="sandbox_service",
        resource_id=after,
        result=Result.ERROR,
        reason="The sandbox service ended and was started anew.",
        metadata={"instance_before": before, "sandboxes_lost": ended},
    )


def _expected(name: str) -> list[uuid.UUID]:
    return list(selectors.running().filter(driver=name).values_list("pk", flat=True))
