"""Sandboxes as the control plane knows them."""

from __future__ import annotations

from django.db import models

from apps.common.clock import now
from apps.common.tenancy import TenantRow


class SandboxState(models.TextChoices):
    """creating → ready → busy → idle → stopped | failed."""

    CREATING = "creating", "Creating"
    READY = "ready", "Ready"
    BUSY = "busy", "Busy"
    IDLE = "idle", "Idle"
    STOPPED = "stopped", "Stopped"
    FAILED = "failed", "Failed"


LIVE_STATES = ("creating", "ready", "busy", "idle")
# Held by Landlock and seccomp alone; the name is sandboxd's (docs/sandbox.md).
DEGRADED = "degraded"


class Sandbox(TenantRow):
    """One sandbox, keyed by (principal, team, project, delegation scope, on_behalf_of).

    `key` is the SHA-256 of that tuple and unique among live rows, so that two callers who race get
    one sandbox. `report` is the self-test that ran at its start. `failure` is the code of what went
    wrong, `reason` the sentence for people: for a host that cannot isolate, the exact remedy.
    """

    key = models.CharField(max_length=64, editable=False)
    principal_kind = models.CharField(max_length=16)
    principal_id = models.CharField(max_length=64)
    principal_name = models.CharField("principal", max_length=254)
    agent = models.ForeignKey(
        "agents.Agent", on_delete=models.SET_NULL, related_name="sandboxes", null=True, blank=True
    )
    team = models.ForeignKey("orgs.Team", on_delete=models.PROTECT, related_name="sandboxes")
    project = models.ForeignKey("orgs.Project", on_delete=models.PROTECT, related_name="sandboxes")
    delegation_scope = models.CharField(max_length=200, blank=True)
    on_behalf_of = models.CharField(max_length=254, blank=True)
    state = models.CharField(max_length=16, choices=SandboxState, default=SandboxState.CREATING)
    driver = models.CharField(max_length=50, default="process")
    isolation = models.CharField(max_length=32, blank=True)
    report = models.JSONField("self-test", default=list)
    token_hash = models.CharField(max_length=64, blank=True, editable=False)
    bundle_version = models.PositiveBigIntegerField(default=0, editable=False)
    last_used_at = models.DateTimeField(default=now)
    ready_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    failure = models.CharField(max_length=64, blank=True, editable=False)
    reason = models.TextField(blank=True)

    class Meta:
        verbose_name_plural = "sandboxes"
        indexes = [models.Index(fields=["state", "last_used_at"], name="sandbox_state_used")]
        constraints = [
            models.UniqueConstraint(
                fields=["key"],
                condition=models.Q(state__in=["creating", "ready", "busy", "idle"]),
                name="sandbox_one_live_per_key",
            )
        ]

    def __str__(self) -> str:
        return f"{self.principal_name} in {self.project}"

    @property
    def note(self) -> dict[str, str]:
        """What every audit event of it says beside the event's own: that it is a degraded one."""
        return note_of(self.isolation)


def note_of(isolation: str) -> dict[str, str]:
    """The same, where only the isolation is known."""
    return {"isolation": DEGRADED} if isolation == DEGRADED else {}
