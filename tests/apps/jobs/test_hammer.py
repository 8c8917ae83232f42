"""Twelve writers on one database: they wait for each other, and none is told that it is locked."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import DatabaseError, connection, transaction

from apps.audit.models import AuditEvent
from apps.audit.services import record
from apps.jobs import runner
from apps.jobs.models import Job
from apps.jobs.services import enqueue
from apps.orgs.models import Organization
from tests.tenancy import everywhere

WRITERS = 12
SECONDS = 4.0


@pytest.mark.slow  # hammers for some seconds
@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_twelve_writers_lock_nobody_out() -> None:
    org = Organization.objects.create(slug="acme", name="0")
    ends = time.monotonic() + SECONDS
    counts = [0] * WRITERS
    errors: list[DatabaseError] = []

    def write(number: int) -> None:
        try:
            while time.monotonic() < ends:
                with everywhere(), transaction.atomic():
                    row = Organization.objects.select_for_update().get(pk=org.pk)
                    row.name = str(int(row.name) + 1)
                    row.save()
                    job = enqueue("test.hammer", {"n": number})
                    record(actor=None, org_id=org.pk, surface="admin_change", action="audit.gap")
                runner.run(job.pk)
                counts[number] += 1
        except DatabaseError as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sum(counts) > 0
    assert Organization.objects.get().name == str(sum(counts))
    assert Job.objects.count() == AuditEvent.objects.count() == sum(counts)
