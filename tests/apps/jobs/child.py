"""A process that does jobs and is killed for it; `app` is what a Celery worker of the test loads.

    main(<log>, "enqueue", <count>)    write job rows, ring for them, end
    main(<log>, "work")                embedded worker and beat until stdin ends

Each job appends `start <n> <pid>` and `end <n> <pid>` to the log, whole lines in one write each.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from apps.jobs.registry import job
from lensagents.celery import app, start_embedded

__all__ = ["app"]

KIND = "test.append"


@job(KIND, max_attempts=100)
def append(payload: dict[str, Any]) -> None:
    """Leave a mark, take a moment, leave another."""
    log = Path(payload["log"])
    _mark(log, f"start {payload['n']} {os.getpid()}")
    time.sleep(0.03)
    _mark(log, f"end {payload['n']} {os.getpid()}")


def _mark(log: Path, text: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def _enqueue(log: str, count: int) -> None:
    from apps.common.tenancy import scope  # noqa: PLC0415  after django.setup()
    from apps.jobs.services import enqueue  # noqa: PLC0415  same

    with scope(None):
        for n in range(count):
            enqueue(KIND, {"n": n, "log": log})


def main(log: str, what: str, count: str = "0") -> None:
    """Run as the module's text says."""
    import django  # noqa: PLC0415  only a script sets Django up

    django.setup()
    if what == "enqueue":
        _enqueue(log, int(count))
        return
    stop = threading.Event()
    jobs = start_embedded(stop)
    print("ready", flush=True)  # noqa: T201  what the test waits for
    sys.stdin.read()
    stop.set()
    sys.exit(0 if jobs.stop() else 1)
