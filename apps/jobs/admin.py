"""The outbox, read-only: what runs in the background, and what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin

from apps.common.admin import OrgModelAdmin
from apps.common.admin_display import badge_column, hostile_column
from apps.common.admin_scope import READ_ONLY
from apps.jobs.models import Job

if TYPE_CHECKING:
    from django.db.models import QuerySet


@admin.register(Job)
class JobAdmin(OrgModelAdmin):
    """The organization's jobs. Those of the installation itself are not a tenant's to see."""

    noun = "job"
    verbs = READ_ONLY
    keeps_history = False
    list_display = (
        "kind",
        badge_column("state", "State", {"done": "success", "failed": "danger", "running": "info"}),
        "attempts",
        "created_at",
        "finished_at",
    )
    list_filter = ("state", "kind")
    search_fields = ("kind", "dedupe_key")
    ordering = ("-created_at",)
    fields = (
        ("kind", "state"),
        ("attempts", "max_attempts"),
        ("created_at", "run_after", "finished_at"),
        hostile_column("error", "Error"),
        "payload",
    )
    readonly_fields = (fields[3],)

    def visible(self, actor: Any) -> QuerySet[Job]:
        """The organization's."""
        return Job.objects.filter(org=actor.org_id)
