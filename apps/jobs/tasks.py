"""Celery shells: what the bell and beat call."""

from __future__ import annotations

import uuid

from celery import shared_task

from apps.jobs import runner
from apps.jobs.bell import RUN_TASK, SWEEP_TASK
from apps.jobs.periodic import every


@shared_task(name=RUN_TASK, ignore_result=True)
def run_job(job_id: str) -> None:
    """Do one job, if it is still to be done."""
    runner.run(uuid.UUID(job_id))


@every(2, name=SWEEP_TASK)
def sweep() -> None:
    """Ring for jobs whose bell got lost or whose worker died."""
    runner.sweep()


@every(3600, name="jobs.prune")
def prune() -> None:
    """Forget jobs that ended long ago."""
    runner.prune()
