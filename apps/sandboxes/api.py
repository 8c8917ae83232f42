"""`/sandboxes`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Q
from rest_framework import serializers
from rest_framework.decorators import action

from apps.common.api_fields import Choice, Key, Strict, Text
from apps.orgs.api.base import Listed, Shown
from apps.orgs.models import ProjectRole
from apps.orgs.selectors import projects_of, visible
from apps.sandboxes import services
from apps.sandboxes.models import Sandbox, SandboxState

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from rest_framework.request import Request
    from rest_framework.response import Response


class SandboxOut(serializers.ModelSerializer[Sandbox]):
    """A sandbox."""

    report = serializers.ListField(
        child=serializers.DictField(), read_only=True, help_text="The self-test at its start."
    )

    class Meta:
        model = Sandbox
        fields = (
            "id",
            "principal_kind",
            "principal_id",
            "principal_name",
            "agent",
            "team",
            "project",
            "delegation_scope",
            "on_behalf_of",
            "state",
            "driver",
            "isolation",
            "report",
            "failure",
            "reason",
            "last_used_at",
            "ready_at",
            "stopped_at",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields


class SandboxStop(Strict):
    """Why it is stopped."""

    reason = Text(max_length=500, required=False, help_text="For the audit trail.")


class SandboxFilters(Strict):
    """Which sandboxes."""

    state = Choice(choices=SandboxState.choices, required=False)
    team = Key(required=False)
    project = Key(required=False)
    agent = Key(required=False)


class SandboxesApi(Listed, Shown):
    """Sandboxes are made when an agent needs one. A stopped one stays in the list."""

    resource = "sandboxes"
    noun, one, many = "sandbox", "a sandbox", "sandboxes"
    say = {"stop": "Stop {one}"}
    queryset = Sandbox.objects.none()
    serializer_class = SandboxOut
    inputs = {"stop": SandboxStop}
    filters = SandboxFilters
    volatile = frozenset({"last_used_at", "state", "updated_at"})

    def visible(self) -> QuerySet[Sandbox]:
        own = Q(team__in=self.actor.team_ids)
        own |= Q(project__in=projects_of(self.actor, ProjectRole.ADMIN))
        return visible(Sandbox.objects.all(), self.actor, "sandbox.view", own)

    @action(detail=True, methods=["post"])
    def stop(self, _request: Request, **_: Any) -> Response:
        """Kill everything in it, now. One that is over already stays as it is."""
        row = self.get_object()
        reason = self.body().get("reason", f"stopped by {self.actor.name}")
        return self.one_of(services.sandbox_stop(row, reason=reason, actor=self.actor))
