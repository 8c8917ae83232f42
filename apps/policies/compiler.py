"""From rows to the `Bundle` that enforcers decide with, kept until the Revision moves.

Whatever is missing leaves its layer out, and without a team layer every decision is a denial: a
deleted team, a team without a policy, a project without a grant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.db.models import Q

from apps.orgs.models import ProjectGrant, Team
from apps.orgs.revision import StampedCache
from apps.policies.core.sentinels import sentinel
from apps.policies.models import Policy, PolicyKind
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRule,
)

if TYPE_CHECKING:
    import uuid

    from apps.policies import models

CACHE_SIZE = 1_000
_ORDER = {PolicyKind.CEILING: 0, PolicyKind.TEAM: 1, PolicyKind.AGENT: 2}
_cache: StampedCache[Bundle] = StampedCache(CACHE_SIZE)


def compile_bundle(
    *,
    org_id: uuid.UUID,
    team_id: uuid.UUID,
    project_id: uuid.UUID,
    agent_id: uuid.UUID | None = None,
) -> Bundle:
    """What an agent of the team may do in the project. `version` is the Revision it was read at.

    Raises Unavailable when the Revision cannot be read.
    """
    key = (org_id, team_id, project_id, agent_id)
    return _cache.get(key, lambda seq: _compile(seq, *key))


def platform_hosts() -> tuple[str, ...]:
    """Names of the platform itself and its stores, which no agent reaches by egress."""
    return tuple(getattr(settings, "LENS_PLATFORM_HOSTS", ()))


def layer_from(policy: Policy) -> Layer:
    """The layer that a stored policy is."""
    return Layer(
        kind=LayerKind(policy.kind),
        id=str(policy.pk),
        name=policy.name,
        domains=_domains(policy) if policy.has_domains else None,
        tools=_tools(policy) if policy.has_tools else None,
    )


def _compile(
    seq: int,
    org_id: uuid.UUID,
    team_id: uuid.UUID,
    project_id: uuid.UUID,
    agent_id: uuid.UUID | None,
) -> Bundle:
    found = _policies(org_id, team_id, project_id, agent_id)
    return Bundle(
        format=BUNDLE_FORMAT,
        version=seq,
        layers=tuple(map(layer_from, found)),
        bindings=tuple(
            _binding(row)
            for policy in found
            if policy.kind == PolicyKind.TEAM
            for row in _usable_bindings(policy, team_id, project_id)
        ),
        platform_hosts=platform_hosts(),
    )


def _policies(
    org_id: uuid.UUID, team_id: uuid.UUID, project_id: uuid.UUID, agent_id: uuid.UUID | None
) -> list[Policy]:
    """The chain's documents from the ceiling down; none where the team may not work at all."""
    granted = ProjectGrant.objects.filter(org=org_id, team=team_id, project=project_id)
    live = Team.objects.filter(org=org_id, pk=team_id, deleted_at=None, org__closed_at=None)
    if not (granted.exists() and live.exists()):
        return []
    layers = Q(kind=PolicyKind.CEILING) | Q(team=team_id)
    if agent_id is not None:
        layers |= Q(agent=agent_id)
    rows = Policy.objects.filter(layers, org=org_id)
    rows = rows.prefetch_related("domain_rules__http_rules", "tool_rules")
    return sorted(rows, key=lambda policy: _ORDER[PolicyKind(policy.kind)])


def _domains(policy: Policy) -> tuple[DomainRule, ...]:
    return tuple(
        DomainRule(
            id=str(row.pk),
            pattern=row.pattern,
            action=Action(row.action),
            http=tuple(map(_http, row.http_rules.all())),
            agent_credentials=AgentCredentials(row.agent_credentials),
        )
        for row in policy.domain_rules.all()
    )


def _http(row: models.HttpRule) -> HttpRule:
    return HttpRule(str(row.pk), row.method, row.path or None, Action(row.action))


def _tools(policy: Policy) -> tuple[ToolRule, ...]:
    return tuple(
        ToolRule(str(row.pk), row.pattern, Action(row.action)) for row in policy.tool_rules.all()
    )


def _usable_bindings(
    policy: Policy, team_id: uuid.UUID, project_id: uuid.UUID
) -> list[models.CredentialBinding]:
    """Bindings of credentials that this team may use, organization-wide or of this project."""
    return list(
        policy.bindings.filter(
            Q(credential__project=None) | Q(credential__project=project_id),
            credential__org=policy.org_id,
            credential__allowed_teams=team_id,
        ).select_related("credential")
    )


def _binding(row: models.CredentialBinding) -> Binding:
    credential = row.credential
    return Binding(
        id=str(row.pk),
        credential_id=str(credential.pk),
        credential_name=credential.name,
        pattern=row.pattern,
        injection=Injection(row.injection),
        allowed_hosts=tuple(credential.allowed_hosts),
        method=row.method,
        path=row.path or None,
        header=row.header,
        template=row.template,
        username=credential.username,
        parameter=row.parameter,
        env_name=row.env_name,
        sentinel=sentinel(credential.slug) if row.env_name else "",
        credential_version=credential.value_set_at.isoformat(),
    )
