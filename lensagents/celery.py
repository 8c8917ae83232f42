"""Celery, in both modes: threads in the one process (`memory://`), or worker processes on Redis.

    celery -A lensagents.celery worker --pool threads --concurrency 8
    celery -A lensagents.celery beat

The broker carries doorbells only (`apps.jobs`), so neither mode can lose a job with it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.beat import Scheduler, Service
from celery.signals import import_modules
from celery.worker import state

from apps.jobs import periodic
from apps.jobs.bell import bell

if TYPE_CHECKING:
    from celery.worker import WorkController

EMBEDDED_CONCURRENCY = 4
STOP_SECONDS = 10.0

logger = logging.getLogger(__name__)

app = Celery("lensagents")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.set_default()
app.autodiscover_tasks()


def _collect_schedule(**_: Any) -> None:
    """Runs after the apps' `tasks` modules were imported, which declare what beat does."""
    app.conf.beat_schedule = periodic.schedule()


# Connected after `autodiscover_tasks`, and receivers are called in that order.
import_modules.connect(_collect_schedule, sender=app, weak=False)


class EmbeddedJobs:
    """Worker and beat as threads of this process."""

    def __init__(self) -> None:
        state.should_stop = None  # it is global to the process and stays set after a stop
        self._worker: WorkController = app.WorkController(
            pool="threads",
            concurrency=EMBEDDED_CONCURRENCY,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        self._beat = Service(app, max_interval=1, scheduler_cls=Scheduler)
        self._threads = [
            threading.Thread(target=self._worker.start, name="celery-worker", daemon=True),
            threading.Thread(target=self._beat.start, name="celery-beat", daemon=True),
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Let running jobs end, for at most `seconds`; False when something is still running."""
        self._beat.stop()
        state.should_stop = 0  # type: ignore[assignment]  # its stub knows only the unset value
        bell.wake()
        ends = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def alive(self) -> bool:
        """Whether worker and beat both run."""
        return all(thread.is_alive() for thread in self._threads)


def start_embedded(stop: threading.Event | None = None) -> EmbeddedJobs:
    """Take over what a dead process left, start worker and beat; they end when `stop` is set.

    The caller must be the only process that runs jobs on this database: `manage.py up` holds a lock
    on the data folder.
    """
    from apps.jobs import runner  # noqa: PLC0415  models are ready only after Celery is made

    jobs = EmbeddedJobs()
    runner.recover()
    jobs.start()
    if stop is not None:
        waiter = threading.Thread(
            target=lambda: stop.wait() and jobs.stop(), name="celery-stop", daemon=True
        )
        waiter.start()
    return jobs
