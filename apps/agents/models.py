"""Agents and their tokens."""

from __future__ import annotations

from django.db import models

from apps.common.tenancy import SlugField, TenantRow


class AgentKind(models.TextChoices):
    """Who runs the agent."""

    EXTERNAL = "external", "External"
    MANAGED = "managed", "Managed"


class Agent(TenantRow):
    """An agent in one team. `disabled_at` stops it everywhere at once."""

    team = models.ForeignKey("orgs.Team", on_delete=models.PROTECT, related_name="agents")
    slug = SlugField()
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    kind = models.CharField(max_length=16, choices=AgentKind, default=AgentKind.EXTERNAL)
    disabled_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "slug"], name="agent_slug_in_org")]

    def __str__(self) -> str:
        return self.name


class AgentToken(TenantRow):
    """A bearer token `lns_…`: shown once, stored as its SHA-256."""

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=200)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=16, editable=False, help_text="How the token starts.")
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "agent token"

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"
