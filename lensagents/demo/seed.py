"""Acme Corp, as a company looks a few weeks into a rollout. Seeding twice changes nothing.

Everything is written through the same services as the admin uses, so the audit trail begins here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import transaction

from apps.agents.models import Agent
from apps.agents.services import agent_create, token_create, token_revoke
from apps.common import clock
from apps.common.tenancy import system
from apps.connections.services import credential_create
from apps.orgs.models import Organization, Project, Team
from apps.orgs.services.grants import grant_set
from apps.orgs.services.memberships import membership_update, user_invite
from apps.orgs.services.organizations import organization_create
from apps.orgs.services.projects import project_create
from apps.orgs.services.teams import team_create
from apps.orgs.types import SYSTEM
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
)
from apps.policies.services import policy_save
from lensagents.demo.story import HOST

if TYPE_CHECKING:
    from apps.connections.models import Credential
    from apps.orgs.types import Actor

ORG = ("acme", "Acme Corp")
TEAMS = {
    "platform-engineering": "Platform Engineering",
    "backend-engineering": "Backend Engineering",
    "frontend-engineering": "Frontend Engineering",
    "sre": "SRE",
    "support-operations": "Support Operations",
}
PROJECTS = {
    "production": "Production",
    "staging": "Staging",
    "support-systems": "Support Systems",
}
GRANTS = [
    ("platform-engineering", "production", "admin"),
    ("platform-engineering", "staging", "admin"),
    ("backend-engineering", "production", "member"),
    ("backend-engineering", "staging", "member"),
    ("frontend-engineering", "staging", "member"),
    ("sre", "production", "admin"),
    ("sre", "staging", "member"),
    ("support-operations", "support-systems", "member"),
]
PEOPLE = [
    ("ana@acme.test", "Ana Admin", "admin", []),
    ("olaf@acme.test", "Olaf Auditor", "auditor", []),
    ("sam@acme.test", "Sam Support", "member", ["support-operations"]),
    ("rita@acme.test", "Rita Reliability", "member", ["sre"]),
]
AGENTS = [
    ("support-operations", "support-triage", "Support triage"),
    ("sre", "incident-helper", "Incident helper"),
]
CREDENTIALS = [
    ("github", "GitHub", "production", "api.github.com", "sre"),
    ("pagerduty", "PagerDuty", "production", "api.pagerduty.com", "sre"),
    ("ticketing", "Ticketing", "support-systems", HOST, "support-operations"),
]
SESSION = "Demo session"
TOOLS = ("whoami", "shell_exec", "file_*", "web_fetch")


@dataclass(frozen=True)
class Seeded:
    """What the demo needs of the seed: a fresh agent token, shown to nobody."""

    org: Organization
    token: str = dataclasses.field(repr=False)


@system("the demo")
def seed(ticketing_token: str) -> Seeded:
    """Create Acme Corp if it is not there, and a fresh token for its support agent.

    `ticketing_token` becomes the ticketing credential's value.
    """
    with transaction.atomic():
        org = Organization.objects.filter(slug=ORG[0]).first()
        if org is None:
            org = organization_create(slug=ORG[0], name=ORG[1], actor=SYSTEM)
            _fill(org, dataclasses.replace(SYSTEM, org_id=org.id), ticketing_token)
        actor = dataclasses.replace(SYSTEM, org_id=org.id)
        agent = Agent.objects.get(org=org, slug="support-triage")
        for old in agent.tokens.filter(name=SESSION, revoked_at=None):
            token_revoke(old, actor=actor)
        tomorrow = clock.now() + dt.timedelta(days=1)
        minted = token_create(agent, name=SESSION, expires_at=tomorrow, actor=actor)
    return Seeded(org, minted.value)


def _fill(org: Organization, actor: Actor, ticketing_token: str) -> None:
    teams = {
        slug: team_create(org, slug=slug, name=name, actor=actor) for slug, name in TEAMS.items()
    }
    projects = {
        slug: project_create(org, slug=slug, name=name, actor=actor)
        for slug, name in PROJECTS.items()
    }
    for team, project, role in GRANTS:
        grant_set(teams[team], projects[project], role=role, actor=actor)
    for email, name, role, member_of in PEOPLE:
        membership = user_invite(org, email=email, name=name, role=role, actor=actor)
        membership_update(membership, teams=[teams[slug] for slug in member_of], actor=actor)
    for team, slug, name in AGENTS:
        agent_create(org, team=teams[team], slug=slug, name=name, actor=actor)
    _policies(org, teams, projects, actor, ticketing_token)


def _policies(
    org: Organization,
    teams: dict[str, Team],
    projects: dict[str, Project],
    actor: Actor,
    ticketing_token: str,
) -> None:
    # Stand-ins for SRE: nobody's GitHub or PagerDuty knows them, and the demo calls neither.
    values = {
        "github": secrets.token_urlsafe(24),
        "pagerduty": secrets.token_urlsafe(24),
        "ticketing": ticketing_token,
    }
    credentials = {
        slug: credential_create(
            org,
            slug=slug,
            name=name,
            value=values[slug],
            project=projects[project],
            allowed_hosts=[host],
            allowed_teams=[teams[team]],
            actor=actor,
        )
        for slug, name, project, host, team in CREDENTIALS
    }
    sre = sre_policy(teams["sre"], credentials["github"], credentials["pagerduty"])
    policy_save(org, document=sre, actor=actor)
    support = support_policy(teams["support-operations"], credentials["ticketing"])
    policy_save(org, document=support, actor=actor)


def sre_policy(team: Team, github: Credential, pagerduty: Credential) -> PolicyDocument:
    """What the SRE team's agents may reach."""
    hosts = ["*.eks.amazonaws.com", "*.amazonaws.com", "api.github.com", "api.pagerduty.com"]
    return PolicyDocument(
        name="SRE",
        kind="team",
        team=team,
        description="Clusters, AWS APIs, GitHub and PagerDuty; nothing else.",
        domains=(
            *(DomainRuleDoc(pattern=host, action="allow") for host in hosts),
            DomainRuleDoc(pattern="*", action="deny"),
        ),
        tools=tuple(ToolRuleDoc(pattern=name, action="allow") for name in TOOLS),
        bindings=(
            BindingDoc(credential=github, pattern="api.github.com", injection="bearer"),
            BindingDoc(
                credential=pagerduty,
                pattern="api.pagerduty.com",
                injection="header",
                header="Authorization",
                template="Token token={value}",
            ),
        ),
    )


def support_policy(team: Team, ticketing: Credential) -> PolicyDocument:
    """Support may read tickets and comment on them, and delete nothing."""
    return PolicyDocument(
        name="Support Operations",
        kind="team",
        team=team,
        description="Read tickets and comment on them.",
        domains=(
            DomainRuleDoc(
                pattern=HOST,
                action="allow",
                http=(
                    HttpRuleDoc(method="GET", path="/api/v2/tickets/**", action="allow"),
                    HttpRuleDoc(method="POST", path="/api/v2/tickets/*/comments", action="allow"),
                ),
            ),
            DomainRuleDoc(pattern="*", action="deny"),
        ),
        tools=tuple(ToolRuleDoc(pattern=name, action="allow") for name in TOOLS),
        bindings=(BindingDoc(credential=ticketing, pattern=HOST, injection="bearer"),),
    )
