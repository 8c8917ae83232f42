"""Claiming, ending, retrying and sweeping: what each leaves in the row."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection

from apps.common import clock
from apps.common.errors import Conflict, Unavailable
from apps.jobs import registry, runner
from apps.jobs.bell import bell
from apps.jobs.lease import keeper
from apps.jobs.models import Job, JobState
from apps.jobs.registry import job
from apps.jobs.services import enqueue

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.django_db, pytest.mark.database]

KIND = "test.runner"


@pytest.fixture
def done() -> list[Any]:
    """What the handler was called with."""
    return []


@pytest.fixture
def fails() -> list[Exception]:
    """What the handler raises, call by call."""
    return []


@pytest.fixture(autouse=True)
def handler(done: list[Any], fails: list[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_kinds", {})

    @job(KIND, max_attempts=3)
    def work(payload: dict[str, Any]) -> None:
        done.append(payload)
        if fails:
            raise fails.pop(0)


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[uuid.UUID]:
    """The jobs that the bell was rung for."""
    heard: list[uuid.UUID] = []
    monkeypatch.setattr(bell, "ring", heard.extend)
    return heard


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock forward by so many seconds."""
    shift = dt.timedelta()
    real = clock.now

    def forward(seconds: float) -> None:
        nonlocal shift
        shift += dt.timedelta(seconds=seconds)

    monkeypatch.setattr(clock, "now", lambda: real() + shift)
    return forward


def state_of(row: Job) -> Job:
    return Job.objects.get(pk=row.pk)


def test_a_job_is_done_once(done: list[Any]) -> None:
    row = enqueue(KIND, {"n": 1})
    assert runner.run(row.pk)
    assert not runner.run(row.pk)
    assert done == [{"n": 1}]
    assert state_of(row).state == JobState.DONE
    assert state_of(row).finished_at


def test_a_job_that_is_not_due_waits(done: list[Any], later: Callable[[float], None]) -> None:
    row = enqueue(KIND, {}, run_after=clock.now() + dt.timedelta(minutes=1))
    assert not runner.run(row.pk)
    later(61)
    assert runner.run(row.pk)


def test_a_held_job_is_left_alone_until_its_lease_ends(
    done: list[Any], later: Callable[[float], None]
) -> None:
    row = enqueue(KIND, {})
    assert runner._claim(row.pk)  # a worker took it and was killed
    assert not runner.run(row.pk)
    later(31)
    assert runner.run(row.pk)
    assert state_of(row).attempts == 2


def test_who_lost_the_lease_cannot_end_the_job(later: Callable[[float], None]) -> None:
    row = enqueue(KIND, {})
    slow = runner._claim(row.pk)
    assert slow
    later(31)
    second = runner._claim(row.pk)
    assert second
    runner._end(slow, JobState.FAILED, "too late")
    assert state_of(row).state == JobState.RUNNING
    runner._end(second, JobState.DONE)
    assert state_of(row).state == JobState.DONE


def test_a_failing_job_is_tried_again_later_each_time_and_then_has_failed(
    fails: list[Exception], done: list[Any], later: Callable[[float], None]
) -> None:
    fails += [Unavailable("not now"), KeyError("x"), Unavailable("still not")]
    row = enqueue(KIND, {})
    pauses = []
    for _ in range(2):
        assert runner.run(row.pk)
        assert state_of(row).state == JobState.QUEUED
        pauses.append((state_of(row).run_after - clock.now()).total_seconds())
        assert not runner.run(row.pk)
        later(pauses[-1] + 0.1)
    assert runner.run(row.pk)
    assert [round(pause) for pause in pauses] == [2, 4]
    assert state_of(row).state == JobState.FAILED
    assert state_of(row).error == "unavailable: still not"
    assert len(done) == 3


def test_what_will_not_get_better_fails_at_once(fails: list[Exception]) -> None:
    fails.append(Conflict("the sandbox is stopped"))
    row = enqueue(KIND, {})
    runner.run(row.pk)
    assert state_of(row).state == JobState.FAILED
    assert state_of(row).attempts == 1


def test_a_foreign_error_is_told_without_its_text(fails: list[Exception]) -> None:
    fails.append(ValueError("password=hunter2"))
    row = enqueue(KIND, {})
    runner.run(row.pk)
    assert "hunter2" not in state_of(row).error
    assert state_of(row).error.startswith("ValueError in work:")


