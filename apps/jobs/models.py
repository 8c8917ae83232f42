"""The outbox: every background job is a row first. The broker is a doorbell, never the record."""

from __future__ import annotations

from django.db import models

from apps.common.clock import now
from apps.common.tenancy import Row


class JobState(models.TextChoices):
    """A job ends `done` or `failed`; `running` past its lease is taken again."""

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"


class Job(Row):
    """One thing to do, at least once. `payload` carries ids, never secrets.

    `org` is null for the installation's own jobs (sweeps). `dedupe_key` keeps one open job a thing.
    """

    org = models.ForeignKey(
        "orgs.Organization", on_delete=models.PROTECT, related_name="+", null=True, editable=False
    )
    kind = models.CharField(max_length=100)
    payload = models.JSONField(default=dict)
    state = models.CharField(max_length=16, choices=JobState, default=JobState.QUEUED)
    dedupe_key = models.CharField(max_length=200, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=5)
    run_after = models.DateTimeField(default=now)
    lease_until = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["state", "run_after"], name="job_state_run_after")]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "dedupe_key"],
                condition=models.Q(state__in=["queued"]) & ~models.Q(dedupe_key=""),
                name="job_dedupe_open",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} ({self.state})"
