"""Leases: a running job belongs to its worker for some seconds, and the worker keeps renewing.

One thread a process renews for all its jobs. A worker that is killed stops renewing, and its jobs
are taken again when their leases end. `attempts` is the fence: every write about a run names the
attempt it belongs to, so a worker that was thought dead cannot finish a job that another one has
taken over.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.db import DatabaseError, connection

from apps.common import clock
from apps.common.tenancy import system
from apps.jobs.models import Job, JobState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

LEASE_SECONDS: Final = 30.0

logger = logging.getLogger(__name__)


def lease_seconds() -> float:
    """How long a worker that fell silent keeps its jobs."""
    return float(getattr(settings, "JOBS_LEASE_SECONDS", LEASE_SECONDS))


def lease_end() -> dt.datetime:
    """When a lease that is taken now ends."""
    return clock.now() + dt.timedelta(seconds=lease_seconds())


class LeaseKeeper:
    """Renews the leases of the jobs that run in this process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[tuple[uuid.UUID, int], float] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, job_id: uuid.UUID, attempt: int, max_seconds: float) -> Iterator[None]:
        """Keep the lease of `attempt` at the job renewed, for at most `max_seconds`."""
        key = (job_id, attempt)
        with self._changed:
            self._held[key] = time.monotonic() + max_seconds
            self._start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._held[key]

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="job-leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._wait()
            self._renew()

    def _wait(self) -> None:
        """Until a fifth of a lease has passed while a job was held.

        Whoever takes a job wakes this, so that a shorter lease set in between counts at once; what
        was due before is not put off by it.
        """
        with self._changed:
            while not self._held:
                self._changed.wait()
            due = time.monotonic() + lease_seconds() / 5
            while (left := due - time.monotonic()) > 0:
                self._changed.wait(left)
                due = min(due, time.monotonic() + lease_seconds() / 5)

    @system("jobs")
    def _renew(self) -> None:
        """One renewal; a database that is away is tried again before the leases end."""
        now = time.monotonic()
        with self._changed:
            held = [key for key, until in self._held.items() if now < until]
        try:
            for job_id, attempt in held:
                running = Job.objects.filter(id=job_id, attempts=attempt, state=JobState.RUNNING)
                running.update(lease_until=lease_end())
        except DatabaseError as error:
            logger.warning("job leases could not be renewed (%s)", type(error).__name__)
        finally:
            connection.close()


keeper = LeaseKeeper()
