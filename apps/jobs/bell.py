"""The doorbell: tells a worker that a row may be waiting. It may get lost; the row does not.

A broker that is away must not fail the request that enqueued, nor slow the next ones: after a
failed ring the bell is silent for some seconds, and the sweep rings again for what is still
waiting.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from celery import current_app

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

RUN_TASK: Final = "jobs.run"
SWEEP_TASK: Final = "jobs.sweep"
QUIET_SECONDS: Final = 5.0

logger = logging.getLogger(__name__)


class Bell:
    """Rings `jobs.run` through Celery; never raises."""

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def ring(self, job_ids: Iterable[uuid.UUID]) -> int:
        """Ring once for each job; returns how many rings the broker took."""
        rung = 0
        for job_id in job_ids:
            if time.monotonic() < self._quiet_until or not self._send(RUN_TASK, str(job_id)):
                break
            rung += 1
        return rung

    def wake(self) -> None:
        """Have a worker look around now."""
        self._send(SWEEP_TASK)

    def _send(self, task: str, *args: str) -> bool:
        try:
            current_app.send_task(task, args=list(args), ignore_result=True, retry=False)
        except Exception as error:  # noqa: BLE001  brokers fail in many ways; the sweep rings again
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            logger.warning("the job broker cannot be reached (%s)", type(error).__name__)
            return False
        return True


bell = Bell()
