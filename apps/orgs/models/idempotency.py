"""Requests that were made under an idempotency key."""

from __future__ import annotations

import uuid

from django.db import models

from apps.common.tenancy import TenantRow


class IdempotentRequest(TenantRow):
    """One key of one principal: what was asked under it, and what was answered (`status` null =
    not yet). `attempt` names who works on it; an answer that shows a secret is kept without body,
    which is JSON as text otherwise: a database's own JSON forgets the order of keys.
    """

    principal_kind = models.CharField(max_length=16)
    principal_id = models.CharField(max_length=64)
    key_hash = models.CharField(max_length=64)
    fingerprint = models.CharField(max_length=64)
    attempt = models.UUIDField(default=uuid.uuid4)
    expires_at = models.DateTimeField()
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.JSONField(default=dict)
    body = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="idempotent_expires")]
        constraints = [
            models.UniqueConstraint(
                fields=["org", "principal_kind", "principal_id", "key_hash"],
                name="idempotent_key_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.principal_kind} {self.principal_id}: {self.key_hash[:12]}"
