"""The audit trail. Rows are inserted and read, never changed; names in it are copies."""

from __future__ import annotations

from django.db import models

from apps.common.clock import now
from apps.common.ids import uuid7


class Surface(models.TextChoices):
    """Where a thing happened: seven data-plane surfaces and the control plane's own two."""

    MCP_TOOL = "mcp_tool", "MCP tool"
    KUBERNETES_PROXY = "kubernetes_proxy", "Kubernetes proxy"
    SHELL_COMMAND = "shell_command", "Shell command"
    FORWARD_PROXY = "forward_proxy", "Forward proxy"
    SANDBOX_OPERATION = "sandbox_operation", "Sandbox operation"
    AWS_PROXY = "aws_proxy", "AWS proxy"
    LLM_PROXY = "llm_proxy", "LLM proxy"
    ADMIN_CHANGE = "admin_change", "Admin change"
    AUTHENTICATION = "authentication", "Authentication"


class Result(models.TextChoices):
    """How it ended: `failure` is the asked thing's own, `error` is ours."""

    SUCCESS = "success", "Success"
    DENIED = "denied", "Denied"
    FAILURE = "failure", "Failure"
    ERROR = "error", "Error"


class AuditEvent(models.Model):
    """One event. `org` is null where nobody is known yet (an unknown token, the set-up)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField("time", default=now)
    stored_at = models.DateTimeField(default=now)
    duration_ms = models.FloatField("duration (ms)", null=True)
    org = models.ForeignKey(
        "orgs.Organization", on_delete=models.PROTECT, related_name="+", null=True
    )
    team_id = models.UUIDField(null=True)
    team_slug = models.CharField("team", max_length=63, blank=True)
    project_id = models.UUIDField(null=True)
    project_slug = models.CharField("project", max_length=63, blank=True)
    principal_kind = models.CharField(max_length=16, blank=True)
    principal_id = models.CharField(max_length=64, blank=True)
    principal_name = models.CharField("principal", max_length=254, blank=True)
    on_behalf_of = models.CharField(max_length=254, blank=True)
    chain = models.JSONField(default=list)
    tier = models.CharField(max_length=16, blank=True)
    surface = models.CharField(max_length=24, choices=Surface)
    action = models.CharField(max_length=100)
    resource_type = models.CharField(max_length=50, blank=True)
    resource_id = models.CharField("resource", max_length=500, blank=True)
    result = models.CharField(max_length=8, choices=Result)
    status = models.PositiveSmallIntegerField("status code", null=True)
    reason = models.TextField(blank=True)
    decision_id = models.CharField("decision ID", max_length=64, blank=True)
    trace_id = models.CharField("trace ID", max_length=64, blank=True)
    metadata = models.JSONField(default=dict)

    class Meta:
        verbose_name = "audit event"
        indexes = [
            models.Index(fields=["org", "-at"], name="audit_org_at"),
            models.Index(fields=["org", "principal_id", "-at"], name="audit_org_principal_at"),
            models.Index(fields=["org", "surface", "-at"], name="audit_org_surface_at"),
            models.Index(fields=["org", "result", "-at"], name="audit_org_result_at"),
            models.Index(fields=["decision_id"], name="audit_decision"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.result}"
