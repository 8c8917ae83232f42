"""The documents of an organization as chains of layers, a draft in the place of what is saved.

What is not saved yet can be asked as if it were: for checks, policy tests and the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from apps.common.errors import Invalid
from apps.orgs.models import Team
from apps.policies.checks import layer_of
from apps.policies.compiler import layer_from
from apps.policies.documents_io import agent_with_slug
from apps.policies.models import Policy, PolicyKind

if TYPE_CHECKING:
    import uuid

    from apps.orgs.models import Organization
    from apps.policies.documents import PolicyDocument
    from apps.policies.types import Layer

Subject = tuple["uuid.UUID", "uuid.UUID | None"]
"""A team, and an agent of it or None for anybody."""


@dataclass(eq=False)
class Chains:
    """Reads the organization's documents once, when first asked."""

    org: Organization
    draft: PolicyDocument | None = None
    _teams: dict[str, Team | None] = field(default_factory=dict)
    _agents: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def policies(self) -> list[Policy]:
        """All saved documents but the one that the draft stands for."""
        rows = Policy.objects.filter(org=self.org).select_related("team", "agent__team")
        found = rows.prefetch_related("domain_rules__http_rules", "tool_rules", "tests")
        return [policy for policy in found if not self._is_draft(policy)]

    def layers(self, team_id: uuid.UUID, agent_id: uuid.UUID | None) -> tuple[Layer, ...]:
        """The chain for anybody of a team, or for an agent of it."""
        found = [
            self._layer(policy)
            for policy in self.policies
            if policy.kind == PolicyKind.CEILING
            or (policy.kind == PolicyKind.TEAM and policy.team_id == team_id)
            or (agent_id is not None and policy.agent_id == agent_id)
        ]
        if self.draft is not None and self.concerns(self.draft, team_id, agent_id):
            found.append(replace(layer_of(self.draft), id="draft"))
        return tuple(found)

    def subject(self, document: PolicyDocument, *, team: str, agent: str) -> Subject | str:
        """Whom a test of the document is asked for; a sentence when there is no such one."""
        if document.kind == PolicyKind.AGENT:
            return document.agent.team_id, document.agent.pk
        if agent:
            found = self._agent(agent)
            if found is None:
                return f"There is no agent “{agent}”."
            if document.kind == PolicyKind.TEAM and found.team_id != document.team.pk:  # type: ignore[union-attr]  # a team policy has its team
                return f"The agent “{agent}” is not in this team."
            return found.team_id, found.pk
        if document.kind == PolicyKind.TEAM:
            return document.team.pk, None  # type: ignore[union-attr]  # a team policy has its team
        named = self._team(team)
        return f"There is no team “{team}”." if named is None else (named.pk, None)

    @staticmethod
    def concerns(document: PolicyDocument, team_id: uuid.UUID, agent_id: uuid.UUID | None) -> bool:
        """Whether the document is part of this chain."""
        if document.kind == PolicyKind.TEAM:
            return document.team is not None and document.team.pk == team_id
        if document.kind == PolicyKind.AGENT:
            return document.agent is not None and document.agent.pk == agent_id
        return True

    @cached_property
    def _made(self) -> dict[uuid.UUID, Layer]:
        return {}

    def _layer(self, policy: Policy) -> Layer:
        if policy.pk not in self._made:
            self._made[policy.pk] = layer_from(policy)
        return self._made[policy.pk]

    def _is_draft(self, policy: Policy) -> bool:
        draft = self.draft
        if draft is None or policy.kind != draft.kind:
            return False
        team_id = draft.team.pk if draft.team else None
        agent_id = draft.agent.pk if draft.agent else None
        return (policy.team_id, policy.agent_id) == (team_id, agent_id)

    def _team(self, slug: str) -> Team | None:
        if slug not in self._teams:
            rows = Team.objects.filter(org=self.org, slug=slug, deleted_at=None)
            self._teams[slug] = rows.first()
        return self._teams[slug]

    def _agent(self, slug: str) -> Any:
        if slug not in self._agents:
            try:
                self._agents[slug] = agent_with_slug(self.org, slug, field="agent")
            except Invalid:
                self._agents[slug] = None
        return self._agents[slug]
