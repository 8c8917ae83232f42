"""Claim, do, and tell how it ended; and the sweep that rings again for what was left behind.

A claim is one conditional UPDATE, which is atomic on SQLite and on PostgreSQL: of many workers that
were rung for a job, one changes the row. Whatever kills a worker, the row says `running` with a
lease that ends, and `sweep` rings for it.
"""

from __future__ import annotations

import datetime as dt
import logging
import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from django.db import IntegrityError, transaction
from django.db.models import F, Q

from apps.common import clock
from apps.common.database import drop_stale_connections
from apps.common.errors import LensError
from apps.common.tenancy import edge, scope, system
from apps.jobs.bell import bell
from apps.jobs.lease import keeper, lease_end
from apps.jobs.models import Job, JobState
from apps.jobs.registry import kind_of

if TYPE_CHECKING:
    import uuid
    from contextlib import AbstractContextManager

    from django.db.models import QuerySet

MAX_BACKOFF_SECONDS: Final = 300
RING_AGAIN_SECONDS: Final = 5
SWEEP_BATCH: Final = 500
KEEP_DONE: Final = dt.timedelta(days=1)
KEEP_FAILED: Final = dt.timedelta(days=30)
PRUNE_BATCH: Final = 1000
NEVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

logger = logging.getLogger(__name__)


def run(job_id: uuid.UUID) -> bool:
    """Do the job if it is ours to do; False when it is done, not due, or held by another worker."""
    drop_stale_connections()
    try:
        with edge():
            row = _claim(job_id)
            if row is None:
                return False
            _do(row)
            return True
    finally:
        drop_stale_connections()


@system("jobs")
def sweep() -> int:
    """Ring for every job that waits without a worker knowing; returns how many were found."""
    now = clock.now()
    _bury(now)
    rung_before = Q(updated_at__gte=F("run_after")) & Q(
        updated_at__gte=now - dt.timedelta(seconds=RING_AGAIN_SECONDS)
    )
    waiting = _takeable(now).exclude(rung_before).order_by("run_after")
    ids = list(waiting.values_list("id", flat=True)[:SWEEP_BATCH])
    if ids:
        Job.objects.filter(id__in=ids).update(updated_at=now)
        bell.ring(ids)
    return len(ids)


@system("jobs")
def recover() -> int:
    """Hand over what a dead process held, at once; only where one process runs all jobs.

    Call it before the worker starts. Returns how many jobs were `running`.
    """
    Job.objects.filter(state=JobState.QUEUED).update(updated_at=NEVER)
    running = Job.objects.filter(state=JobState.RUNNING)
    return running.update(lease_until=clock.now(), updated_at=NEVER)


@system("jobs")
def prune() -> int:
    """Delete jobs that ended long ago, in small transactions; returns how many."""
    now = clock.now()
    old = Job.objects.filter(
        Q(state=JobState.DONE, finished_at__lt=now - KEEP_DONE)
        | Q(state=JobState.FAILED, finished_at__lt=now - KEEP_FAILED)
    )
    total = 0
    while ids := list(old.values_list("id", flat=True)[:PRUNE_BATCH]):
        total += Job.objects.filter(id__in=ids).delete()[0]
    return total


def _takeable(now: dt.datetime) -> QuerySet[Job]:
    """Jobs that a worker may claim at `now`."""
    due = Q(state=JobState.QUEUED, run_after__lte=now)
    abandoned = Q(state=JobState.RUNNING, lease_until__lte=now, attempts__lt=F("max_attempts"))
    return Job.objects.filter(due | abandoned)


@system("jobs")
def _claim(job_id: uuid.UUID) -> Job | None:
    now = clock.now()
    mine = _takeable(now).filter(id=job_id)
    taken = mine.update(
        state=JobState.RUNNING, attempts=F("attempts") + 1, lease_until=lease_end(), updated_at=now
    )
    return Job.objects.get(id=job_id) if taken else None


def _do(row: Job) -> None:
    kind = kind_of(row.kind)
    if kind is None:
        _retry(row, f"no handler for jobs of kind {row.kind!r}")
        return
    if kind.max_attempts != row.max_attempts:
        row.max_attempts = kind.max_attempts  # who enqueued need not have known the handler
        with system("jobs"):
            _ours(row).update(max_attempts=kind.max_attempts)
    try:
        with keeper.hold(row.id, row.attempts, kind.max_seconds), _place_of(row):
            kind.handler(row.payload)
    except Exception as error:  # noqa: BLE001  the job must be told of whatever a handler raises
        _handle(row, error)
    else:
        _end(row, JobState.DONE)


def _place_of(row: Job) -> AbstractContextManager[None]:
    """The scope of the job's organization; a job of the installation opens what it needs."""
    return scope(row.org_id) if row.org_id else nullcontext()


def _handle(row: Job, error: Exception) -> None:
    told = describe(error)
    logger.warning("job %s %s, attempt %d: %s", row.kind, row.id, row.attempts, told)
    if isinstance(error, LensError) and not error.retryable:
        _end(row, JobState.FAILED, told)
    else:
        _retry(row, told)


def describe(error: Exception) -> str:
    """What may be stored and logged: our own errors' text; of others type and place only.

    The text of a foreign exception may quote what it failed on, which may be a secret.
    """
    if isinstance(error, LensError):
        return f"{error.error_code}: {error.message}"
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__qualname__} in {places}"


@system("jobs")
def _retry(row: Job, told: str) -> None:
    """Queue the job again, later each time; after the last attempt it has failed."""
    if row.attempts >= row.max_attempts:
        _end(row, JobState.FAILED, told)
        return
    now = clock.now()
    pause = dt.timedelta(seconds=min(MAX_BACKOFF_SECONDS, 2**row.attempts))
    try:
        with transaction.atomic():
            _ours(row).update(
                state=JobState.QUEUED,
                run_after=now + pause,
                lease_until=None,
                error=told,
                updated_at=now,
            )
    except IntegrityError:  # one waiting job a key, and a newer one already waits
        _end(row, JobState.FAILED, f"{told}; a newer job with the same key takes over")


@system("jobs")
def _end(row: Job, state: JobState, told: str = "") -> None:
    now = clock.now()
    _ours(row).update(state=state, finished_at=now, lease_until=None, error=told, updated_at=now)


def _ours(row: Job) -> QuerySet[Job]:
    """The row, unless another worker has taken it since."""
    return Job.objects.filter(id=row.id, state=JobState.RUNNING, attempts=row.attempts)


def _bury(now: dt.datetime) -> None:
    """Fail what killed its worker as often as it was tried."""
    Job.objects.filter(
        state=JobState.RUNNING, lease_until__lte=now, attempts__gte=F("max_attempts")
    ).update(
        state=JobState.FAILED,
        finished_at=now,
        lease_until=None,
        updated_at=now,
        error="the worker ended while it did this job, at every attempt",
    )
