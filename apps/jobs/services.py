"""`enqueue()`: a job is a row in the caller's transaction; the broker is rung when it commits.

If the caller rolls back there is no job; if it commits there is one, whatever happens to the broker
or to this process afterwards.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from apps.common import clock
from apps.jobs.bell import bell
from apps.jobs.models import Job, JobState

if TYPE_CHECKING:
    import datetime as dt
    from typing import Protocol

    class OrgLike(Protocol):
        """An organization row, or anything that has its key."""

        @property
        def id(self) -> uuid.UUID: ...


DEDUPE_TRIES = 5


def enqueue(
    kind: str,
    payload: dict[str, Any],
    *,
    org: OrgLike | uuid.UUID | None = None,
    run_after: dt.datetime | None = None,
    dedupe_key: str | None = "",
) -> Job:
    """Write a job row in the current transaction and ring the worker once it is committed.

    `payload` is JSON and carries ids, never secrets. With `dedupe_key`, a waiting job of the same
    kind and key is returned instead of a second one (and brought forward if this one is due
    earlier); a job that already runs does not count, since it may have read the world before the
    caller changed it.
    """
    due = run_after or clock.now()
    org_id = org if org is None or isinstance(org, uuid.UUID) else org.id
    row = Job(kind=kind, payload=payload, org_id=org_id, run_after=due, dedupe_key=dedupe_key or "")
    written = _insert_once(row)
    transaction.on_commit(partial(_ring_if_due, written.id, due), robust=True)
    return written


def _insert_once(row: Job) -> Job:
    """Insert `row`, or return the waiting one that already has its key."""
    if not row.dedupe_key:
        row.save(force_insert=True)
        return row
    for _ in range(DEDUPE_TRIES):
        waiting = _waiting_twin(row)
        if waiting is not None:
            return waiting
        try:
            with transaction.atomic():
                row.save(force_insert=True)
        except IntegrityError:
            continue
        return row
    raise IntegrityError(f"job {row.kind} {row.dedupe_key} is claimed faster than it is written")


def _waiting_twin(row: Job) -> Job | None:
    """The queued job with the same key, brought forward to `row.run_after` if that is earlier."""
    twins = Job.objects.filter(kind=row.kind, dedupe_key=row.dedupe_key, state=JobState.QUEUED)
    twins.filter(run_after__gt=row.run_after).update(run_after=row.run_after)
    return twins.first()


def _ring_if_due(job_id: uuid.UUID, due: dt.datetime) -> None:
    if due <= clock.now():
        bell.ring([job_id])