def test_a_kind_that_nobody_knows_is_tried_again(later: Callable[[float], None]) -> None:
    row = enqueue("test.unknown", {})
    assert runner.run(row.pk)
    assert state_of(row).state == JobState.QUEUED
    assert "test.unknown" in state_of(row).error


def test_a_retry_gives_way_to_a_newer_job_of_its_key(fails: list[Exception]) -> None:
    fails.append(Unavailable("not now"))
    row = enqueue(KIND, {}, dedupe_key="k")
    claimed = runner._claim(row.pk)
    assert claimed
    newer = enqueue(KIND, {}, dedupe_key="k")
    runner._do(claimed)
    assert state_of(row).state == JobState.FAILED
    assert "newer job" in state_of(row).error
    assert state_of(newer).state == JobState.QUEUED


def test_the_sweep_rings_for_a_lost_bell_and_not_all_the_time(
    rung: list[uuid.UUID], later: Callable[[float], None]
) -> None:
    row = enqueue(KIND, {})
    assert runner.sweep() == 0  # its bell was rung just now
    later(6)
    assert runner.sweep() == 1
    assert runner.sweep() == 0
    later(6)
    assert runner.sweep() == 1
    assert rung == [row.pk, row.pk]


def test_the_sweep_rings_when_a_job_falls_due(
    rung: list[uuid.UUID], later: Callable[[float], None]
) -> None:
    enqueue(KIND, {}, run_after=clock.now() + dt.timedelta(seconds=3))
    later(2)
    assert runner.sweep() == 0
    later(1.1)
    assert runner.sweep() == 1


def test_the_sweep_finds_what_a_killed_worker_held(
    rung: list[uuid.UUID], later: Callable[[float], None]
) -> None:
    row = enqueue(KIND, {})
    runner._claim(row.pk)
    later(29)
    assert runner.sweep() == 0
    later(2)
    assert runner.sweep() == 1


def test_what_kills_every_worker_is_buried(
    rung: list[uuid.UUID], later: Callable[[float], None]
) -> None:
    row = enqueue(KIND, {})
    Job.objects.update(max_attempts=2)
    for _ in range(2):
        assert runner._claim(row.pk)
        later(31)
    assert not runner._claim(row.pk)
    runner.sweep()
    assert state_of(row).state == JobState.FAILED
    assert "worker ended" in state_of(row).error


def test_recover_makes_everything_ready_at_once(rung: list[uuid.UUID]) -> None:
    held, waiting = enqueue(KIND, {}), enqueue(KIND, {})
    runner._claim(held.pk)
    assert runner.recover() == 1
    assert runner.sweep() == 2
    assert set(rung) == {held.pk, waiting.pk}


def test_old_ended_jobs_are_forgotten(later: Callable[[float], None]) -> None:
    rows = [enqueue(KIND, {}) for _ in range(3)]
    runner._end(runner._claim(rows[0].pk) or rows[0], JobState.DONE)
    runner._end(runner._claim(rows[1].pk) or rows[1], JobState.FAILED)
    later(2 * 86_400)
    assert runner.prune() == 1
    later(30 * 86_400)
    assert runner.prune() == 1
    assert list(Job.objects.values_list("pk", flat=True)) == [rows[2].pk]


@pytest.mark.slow  # waits longer than a lease, on purpose
@pytest.mark.django_db(transaction=True)
def test_a_long_job_keeps_its_lease(settings: Any, rung: list[uuid.UUID]) -> None:
    settings.JOBS_LEASE_SECONDS = 60.0
    with keeper.hold(uuid.uuid4(), 1, 30):
        time.sleep(0.1)  # the keeper now waits for a fifth of a long lease
    settings.JOBS_LEASE_SECONDS = 1.0
    taken: list[bool] = []

    @job("test.long", max_seconds=30)
    def long(_payload: dict[str, Any]) -> None:
        for _ in range(8):
            time.sleep(0.25)
            runner.sweep()
            taken.append(runner.run(row.pk))

    row = enqueue("test.long", {})
    runner.run(row.pk)
    assert not any(taken)
    assert state_of(row).state == JobState.DONE
    assert state_of(row).attempts == 1


@pytest.mark.slow  # twelve threads and a real database
@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_does_the_job(done: list[Any]) -> None:
    rows = [enqueue(KIND, {"n": n}) for n in range(20)]
    errors: list[Exception] = []

    def worker() -> None:
        try:
            for row in rows:
                runner.run(row.pk)
        except Exception as error:  # noqa: BLE001  shown by the assertion below
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=worker) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(payload["n"] for payload in done) == list(range(20))
