"""Worker and beat as threads of this process, on the in-memory broker."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings

from apps.common.errors import Unavailable
from apps.jobs import periodic, registry
from apps.jobs.models import Job, JobState
from apps.jobs.registry import job
from apps.jobs.services import enqueue
from lensagents.celery import app, start_embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,  # starts and stops a worker
    pytest.mark.skipif(
        not settings.CELERY_BROKER_URL.startswith("memory:"),
        reason="the embedded mode has no other broker",
    ),
]


@pytest.fixture
def workers() -> Iterator[threading.Event]:
    stop = threading.Event()
    jobs = start_embedded(stop)
    yield stop
    stop.set()
    assert jobs.stop()


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_kinds", {})


def eventually(true: Callable[[], bool], seconds: float = 15) -> bool:
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.02)
    return true()


def _reached(done: list[float], count: int) -> bool:
    return len(done) == count


def test_a_job_is_done_soon_after_the_commit(workers: threading.Event) -> None:
    done: list[float] = []

    @job("test.quick")
    def quick(_payload: dict[str, Any]) -> None:
        done.append(time.monotonic())

    for count in range(1, 6):
        began = time.monotonic()
        enqueue("test.quick", {})
        assert eventually(partial(_reached, done, count))
    assert done[-1] - began < 2
    assert eventually(lambda: not Job.objects.exclude(state=JobState.DONE).exists())


def test_a_retry_needs_nobody_to_ring(workers: threading.Event) -> None:
    tries: list[int] = []

    @job("test.second_try")
    def second_try(_payload: dict[str, Any]) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("not yet")

    row = enqueue("test.second_try", {})
    assert eventually(lambda: Job.objects.get(pk=row.pk).state == JobState.DONE)
    assert len(tries) == 2


def test_a_row_that_another_process_wrote_is_found(workers: threading.Event) -> None:
    done: list[int] = []

    @job("test.silent")
    def silent(_payload: dict[str, Any]) -> None:
        done.append(1)

    Job.objects.create(kind="test.silent")
    assert eventually(lambda: done == [1])


def test_beat_knows_what_the_apps_declared() -> None:
    app.loader.import_default_modules()
    assert app.conf.beat_schedule == periodic.schedule()
    assert {"jobs.sweep", "jobs.prune"} <= set(app.conf.beat_schedule)
    assert all(entry["task"] in app.tasks for entry in app.conf.beat_schedule.values())
