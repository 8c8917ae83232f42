"""`enqueue()`: a row in the caller's transaction, a ring after it."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import transaction

from apps.common import clock
from apps.jobs.models import Job
from apps.jobs.services import enqueue

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_no_job_when_the_caller_rolls_back() -> None:
    with transaction.atomic():
        enqueue("test.nothing", {"id": 1})
        transaction.set_rollback(True)
    assert not Job.objects.exists()


def test_one_waiting_job_a_key() -> None:
    first = enqueue("test.nothing", {}, dedupe_key="team-1")
    again = enqueue("test.nothing", {}, dedupe_key="team-1")
    other = enqueue("test.nothing", {}, dedupe_key="team-2")
    assert first.pk == again.pk != other.pk
    assert Job.objects.count() == 2


def test_without_a_key_every_call_is_a_job() -> None:
    enqueue("test.nothing", {})
    enqueue("test.nothing", {})
    assert Job.objects.count() == 2


def test_an_earlier_twin_brings_the_waiting_job_forward() -> None:
    soon = clock.now()
    late = soon + dt.timedelta(hours=1)
    enqueue("test.nothing", {}, dedupe_key="k", run_after=late)
    job = enqueue("test.nothing", {}, dedupe_key="k", run_after=soon)
    assert job.run_after == soon


def test_a_running_twin_does_not_count() -> None:
    first = enqueue("test.nothing", {}, dedupe_key="k")
    Job.objects.update(state="running")
    assert enqueue("test.nothing", {}, dedupe_key="k").pk != first.pk
